"""The sitting on a GPU: every part runs dry on a CPU, and a page is left whatever happens to a part."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest
import torch

#: What stands in for `part.py`: it finds a table, then ends in the way that its name says.
SCRIPT = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

name, tables = sys.argv[1], Path(sys.argv[3])
with open(tables.parent / "calls.txt", "a") as calls:
    calls.write(name + chr(10))
decode = sys.argv[sys.argv.index("--decode") + 1]
cells = ["found by " + name, os.environ.get("TRICK", "no trick") + ", decode " + decode]
lines = [{"cells": cells, "holds": name != "wrong"}]
table = {"title": "Of " + name, "header": ["what", "how"], "lines": lines, "text": ""}
tables.write_text(json.dumps([table]))
if name.startswith("failing"):
    sys.exit("the device | is gone")
if name == "crashing":
    os.kill(os.getpid(), signal.SIGKILL)
if name == "slow":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tables.parent / "child.txt").write_text(str(child.pid))
    time.sleep(600)
if name == "stopping":
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
if name == "patient":
    end = time.monotonic() + 60
    while "found by patient" not in (tables.parent / "page.md").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
"""
#: Parts that take more than some seconds, or have tests of their own: `benchmarks/dump.py` and `step.py`.
NOT_REHEARSED = {"contract", "image without virtual memory", "image decoded on the cpu", "dump table", "step table"}
REHEARSED = (
    "versions",
    "image",
    "kernels",
    "triton",
    "decoding",
    "jobs",
    "waiting",
    "busy",
    "speed",
    "fp16",
    "nccl",
    "memory",
)


@pytest.fixture
def gpu(project_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports a module of benchmarks/gpu/ by its name."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    monkeypatch.delenv("KDCACHE_GPU_PACK", raising=False)
    return lambda name: importlib.import_module(f"gpu.{name}")


@pytest.fixture
def sit(gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a sitting whose parts are of SCRIPT; returns whether everything holds, and the page."""
    sitting, plan = gpu("sitting"), gpu("plan")
    script = tmp_path / "part.py"
    script.write_text(SCRIPT, encoding="utf-8")
    monkeypatch.setattr(sitting, "_SCRIPT", script)

    def run(*parts: object, arguments: tuple[str, ...] = ()) -> tuple[bool, str]:
        made = [plan.Part(part, 60, "", "") if isinstance(part, str) else part for part in parts]
        monkeypatch.setattr(sitting, "PARTS", made)
        options = ["--device", "cpu", "--patience", "1", "--out", str(tmp_path / "out"), *arguments]
        one = sitting.Sitting(sitting.parsed(options))
        with sitting.stopping():
            holds = one.run()
        return holds, one.page.read_text(encoding="utf-8")

    return run


@pytest.mark.parametrize("name", REHEARSED)
def test_a_part_runs_dry_on_a_cpu(gpu, name: str, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    gpu("part").main([name, "--tables", str(found), "--device", "cpu", "--tiny"])
    tables = gpu("page").read_tables(found)
    assert tables
    assert all(table.lines for table in tables)
    assert [failure for table in tables for failure in table.failures] == []


def test_every_part_has_its_function_and_is_rehearsed_or_named_above(gpu) -> None:
    parts = gpu("plan").PARTS
    assert {part.name for part in parts} == {*REHEARSED, *NOT_REHEARSED}
    for part in parts:
        assert callable(getattr(gpu(f"parts.{part.module}"), part.function))


def test_a_sitting_starts_the_parts_that_were_asked_for_and_prints_its_page(project_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu/sitting.py", "--device", "cpu", "--tiny", "--only", "versions"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=project_root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert done.stdout.endswith(page + "\n")
    assert "# A rehearsal of the sitting, without a GPU" in page
    assert f"| torch | {torch.__version__} | yes |" in page
    assert "Everything holds." in page
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.txt", "page.md", "results.json"]


def test_a_part_that_fails_or_crashes_leaves_what_it_had_found_and_the_others_run(sit) -> None:
    holds, page = sit("failing", "crashing", "wrong", "good")
    assert not holds
    for row in ("| failing | failed |", "| crashing | failed |", "| wrong | done |", "| good | done |"):
        assert row in page
    assert "* failing: it ended with 1. the device / is gone\n" in page
    assert "* crashing: it was ended by SIGKILL." in page
    assert "* Of wrong: found by wrong\n" in page
    for name in ("failing", "crashing", "wrong", "good"):
        assert f"found by {name}" in page
    assert "3 things do not hold:" in page


def test_a_part_that_takes_too_long_is_ended_with_its_children(sit, gpu, tmp_path: Path) -> None:
    holds, page = sit(gpu("plan").Part("slow", 1.5, "", ""), "good")
    assert not holds
    assert "| slow | out of time |" in page
    assert "* slow: it did not end within 2 s\n" in page
    assert "found by slow" in page
    assert "| good | done |" in page
    assert not is_alive(int((tmp_path / "out" / "child.txt").read_text(encoding="utf-8")))


def is_alive(process: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_page_shows_what_a_part_has_found_while_it_runs(sit, gpu) -> None:
    with patch.object(gpu("process"), "_INTERVAL", 0.05):
        holds, _ = sit("patient")
    assert holds


def test_a_signal_ends_the_sitting_with_its_page(sit) -> None:
    holds, page = sit("good", "stopping", "never")
    assert not holds
    assert "| good | done |" in page
    assert "| stopping | stopped |" in page
    assert "* stopping: SIGTERM ended the sitting\n" in page
    assert "| never | not run |" in page
    assert "found by stopping" in page


def test_nothing_runs_once_the_time_has_ended(sit) -> None:
    holds, page = sit("good", arguments=("--limit", "1"))
    assert not holds
    assert "* good: the time of the sitting had ended\n" in page


def test_what_holds_instead_of_a_part_that_fails_is_how_the_later_parts_run(sit, gpu) -> None:
    part = gpu("plan").Part
    tricks = (
        part("failing again", 60, "", "", {"TRICK": "one"}, only_after="failing"),
        part("held", 60, "", "", {"TRICK": "two"}, "cpu", only_after="failing again"),
    )
    _, page = sit("failing", *tricks, "later")
    assert "| found by failing again | one, decode auto | yes |" in page
    assert "| found by held | two, decode cpu | yes |" in page
    assert "| found by later | two, decode cpu | yes |" in page
    holds, page = sit("good", part("other", 60, "", "", {"TRICK": "one"}, "cpu", only_after="good"), "later")
    assert holds
    assert "other" not in page
    assert "| found by later | no trick, decode auto | yes |" in page


def test_a_sitting_that_is_resumed_runs_what_is_not_done(sit, tmp_path: Path) -> None:
    sit("good", "failing")
    _, page = sit("good", "failing", "later", arguments=("--resume",))
    calls = (tmp_path / "out" / "calls.txt").read_text(encoding="utf-8").split()
    assert calls == ["good", "failing", "failing", "later"]
    assert "found by good" in page


def test_packages_that_are_not_there_end_the_sitting_with_a_page(sit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_GPU_PACK", "/nowhere/at/all")
    holds, page = sit("good")
    assert not holds
    assert "* packages: KDCACHE_GPU_PACK names /nowhere/at/all, which is no folder\n" in page
    assert "| good | not run |" in page


def test_without_a_gpu_a_part_fails_and_says_so(gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = tmp_path / "found.json"
    gpu("part").main(["versions", "--tables", str(found), "--device", "cuda"])
    (table,) = gpu("page").read_tables(found)
    assert "Versions: CUDA of PyTorch" in table.failures
    assert "finds no GPU" in table.markdown()
    with pytest.raises(Exception, match=r"(?i)cuda|gpu"):
        gpu("part").main(["image", "--tables", str(found), "--device", "cuda"])


def test_a_difference_between_device_and_cpu_is_found(gpu) -> None:
    kernels: ModuleType = gpu("parts.kernels")

    def off_by_one() -> None:
        kernels.same(torch.tensor([1, 2, 3, 5]), torch.tensor([1, 2, 3, 4]))

    line = kernels.held("something", off_by_one)
    assert line.holds is False
    assert "25.00% of the values differ, by up to 1" in line.cells[1]


def test_the_share_of_time_counts_what_overlaps_once(gpu) -> None:
    assert gpu("parts.steps").covered([(4, 5), (0, 2), (1, 3), (1, 2)]) == 4


def test_the_parts_find_this_checkout_before_the_packages(gpu, tmp_path: Path, project_root: Path) -> None:
    folders = gpu("sitting").variables_with(tmp_path)["PYTHONPATH"].split(os.pathsep)
    assert folders.index(str(project_root)) < folders.index(str(tmp_path))
