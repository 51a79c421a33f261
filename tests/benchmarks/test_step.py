"""The benchmark of the step is rehearsed; a step from a cache does no more on the host than it must."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def step(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    threads = torch.get_num_threads()
    yield importlib.import_module("step")
    torch.set_num_threads(threads)


@pytest.fixture
def host_work(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))
    return importlib.import_module("steps.host_work")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_a_rehearsal_trains_every_arm_on_the_same_views(
    step: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["step.py", "--tiny", "--device", "cpu", "--renderer", "pillow", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert step.main() == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__}" in said
    found = [cells(line) for line in said.splitlines() if line.startswith("| test_vit")]
    assert [row[1] for row in found] == ["supervised", "topk", "embedding, uint8", "live teacher"]
    assert found[0][5:] == ["", "", ""]
    assert all(row[5] and row[7] for row in found[1:])
    assert found[-1][6] == ""
    assert said.endswith("A rehearsal: these figures say nothing.\n")


def test_ratios_are_of_one_run_and_missed_goals_are_named(step: ModuleType) -> None:
    def arm(*rates: float, memory: float = 100.0) -> list[object]:
        return [step.Figures(rate, 0.0, memory) for rate in rates]

    runs = step.Runs({"supervised": arm(100, 80), "topk": arm(99, 78), "live teacher": arm(50, 32)}, [100.0, 53.0])
    assert runs.limits() == pytest.approx([2.0, 1 + 80 / 53])
    assert runs.to_supervised("topk") == pytest.approx([0.99, 0.975])
    assert runs.to_limit("topk")[0] == pytest.approx(0.99)
    assert step.missed("t", runs)[0].startswith("The supervised runs beside t differ by 22%")
    slow = step.Runs({"supervised": arm(100), "topk": arm(90, memory=103), "live teacher": arm(50)}, [100.0])
    assert [reason.partition(":")[2].split(",")[0] for reason in step.missed("t", slow)] == [
        " 0.900 of supervised",
        " 0.900 of the limit",
        " memory is 1.030 of supervised",
    ]


def test_a_step_asks_the_device_for_nothing_whatever_its_targets(host_work: ModuleType) -> None:
    """The two readings are Adam's own, of its counters, which lie on the CPU: a weight and a bias."""
    codecs = host_work.codecs(10)
    for codec in (None, *codecs.values()):
        assert host_work.host_work(codec, rows=8, classes=10, runs=1).waiting == 2


def test_targets_add_few_operations_to_a_supervised_step(host_work: ModuleType) -> None:
    """The optimiser's own operations depend on the version of torch; they are in both counts, and so cancel out."""
    supervised = host_work.host_work(None, rows=8, classes=10, runs=1)
    for name, codec in host_work.codecs(10).items():
        work = host_work.host_work(codec, rows=8, classes=10, runs=1)
        labelling, added = LIMITS[name]
        assert work.labelling <= labelling, name
        assert work.operations - supervised.operations <= added, name


#: Operations of torch that give targets their labels, and those by which a step is longer, as counted and 2 more.
LIMITS = {
    "topk": (30, 60),
    "full, float32": (4, 25),
    "full, uint8": (4, 30),
    "embedding, uint8": (4, 35),
    "embedding, float16": (4, 32),
}
