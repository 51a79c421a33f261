"""What a job says when nobody brings a `Progress`: it goes to the logger, and no further by itself."""

import logging

import pytest

from kdcache.runtime.progress import logged, silent


def test_facts_and_warnings_reach_the_logger_escaped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kdcache"), logged.task("Dump", total=2) as task:
        task.advance()
        logged.say("opening a\x1b[31m")
        logged.warn("slow")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", r"opening a\x1b[31m"),
        ("WARNING", "slow"),
    ]


def test_nothing_is_shown_unless_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    logged.warn("slow")
    silent.say("fast")
    assert capsys.readouterr() == ("", "")
