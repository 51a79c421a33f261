"""--json prints valid JSON alone on stdout; --quiet and --verbose choose the messages on stderr, before or behind."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from kdcache.dumping.report import DumpReport
from kdcache.errors import CacheError
from kdcache.evaluation.scoring import Evaluation
from kdcache.inspection.copy import CopyReport
from kdcache.training.train import TrainReport
from kdcache_cli.main import app

DUMPED = DumpReport("cache", "t", 100, 3, 2, 2, 21.5, float("inf"), float("nan"), dry_run=False)
COPIED = CopyReport("a", "b", ("t",), 3, 4, 1000, problems=("A block is damaged.",), damaged=True)


def trained(folder: Path) -> TrainReport:
    score = Evaluation("student", 10, 0.5, 0.75, 1.25, correct=np.ones(10, bool), num_classes=10)
    return TrainReport(folder, 3, 30, 0.5, 100.0, score)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jobs that tell what jobs tell, and return a report."""

    def telling(report: Any) -> Callable[[Any, Any], Any]:
        def job(options: Any, progress: Any, **_: Any) -> Any:
            with progress.task("Working", total=2) as task:
                task.advance(2)
            progress.say("a notice")
            progress.warn("a warning")
            logging.getLogger("kdcache.io").debug("a detail")
            return report

        return job

    monkeypatch.setattr("kdcache.jobs.run_dump", telling(DUMPED))
    monkeypatch.setattr("kdcache.jobs.run_train", telling(trained(tmp_path)))
    monkeypatch.setattr("kdcache.inspection.copy.copy_cache", telling(COPIED))


def run(arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, arguments.split(), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def json_of(arguments: str, code: int = 0) -> Any:
    """What a command prints, which has to be JSON without NaN and infinities."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    result = run(arguments, code)
    return json.loads(result.stdout, parse_constant=refuse)


@pytest.mark.usefixtures("jobs")
def test_reports_of_jobs_are_json_alone_on_stdout() -> None:
    dumped = json_of("dump-logits --teacher t --json")
    assert (dumped["bytes_per_view"], dumped["images_per_s"], dumped["top1"]) == (21.5, None, None)
    of_training = json_of("train --student s --json")
    assert (of_training["epochs"], of_training["evaluation"]["top1"], of_training["dry_run"]) == (3, 0.5, False)
    copied = json_of("cache copy a b --json", code=3)
    assert (copied["whole"], copied["problems"]) == (False, ["A block is damaged."])


def test_lists_are_json() -> None:
    recipes = json_of("recipes list --json")
    assert [recipe["name"] for recipe in recipes if recipe["default"]] == ["a2"]
    shown = json_of("recipes show a2 --json")
    assert shown["settings"]["schedule"]["epochs"] == 300
    assert {row["setting"]: (row["first"], row["second"]) for row in json_of("recipes diff a2 a1 --json")}[
        "schedule.epochs"
    ] == (300, 600)
    policies = {policy["name"]: policy for policy in json_of("policies --json")}
    assert policies["a2"]["fields"] == json_of("policies a2 --json")["fields"]


def test_an_index_and_what_a_check_finds_are_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcache.errors import BadSamplesError
    from kdcache.inspection.index import IndexReport

    report = IndexReport(10, 2, 1, True, 1, 0, "f" * 64, tmp_path, ("a.tar: x.jpg is bad",))
    monkeypatch.setattr("kdcache.inspection.index.index", lambda options, progress: report)
    found = json_of("index data --check --drop-bad --json")
    assert (found["samples"], found["path"], found["found"]["left_out"]) == (10, str(tmp_path), ["a.tar: x.jpg is bad"])

    def refuse(options: Any, progress: Any) -> None:
        raise BadSamplesError("1 bad sample.", ["a.tar: x.jpg is bad"])

    monkeypatch.setattr("kdcache.inspection.index.index", refuse)
    assert json_of("index data --check --json", code=3) == {"bad": ["a.tar: x.jpg is bad"]}


@pytest.mark.usefixtures("jobs")
@pytest.mark.parametrize("line", ["{} dump-logits --teacher t", "dump-logits --teacher t {}", "{} cache copy a b"])
def test_quiet_and_verbose_stand_before_a_command_or_behind_it(line: str) -> None:
    code = 3 if "copy" in line else 0
    quiet, usual, verbose = (run(line.format(option), code) for option in ("--quiet", "", "--verbose"))
    assert quiet.stderr == "warning: a warning\n"
    assert usual.stderr.splitlines()[-2:] == ["a notice", "warning: a warning"]
    assert usual.stderr.startswith("Working: 0 of 2 images\n")
    assert "a detail" not in usual.stderr
    assert "debug: a detail" in verbose.stderr.splitlines()
    assert verbose.stderr.startswith("debug: kdcache ")
    assert quiet.stdout == usual.stdout == verbose.stdout != ""


@pytest.mark.usefixtures("jobs")
def test_the_level_lasts_as_long_as_the_command() -> None:
    run("train --student s --quiet")
    assert logging.getLogger("kdcache").level == logging.NOTSET
    assert "a notice" in run("train --student s").stderr


@pytest.mark.usefixtures("jobs")
def test_quiet_and_verbose_exclude_each_other() -> None:
    result = run("train --student s --quiet --verbose", code=2)
    assert "give one of them" in result.stderr


@pytest.fixture
def without_a_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(options: Any, progress: Any) -> None:
        raise CacheError("There is no cache at c: check the path.")

    monkeypatch.setattr("kdcache.jobs.run_inspect", refuse)
    return


@pytest.mark.usefixtures("without_a_cache")
def test_verbose_tells_where_an_error_comes_from_and_json_leaves_stdout_empty() -> None:
    usual = run("inspect c --json", code=1)
    assert usual.stdout == ""
    assert usual.stderr == "error: There is no cache at c: check the path.\n"
    told = run("inspect c --json --verbose", code=1)
    assert any(line.startswith("debug: Traceback") for line in told.stderr.splitlines())
    assert told.stderr.endswith(usual.stderr)
