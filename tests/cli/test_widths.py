"""What a person sees on terminals of 80 and 200 columns is as it was looked at: the files in tests/cli/snapshots.

`KDCACHE_SNAPSHOTS=write pytest tests/cli/test_widths.py` writes them again; look at the difference before it is
committed. They depend on the versions of typer and rich, which constraints.txt pins.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from kdcache.evaluation.report import Comparison, Scores, ScoreTable
from kdcache.evaluation.scores import Interval, Reliability
from kdcache.inspection.contents import InspectReport, Pair, TargetSummary, TeacherReport
from kdcache_cli.main import app
from kdcache_cli.widths import fold, table_lines

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTHS = (80, 200)

VIEWS = {"format": 3, "samples": 1_281_167, "block_rows": 8192, "fingerprint": "0123456789abcdef0123"}
TEACHER = {
    "name": "beitv2_b",
    "architecture": "beitv2_base_patch16_224.in1k_ft_in22k_in1k",
    "num_classes": 1000,
    "size": 224,
    "precision": "bf16",
    "batch_size": 128,
    "weights": "fedcba9876543210",
    "targets": {"kind": "topk", "k": 128, "min_prob": 0.0033},
}
CACHE = InspectReport(
    cache="cache",
    view_set=VIEWS,
    policy="random crop of 8 % to 100 % of the area, flipped half of the time, RandAugment of 2 operations, Mixup and "
    "CutMix of pairs; seed 0",
    once_bytes={"metadata": 12_345, "windows": 6_789_012},
    teachers=(
        TeacherReport(
            identity=TEACHER,
            complete=tuple(range(300)),
            missing={300: (5, 6, 7)},
            array_bytes={"classes": 9_000_000, "probs": 7_000_000, "tail": 2_000_000, "records": 300_000},
            stored_targets=1_000_000,
            kl=0.000812,
            provenance=(({"kdcache": "0.1.0", "torch": "2.9.0", "device": "NVIDIA H200", "renderer": "dali"}, 47_100),),
            statistics=TargetSummary(
                100_000,
                300,
                0.612,
                18.4,
                0.973,
                1.234,
                0.0003,
                0.873,
                (Pair((4, 9), ("hammerhead", "great white shark"), 0.0012, 0.098),),
            ),
        ),
    ),
)


def scores(model: str, top1: float, compared: bool) -> Scores:
    bins = np.array([1.0])
    return Scores(
        model=model,
        samples=50_000,
        top1=top1,
        top5=0.951,
        loss=0.8123,
        correct=np.ones(2, bool),
        num_classes=1000,
        data="data/imagenet-val",
        lost=0,
        invalid=0,
        reliability=Reliability(np.array([50_000]), bins, bins),
        aurc=0.0567,
        class_accuracy=bins,
        class_counts=np.array([50_000]),
        comparison=Comparison("beitv2_b", 0.884, 0.3121, Interval(-0.071, -0.074, -0.068)) if compared else None,
    )


SCORES = ScoreTable(
    (scores("beitv2_b", 0.852, False), scores("runs/resnet50-a2-cache-seed0", 0.781, True), scores("b", 0.8, True))
)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command prints on a terminal of a width."""
    monkeypatch.setattr("kdcache.jobs.run_inspect", lambda options, progress: CACHE)
    monkeypatch.setattr("kdcache.jobs.evaluate_table", lambda options, progress: SCORES)

    def show(arguments: str, columns: int) -> str:
        monkeypatch.setattr("kdcache_cli.console.terminal_columns", lambda: columns)
        environment = {"COLUMNS": str(columns), "NO_COLOR": "1", "KDCACHE_DATA": "", "KDCACHE_CACHE": ""}
        result = CliRunner().invoke(app, arguments.split(), terminal_width=columns, env=environment)
        assert result.exit_code == 0, result.output
        return "".join(f"{line.rstrip()}\n" for line in result.stdout.splitlines())

    return show


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("help", "--help"),
        ("dump-logits", "dump-logits --help"),
        ("train", "train --help"),
        ("inspect", "inspect cache"),
        ("evaluate", "evaluate a b --data d"),
        ("policies", "policies"),
    ],
)
def test_a_terminal_shows_what_was_looked_at(
    shown: Callable[..., str], name: str, arguments: str, columns: int
) -> None:
    text = shown(arguments, columns)
    assert max(map(len, text.splitlines())) <= columns
    file = SNAPSHOTS / f"{name}-{columns}.txt"
    if os.environ.get("KDCACHE_SNAPSHOTS") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)


@given(st.lists(WORDS, min_size=1), st.integers(30, 120), st.sampled_from(["", "  ", "  label      "]))
def test_a_folded_line_has_the_words_of_the_line_and_fits(words: list[str], columns: int, start: str) -> None:
    line = start + " ".join(words)
    folded = fold(line, columns)
    assert " ".join(folded).split() == line.split()
    assert all(len(part) <= columns for part in folded)
    assert fold(line, len(line)) == [line]


@given(st.data(), st.integers(40, 120))
def test_a_table_has_every_cell_and_fits(data: st.DataObject, columns: int) -> None:
    count = data.draw(st.integers(1, 6))
    row: Any = st.lists(WORDS, min_size=count, max_size=count)
    header, rows = data.draw(row), data.draw(st.lists(row, min_size=1, max_size=4))
    lines = table_lines(header, rows, columns)
    assert all(len(line) <= columns for line in lines)
    text = "\n".join(lines)
    assert all(cell in text for cells in rows for cell in cells)
    assert len(table_lines(header, rows, None)) == 1 + len(rows)
