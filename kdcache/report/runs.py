"""What the folder of a run tells: its settings and its numbers."""

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
from kdcache.runtime.formatting import format_count
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
