"""What runs and dumps cost in time and energy, and what runs saved against a run with its teacher live."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import UsageError, printable, reason
from kdcache.io.json_format import parse_json
from kdcache.io.reading import read_text
from kdcache.report.parts import Table
from kdcache.report.runs import RunRecord, text_of
from kdcache.runtime.formatting import format_count, format_duration, format_energy
from kdcache.training.metrics import STEP

_HEADER = (
    "run",
    "seen",
    "time",
    "of it waited for data",
    "images/s",
    "energy",
    "times the live teacher's rate",
    "against the live teacher",
)


@dataclass(frozen=True)
class Cost:
    """What the steps of a run cost, evaluation and saving left out, or what a dump cost.

    Attributes:
        images: number of images that the model has seen.
        seconds: time that it took.
        waited: the part of it in which the training waited for data; None where the run does not tell.
        joules: energy in that time; None where it was not measured.
    """

    images: float
    seconds: float
    waited: float | None = None
    joules: float | None = None

    @property
    def images_per_s(self) -> float:
        """Images per second over the whole time."""
        return self.images / self.seconds

    def cells(self) -> tuple[str, ...]:
        """Return what it cost as cells of the table."""
        return (
            format_count(round(self.images), "image"),
            format_duration(self.seconds),
            "-" if self.waited is None else format_duration(self.waited),
            f"{self.images_per_s:,.0f}",
            "-" if self.joules is None else format_energy(self.joules),
        )


@dataclass(frozen=True)
class DumpRecord:
    """What the report of a dump tells: `kdcache dump-logits --json`.

    Attributes:
        name: its teacher, printable.
        cost: what the targets that it wrote cost.
    """

    name: str
    cost: Cost


def cost_of_run(run: RunRecord) -> Cost | None:
    """Return what the steps of a run cost; None where its folder does not tell."""
    batch_size = run.config.get("batch_size")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        return None
    images, seconds, waited, step = 0.0, 0.0, 0.0, 0.0
    counted = []
    is_wait_known = any("wait_share" in row for row in run.rows)
    for row in run.rows:
        rate = row.get("images_per_s", 0.0)
        taken, step = (row[STEP] - step) * batch_size, row[STEP]
        if rate > 0 and taken > 0:
            images += taken
            seconds += taken / rate
            waited += taken / rate * min(1.0, max(0.0, row.get("wait_share", 0.0)))
            counted.append(row.get("energy_joules"))
    if seconds <= 0 or not math.isfinite(images / seconds):
        return None
    measured = [joules for joules in counted if joules is not None]
    # An epoch without its energy, as of a run that was resumed elsewhere, leaves the sum unknown.
    joules = math.fsum(measured) if len(measured) == len(counted) else None
    return Cost(images, seconds, waited if is_wait_known else None, joules)


def read_dumps(files: Sequence[Path]) -> list[DumpRecord]:
    """Read the reports that `kdcache dump-logits --json` printed into files.

    Raises:
        UsageError: a file cannot be read, or is not the report of a dump that wrote targets.
    """
    return [_read_dump(file) for file in files]


def _read_dump(file: Path) -> DumpRecord:
    remedy = "give a file into which `kdcache dump-logits --json` has printed"
    try:
        found = parse_json(read_text(file))
    except (OSError, ValueError) as error:
        raise UsageError(f"--dump {printable(str(file))} cannot be read ({reason(error)}): {remedy}.") from error
    rows, seconds = _number(found, "rows"), _number(found, "seconds")
    if not rows or not seconds:
        raise UsageError(
            f"--dump {printable(str(file))} does not tell how many targets a dump wrote in what time, as of a dry run "
            f"or where no block was missing: {remedy}, or leave it out."
        )
    return DumpRecord(text_of(found.get("teacher")), Cost(rows, seconds, None, _number(found, "joules")))


def _number(values: Any, name: str) -> float | None:
    value = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e18:
        return None
    return float(value)


def cost_table(runs: Sequence[RunRecord], dumps: Sequence[DumpRecord] = ()) -> Table:
    """Return what runs and dumps cost, and what runs saved against one of the same student with its teacher live."""
    live = {run.student: cost for run in reversed(runs) if run.is_live and (cost := cost_of_run(run)) is not None}
    rows = [(f"dump of {dump.name}", *dump.cost.cells(), "-", "-") for dump in dumps]
    costs, saved = [dump.cost for dump in dumps], []
    for run in runs:
        cost = cost_of_run(run)
        if cost is None:
            rows.append((run.name, *["-"] * (len(_HEADER) - 1)))
            continue
        costs.append(cost)
        beside = None if run.is_live else live.get(run.student)
        if beside is None:
            rows.append((run.name, *cost.cells(), "-", "is the live teacher" if run.is_live else "-"))
            continue
        factor = cost.images_per_s / beside.images_per_s
        seconds = cost.images / beside.images_per_s - cost.seconds
        saved.append(seconds)
        difference = f"{format_duration(abs(seconds))} {'saved' if seconds >= 0 else 'more'}"
        rows.append((run.name, *cost.cells(), f"{factor:.2f}", difference))
    return Table("What the runs cost", _HEADER, tuple(rows), tuple(_notes(dumps, costs, saved, bool(live))))


def _notes(dumps: Sequence[DumpRecord], costs: Sequence[Cost], saved: Sequence[float], has_live: bool) -> list[str]:
    notes = [
        "Times are those of the optimiser steps, as metrics.csv tells them; evaluation and saving are left out.",
    ]
    if not dumps:
        notes.append(
            "What the dump cost is not known here: a block of a cache is the same bytes whenever it is made, so the "
            "cache holds no times. kdcache dump-logits with --json > dump.json prints them, and --dump dump.json shows "
            "them."
        )
    elif saved and sum(saved) > 0:
        spent = sum(dump.cost.seconds for dump in dumps)
        notes.append(
            f"The dump took {format_duration(spent)}, and the runs from the cache saved {format_duration(sum(saved))} "
            f"together: {sum(saved) / spent:.2g} times as much."
        )
    if any(cost.joules is None for cost in costs):
        notes.append(
            "Energy is known where the counters can be read: of NVIDIA GPUs since Volta through NVML, of processors "
            "(RAPL) mostly by root alone."
        )
    if any(cost.joules is not None for cost in costs):
        notes.append(
            "Energy is that of the GPUs of the job and of the whole processors of its machines, whatever else ran on "
            "them; memory, fans and losses of the power supply are not in it."
        )
    if not has_live:
        notes.append(
            "None of these runs had its teacher live, so there is nothing to compare with. A short training with "
            "--online-teacher, given as one more run, fills the last two columns."
        )
    return notes
