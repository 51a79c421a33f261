"""What the folder of a run tells: its settings, its numbers, and what it cost."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from kdcache.errors import RunError, UsageError, printable, printable_excerpt, reason
from kdcache.io.json_format import parse_json
from kdcache.io.yaml_format import parse_yaml
from kdcache.report.palette import MOST_SERIES
from kdcache.report.parts import Table
from kdcache.runtime.formatting import format_count, format_duration
from kdcache.training.files import CONFIG, IDENTITY, read_values
from kdcache.training.metrics import STEP, read_metrics
from kdcache.training.settings import differences

#: Settings that are shown, and characters of a value.
MOST_SETTINGS, LONGEST = 400, 160


@dataclass(frozen=True)
class RunRecord:
    """What a run folder tells.

    Attributes:
        name: path as it was given, printable.
        config: settings, as YAML values.
        identity: what its results depend on beside them, as JSON values; empty where it cannot be read.
        rows: rows of metrics.csv with an epoch, in ascending order; only finite numbers.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    rows: tuple[dict[str, float], ...]

    @property
    def student(self) -> str:
        """The name of the student."""
        return text_of(_at(self.config, "student", "name"))

    @property
    def is_live(self) -> bool:
        """Whether the teacher ran beside the student."""
        return _at(self.identity, "teacher", "live") is True

    @property
    def teacher(self) -> str:
        """What the student learned from, in a phrase."""
        teacher = self.identity.get("teacher")
        if not self.identity:
            return "not known"
        if not isinstance(teacher, Mapping):
            return "labels alone" if teacher is None else "a mixture of teachers"
        name = teacher.get("name")
        if name is None:
            return "a mixture of teachers"
        return f"{text_of(name)}, {'live' if self.is_live else 'from the cache'}"

    @property
    def has_weights(self) -> bool:
        """Whether the run has exported weights."""
        return (self.folder / "export" / "model.safetensors").is_file()

    @property
    def is_done(self) -> bool:
        """Whether the last epoch of the run's settings has its row."""
        epochs = _at(self.config, "schedule", "epochs")
        return isinstance(epochs, int) and bool(self.rows) and self.rows[-1]["epoch"] >= epochs

    def values(self, column: str) -> dict[float, float]:
        """Return the values of a column by epoch; empty where the run has none."""
        return {row["epoch"]: row[column] for row in self.rows if column in row}

    def cost(self) -> "Cost | None":
        """Return what the steps of the run cost; None where its folder does not tell."""
        batch_size = self.config.get("batch_size")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            return None
        images, seconds, waited, step = 0.0, 0.0, 0.0, 0.0
        is_wait_known = any("wait_share" in row for row in self.rows)
        for row in self.rows:
            rate = row.get("images_per_s", 0.0)
            taken, step = (row[STEP] - step) * batch_size, row[STEP]
            if rate > 0 and taken > 0:
                images += taken
                seconds += taken / rate
                waited += taken / rate * min(1.0, max(0.0, row.get("wait_share", 0.0)))
        if seconds <= 0 or not math.isfinite(images / seconds):
            return None
        return Cost(images, seconds, waited if is_wait_known else None)


@dataclass(frozen=True)
class Cost:
    """What the steps of a run cost, evaluation and saving left out.

    Attributes:
        images: number of images that the student has seen.
        seconds: time of all steps.
        waited: the part of it in which the training waited for data; None where the run does not tell.
    """

    images: float
    seconds: float
    waited: float | None = None

    @property
    def images_per_s(self) -> float:
        """Images per second over all steps."""
        return self.images / self.seconds


def read_runs(names: Sequence[str]) -> list[RunRecord]:
    """Read the runs, each once.

    Raises:
        UsageError: none, or more than can be told apart in a chart.
        RunError: a folder is none of a run, or one of its files cannot be read.
    """
    names = list(dict.fromkeys(names))
    if not names:
        raise UsageError("A report needs at least one run: name its folder.")
    if len(names) > MOST_SERIES:
        raise UsageError(
            f"{len(names)} runs are more than can be told apart in one chart: name at most {MOST_SERIES}, and write "
            "several reports."
        )
    return [read_run(name) for name in names]


def read_run(name: str) -> RunRecord:
    """Read a run folder, also one of a training that goes on. Raises RunError where it cannot be read."""
    folder = Path(name)
    file, otherwise = folder / CONFIG, "leave this run out"
    if not file.is_file():
        raise RunError(f"{folder} is no run of kdcache's, as it has no {CONFIG}: give the --out of a training.")
    config, identity = read_values(file, parse_yaml, otherwise), {}
    if (folder / IDENTITY).is_file():
        identity = read_values(folder / IDENTITY, parse_json, otherwise)
    return RunRecord(printable(name), folder, config, identity, tuple(_read_rows(folder / "metrics.csv")))


def _read_rows(file: Path) -> list[dict[str, float]]:
    """Read the rows of a run's numbers; none before its first epoch has ended."""
    if not file.exists():
        return []
    try:
        rows = read_metrics(file)
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{file} cannot be read ({reason(error)}): restore it, or leave this run out.") from error
    found = [{name: value for name, value in row.items() if value is not None and math.isfinite(value)} for row in rows]
    by_epoch = {row["epoch"]: row for row in found if "epoch" in row and STEP in row}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _at(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def text_of(value: Any) -> str:
    """Return a value of somebody else's file as a short text in one line."""
    return "-" if value is None else printable_excerpt(str(value), LONGEST, "-")


def summary_table(runs: Sequence[RunRecord]) -> Table:
    """Return the table of the runs: who learned from whom, and how far they came."""
    header = ("run", "student", "learned from", "epochs", "top-1", "loss", "images/s")
    rows = []
    for run in runs:
        top1, loss, rate = (list(run.values(name).values()) for name in ("val_top1", "loss", "images_per_s"))
        epochs = _at(run.config, "schedule", "epochs")
        done = f"{run.rows[-1]['epoch']:,.0f}" if run.rows else "0"
        rows.append(
            (
                run.name,
                run.student,
                run.teacher,
                f"{done} of {text_of(epochs)}",
                f"{top1[-1]:.2%}" if top1 else "-",
                f"{loss[-1]:.4g}" if loss else "-",
                f"{median(rate):,.0f}" if rate else "-",
            )
        )
    return Table(
        "The runs",
        header,
        tuple(rows),
        (
            "Top-1 and loss are those of the last epoch: top-1 on the images of --val, the loss on those of the "
            "training. Images/s are the median over epochs.",
        ),
    )


def cost_table(runs: Sequence[RunRecord]) -> Table:
    """Return what the runs cost, and what they saved against a run of the same student with its teacher live."""
    live = {run.student: cost for run in reversed(runs) if run.is_live and (cost := run.cost()) is not None}
    rows = []
    for run in runs:
        cost = run.cost()
        if cost is None:
            rows.append((run.name, *["-"] * 6))
            continue
        beside = None if run.is_live else live.get(run.student)
        images = format_count(round(cost.images), "image")
        waited = "-" if cost.waited is None else format_duration(cost.waited)
        cells = (run.name, images, format_duration(cost.seconds), waited, f"{cost.images_per_s:,.0f}")
        if beside is None:
            rows.append((*cells, "-", "is the live teacher" if run.is_live else "-"))
            continue
        factor = cost.images_per_s / beside.images_per_s
        saved = cost.images / beside.images_per_s - cost.seconds
        rows.append((*cells, f"{factor:.2f}", f"{format_duration(abs(saved))} {'saved' if saved >= 0 else 'more'}"))
    notes = [
        "Times are those of the optimiser steps, as metrics.csv tells them; evaluation and saving are left out.",
        "What the dump cost is not known here: a block of a cache is the same bytes whenever it is made, so the cache "
        "holds no times. `kdcache dump-logits` prints its images per second at its end, and with --dry-run before.",
        "Energy was not measured: neither a run nor a cache records it.",
    ]
    if not live:
        notes.append(
            "None of these runs had its teacher live, so there is nothing to compare with. A short training with "
            "--online-teacher, given as one more run, fills the last two columns."
        )
    header = (
        "run",
        "seen",
        "time",
        "of it waited for data",
        "images/s",
        "times the live teacher's rate",
        "against the live teacher",
    )
    return Table("What the runs cost", header, tuple(rows), tuple(notes))


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, Mapping) and values:
        for name, value in values.items():
            yield from _flat(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, text_of(values)


def settings_tables(runs: Sequence[RunRecord]) -> tuple[Table, Table]:
    """Return the settings in which runs differ, and all settings."""
    flat = [dict(_flat(run.config)) for run in runs]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    changed = {name for other in runs[1:] for name in differences(runs[0].config, other.config)}
    # A difference may name a whole mapping that the other run lacks.
    differ = [name for name in names if any(name == one or name.startswith(f"{one}.") for one in changed)]
    header = ("setting", *(run.name for run in runs))

    def table(caption: str, chosen: list[str]) -> Table:
        shown = chosen[:MOST_SETTINGS]
        rows = tuple((text_of(name), *(settings.get(name, "-") for settings in flat)) for name in shown)
        left = len(chosen) - len(shown)
        notes = (f"{format_count(left, 'more setting')} in config.yaml.",) if left else ()
        return Table(caption, header, rows, notes)

    return table("Settings in which the runs differ", differ), table("All settings", names)
