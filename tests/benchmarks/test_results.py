"""The benchmark of distillation from recipe files alone: its commands, going on where it was, and its table."""

import importlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

from support.forked import run_command


@pytest.fixture
def results(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    return importlib.import_module("results")


@pytest.fixture
def page(tmp_path: Path, results: ModuleType) -> Path:
    file = tmp_path / "page.md"
    marks = importlib.import_module("results_page")
    file.write_text(f"# Results\n\n{marks.BEGIN}\nold\n{marks.END}\n\nThe end.\n", encoding="utf-8")
    return file


def score(model: str, top1: float, **beside: float) -> dict[str, object]:
    """A model's part of the report of `kdcache evaluate --json`, as far as it is read."""
    values: dict[str, object] = {"model": model, "samples": 10_000, "top1": top1, "nll": 0.5, "ece": 0.05}
    return {**values, "comparison": beside} if beside else values


def pretend(ran: list[str], stop_at: int | None = None) -> Callable[[Sequence[str], Path], str]:
    """A runner that only notes commands, and answers `evaluate` with a report; it fails at the command of a number."""

    def run(words: Sequence[str], folder: Path) -> str:
        if len(ran) == stop_at:
            raise SystemExit("stopped")
        ran.append(" ".join(words))
        if words[0] != "evaluate":
            return ""
        models = words[1 : words.index("--reference")]
        scores = [score(model, 0.8, agreement=0.9, kl=0.1) for model in models]
        return json.dumps({"scores": [score("runs/teacher", 0.9), *scores]})

    return run


def test_a_rehearsal_trains_all_and_writes_the_table(
    results: ModuleType, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: Sequence[str], folder: Path) -> str:
        done = run_command(words, folder, dict(os.environ))
        assert done.returncode == 0, done.stderr
        return done.stdout

    arguments = ["--out", str(tmp_path / "out"), "--tiny"]
    results.main(arguments, run)
    printed = capsys.readouterr().out
    results.main([*arguments, "--page", str(page)], run)
    written = page.read_text("utf-8")
    for row in ("| teacher, resnet14 |", "| labels alone |", "| KD |", "| DKD |", "| DIST |"):
        assert written.count(row) == 1
    assert "66 training images" in written
    assert "32 test images" in written
    commands = [line for line in printed.splitlines() if line.startswith("kdcache ")]
    # Each is printed when it is run, and once more below the table.
    assert len(commands) == 2 * 9
    assert written.startswith("# Results\n")
    assert written.endswith("\n\nThe end.\n")
    found = results.Findings.from_json(page.with_name("results.json").read_text("utf-8"))
    assert results.block(found) in written
    assert "Not finished" not in written
    ran: list[str] = []
    results.main(arguments, pretend(ran))
    assert ran == []


def test_what_was_stopped_goes_on_at_the_command_that_had_not_ended(results: ModuleType, tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--images", "640", "--epochs", "8", "--seeds", "0", "1"]
    whole: list[str] = []
    results.main(["--out", str(tmp_path / "whole"), *arguments[2:]], pretend(whole))
    assert len(whole) == 4 + 2 * (4 + 1)
    first: list[str] = []
    with pytest.raises(SystemExit, match="stopped"):
        results.main(arguments, pretend(first, stop_at=6))
    then: list[str] = []
    results.main(arguments, pretend(then))
    assert [*first, *then] == whole
    # Other settings are other commands.
    more: list[str] = []
    results.main([*arguments, "--seeds", "1", "2"], pretend(more))
    assert len(more) == 4 + 1


def test_a_page_is_written_of_the_seeds_that_are_scored(
    results: ModuleType, page: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(results, "RECORD", tmp_path / "results.json")
    arguments = ["--out", str(tmp_path / "out"), "--seeds", "0", "1"]
    ran: list[str] = []
    with pytest.raises(SystemExit, match="stopped"):
        results.main(arguments, pretend(ran, stop_at=8))
    with pytest.raises(SystemExit, match="No seed is scored yet"):
        results.main([*arguments, "--page", str(page)], pretend(ran))
    with pytest.raises(SystemExit, match="stopped"):
        results.main(arguments, pretend(ran, stop_at=10))
    results.main([*arguments, "--page", str(page)], pretend(ran))
    assert len(ran) == 10
    assert "**Not finished: seed 1 of 0, 1 not scored yet.**" in page.read_text("utf-8")
    assert "| KD | 80.00 | 80.00 | +0.00 | - |" in page.read_text("utf-8")


def test_a_command_that_fails_ends_the_chain(results: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        results.run_command(["evaluate"], tmp_path, program=["sh", "-c", "exit 3"])
    assert results.run_command(["evaluate"], tmp_path, program=["echo", "{}"]) == "{} evaluate\n"


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(240, [150, 180, 210], 20), (8, [5, 6, 7], 1)])
def test_what_the_recipe_counts_in_epochs_keeps_its_proportion(
    results: ModuleType, epochs: int, steps: list[int], warmup: int
) -> None:
    chain = results.Chain(6000, None, "wrn_16_2", "resnet20", epochs, epochs, (0,))
    for row in results.OBJECTIVES:
        words = chain.student_run(row, 0)
        assert f"schedule.decay_milestones={steps}" in words
        assert (f"objective.warmup_epochs={warmup}" in words) == (row == "DKD")
        assert ("--supervised" in words) == (row == "labels alone")


def findings(results: ModuleType, gains: Sequence[float]):
    students = {
        row: [results.Scored(0.8 + (row == "KD") * gain / 100, 0.5, 0.05, 0.9, 0.1) for gain in gains]
        for row in results.OBJECTIVES
    }
    chain = {"images": 640, "teacher": "t", "student": "s", "epochs": 8, "teacher_epochs": 12}
    return results.Findings(
        chain={**chain, "seeds": list(range(len(gains)))},
        command="python",
        test_images=10_000,
        teacher=results.Scored(0.9, 0.4, 0.02),
        students=students,
        scored_seeds=list(range(len(gains))),
        commands=["kdcache"],
        seconds={"teacher": 12.0},
        versions={"torch": "2"},
        machine="a machine",
    )


def test_differences_are_paired_by_seed_and_have_the_interval_of_students_t(results: ModuleType) -> None:
    text = results.block(findings(results, [1.0, 2.0, 3.0]))
    # 2 -+ 4.303 * 1 / sqrt(3)
    assert (
        "| KD | 81.00 | 82.00 | 83.00 | 82.00 ± 1.00 | +2.00 ± 1.00 | -0.48 to +4.48 | 0.500 ± 0.000 | 5.00 ± 0.00 | "
        "90.00 ± 0.00 | 0.100 ± 0.000 |" in text.splitlines()
    )
    assert "| teacher, t |  |  |  | 90.00 |  |  | 0.400 | 2.00 |  |  |" in text.splitlines()
    assert "| KD | 81.00 | 81.00 | +1.00 | - |" in results.block(findings(results, [1.0]))


def test_findings_are_the_same_after_they_were_written(results: ModuleType) -> None:
    found = findings(results, [1.0, 2.0, 3.0])
    assert results.Findings.from_json(found.to_json()) == found


def test_a_page_without_markers_is_refused(results: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no markers"):
        results.with_block("# Results\n", "table")


def test_the_page_has_the_table_that_its_numbers_give(results: ModuleType, project_root: Path) -> None:
    page = (project_root / "docs" / "results.md").read_text("utf-8")
    found = results.Findings.from_json(results.RECORD.read_text("utf-8"))
    assert results.with_block(page, results.block(found)) == page
