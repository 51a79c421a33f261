"""What the library logs is shown on stderr, and a bad network does not fill the screen."""

import logging
import os
from functools import partial

import pytest

from kdcache.runtime.progress import silent
from kdcache.runtime.workers import in_processes
from kdcache_cli.log_lines import SHOWN, log_shown


def test_the_first_few_retries_are_shown_and_all_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    store = logging.getLogger("kdcache.io.object_store")
    with log_shown():
        for number in range(2000):
            store.warning("Reading %s failed at try %d", "s3://bucket/a", number)
        logging.getLogger("kdcache").warning("something else")
        logging.getLogger("kdcache").info("nothing for a person")
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "warning: Reading s3://bucket/a failed at try 0"
    assert lines[SHOWN - 1].endswith("failed at try 2; further ones are only counted")
    assert lines[SHOWN] == "warning: something else"
    assert lines[SHOWN + 1 :] == [
        "warning: 2,000 requests to the object store failed or returned wrong data, and were retried; the first 3 are "
        "shown above"
    ]
    store.warning("afterwards")
    assert capsys.readouterr().err == ""


def test_what_a_server_returns_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with log_shown():
        logging.getLogger("kdcache.io.object_store").warning("It answered %s", "\x1b[2J\u202eno\nerror: not so")
    assert capsys.readouterr().err == "warning: It answered \\x1b[2J\\u202eno\\nerror: not so\n"


def test_few_retries_need_no_count(capsys: pytest.CaptureFixture[str]) -> None:
    def warn_and_fail() -> None:
        with log_shown():
            logging.getLogger("kdcache.io.object_store").warning("one")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        warn_and_fail()
    assert capsys.readouterr().err == "warning: one\n"


def warn(number: int, parent: int) -> int:
    assert os.getpid() != parent
    logging.getLogger("kdcache.io.object_store").warning("item %d", number)
    return number


def test_what_other_processes_log_is_told_by_this_one(caplog: pytest.LogCaptureFixture) -> None:
    found = list(in_processes(partial(warn, parent=os.getpid()), [1, 2, 3], 2, "counting", silent))
    assert found == [1, 2, 3]
    assert [record.getMessage() for record in caplog.records] == ["item 1", "item 2", "item 3"]
    assert {record.name for record in caplog.records} == {"kdcache.io.object_store"}
