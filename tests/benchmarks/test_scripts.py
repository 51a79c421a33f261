"""The benchmark scripts run, and refuse what they cannot measure."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def script(project_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Imports a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(project_root / "benchmarks"))

    def load(name: str, *arguments: str) -> ModuleType:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        return importlib.import_module(name)

    return load


def test_the_loader_benchmark_refuses_views_that_it_cannot_measure(script, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        script("loader", "--views", "1024", "--workers", "2").main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--views 1024 is 8 batches of 128, of which 8 may have been made before the clock starts" in said
    assert "give at least --views 4096" in said
    with pytest.raises(SystemExit):
        script("loader", "--views", "4096", "--workers", "16").main()
    assert "is 32 batches of 128, of which 33 may" in capsys.readouterr().err


def test_the_loader_benchmark_measures_what_comes_behind_the_batches_made_ahead(script) -> None:
    loader = script("loader")
    taken = []

    def batches():
        for number in range(100):
            taken.append(number)
            yield torch.zeros(loader.BATCH, 3, loader.SIZE, loader.SIZE)

    wall, cpu = loader.measure(batches(), 3, 5)
    assert len(taken) == 8
    assert wall > 0
    assert cpu > 0
    with pytest.raises(SystemExit, match="fewer batches"):
        loader.measure(iter(()), 3, 5)


def test_the_loader_benchmark_says_how_many_batches_it_measures(
    script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = script("loader", "--images", "128", "--runs", "1", "--workers", "2")
    monkeypatch.setattr(loader, "HEIGHT", 6)
    monkeypatch.setattr(loader, "WIDTH", 8)
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "100 50\n")

    monkeypatch.setattr(loader.subprocess, "run", run)
    loader.main()
    said = capsys.readouterr().out
    assert "28 batches of 128 measured a run, behind 8" in said
    assert len(commands) == len(loader.CONTESTANTS)
    same = " | ".join(["1.00 (1.00 to 1.00)"] * 4)
    assert said.count(f"| 100 | 100 to 100 | 50 | {same} |") == len(commands)


def test_ratios_of_loaders_are_of_one_run_and_to_the_faster_of_timms_two(script) -> None:
    loader = script("loader")
    results = {"kdcache-dali": [(3, 8), (4, 8)], "timm-pair": [(1, 9), (1, 9)], "timm-batch": [(2, 4), (4, 2)]}
    ours, slower, faster = list(loader.table(results))[2:]
    assert ours.endswith("| 1.25 (1.00 to 1.50) | 3.00 (2.00 to 4.00) |  |  |")
    assert slower.endswith("| 0.38 (0.25 to 0.50) | 3.38 (2.25 to 4.50) |  |  |")
    assert "1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00)" in faster


@pytest.mark.parametrize("crops", [False, True])
@pytest.mark.parametrize("name", ["kdcache-pillow", "timm-pair", "webdataset", "torchvision", "dali-reader"])
def test_every_loader_makes_normalised_batches_of_other_views_each_epoch(
    script, name: str, crops: bool, tmp_path: Path
) -> None:
    loader = script("loader")
    loader.write_photographs(tmp_path / "tree", 8)
    loader.import_folder(tmp_path / "tree", tmp_path / "shards")
    augmented = (None, 0.0, 0.0) if crops else (loader.RAND_AUGMENT, loader.MIXUP, loader.CUTMIX)
    batches = loader.batches_of(name, loader.Settings(tmp_path, 32, 4, 1, loader.CLASSES, *augmented))
    taken = [next(batches).clone() for _ in range(5)]
    for batch in taken:
        assert (batch.shape, batch.dtype) == ((4, 3, 32, 32), torch.float32)
        assert -2.2 < batch.min() < batch.max() < 2.7
    assert len({batch.double().sum().item() for batch in taken}) == len(taken)
    batches.close()


def test_the_pixels_table_has_a_row_for_each_filter(script, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from support.images import encode, photograph

    (tmp_path / "photo.jpg").write_bytes(encode(photograph("coffee"), "JPEG"))
    (tmp_path / "notes.txt").write_text("no image")
    script("pixels", str(tmp_path), "--crops", "2", "--size", "64").main()
    _, rule, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[1:3] for row in rows] == [["bilinear", "2"], ["bicubic", "2"]]
    for row in rows:
        assert row.count("|") == rule.count("|")
        assert 0 < float(row.split(" | ")[3]) < 0.3
        assert "photo.jpg" in row


def test_the_pixels_table_has_a_row_for_each_policy(script, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from support.images import encode, photograph

    (tmp_path / "photo.jpg").write_bytes(encode(photograph("coffee"), "JPEG"))
    script("pixels", str(tmp_path), "--policy", "c", "--policy", "cifar-autoaugment", "--views", "6").main()
    _, rule, *rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[1:3] for row in rows] == [["c", "6"], ["cifar-autoaugment", "6"]]
    for row in rows:
        assert row.count("|") == rule.count("|")
        assert 0 <= float(row.split(" | ")[3]) < 0.25


def test_a_view_of_centre_has_the_targets_of_timms_own_evaluation(script, tmp_path: Path) -> None:
    """Real weights and photographs; as `centre` was before, it is far off."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in script("centre").table(8, tmp_path)]
    assert [row[:3] for row in rows] == [
        ["centre", "dali", "8"],
        ["centre", "pillow", "8"],
        ["cut first", "pillow", "8"],
    ]
    for _, _, _, same, _, largest in rows[:2]:
        assert same == "100.0%"
        assert float(largest) < 1e-5  # the pixels are equal; rows of another batch differ in their last bits
    assert float(rows[2][5]) > 1e-3
