"""The benchmark of the dump is rehearsed, and refuses what shows nothing."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def script(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module of a name of its own: `dump` is a name that others have, too."""
    spec = importlib.util.spec_from_file_location("benchmark_of_dump", project_root / "benchmarks" / "dump.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_of_dump", module)
    spec.loader.exec_module(module)
    return module


def test_a_rehearsal_measures_two_teachers_in_one_run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["dump.py", "--tiny", "--device", "cpu", "--renderer", "pillow"])
    assert script.main() == 0
    torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert f"torch {torch.__version__}" in said
    assert "32 pixels, fp32, batches of 8, 32 images a run, 1 run; policy crop, renderer pillow, targets topk" in said
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("| test")]
    assert [row[0] for row in rows] == ["test_resnet", "test_vit"]
    for row in rows:
        assert all(float(figure.rstrip("%").replace(",", "")) >= 0 for figure in (*row[1:5], row[6]))
        low, high = map(float, row[5].split(" to "))
        assert 0 < low <= float(row[4]) <= high
    assert said.endswith("A rehearsal: these figures say nothing.\n")


def test_ratios_are_of_one_run_and_the_limit_is_what_views_leave(script: ModuleType) -> None:
    figures = script.Figures(900.0, [100.0, 104.0, 96.0], [90.0, 104.0, 48.0])
    assert figures.ratios == [0.9, 1.0, 0.5]
    assert figures.spread == pytest.approx(0.08)
    assert figures.limit(CPU) == pytest.approx(0.9)
    assert figures.limit(GPU) == 1.0
    assert script.Figures(50.0, [100.0], [50.0]).limit(GPU) == 0.5


def test_what_shows_nothing_is_refused(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    sound = script.Figures(10_000.0, [100.0, 101.0], [98.0, 99.0])
    assert script.refusals({"sound": sound}, CPU) == []
    light, busy = script.Figures(500.0, [100.0], [80.0]), script.Figures(10_000.0, [100.0, 80.0], [98.0, 79.0])
    first, second = script.refusals({"sound": sound, "light": light, "busy": busy}, CPU)
    assert first.startswith("light is not the bottleneck: making views limits the ratio to 0.83. Give a larger --size")
    assert second.startswith("The bare passes of busy differ by 22%")
    for samples in ("100", "496"):
        with pytest.raises(SystemExit) as ended:
            script.parsed(["--device", "cpu", "--samples", samples])
        assert ended.value.code == 2
        assert "give 512 or another multiple" in capsys.readouterr().err
