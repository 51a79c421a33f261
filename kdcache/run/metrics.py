"""The numbers of a run: a table that survives kills and resumes, and the same for TensorBoard."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdcache.errors import RunError
from kdcache.run.files import replace_file

STEP = "step"


class MetricsTable:
    """`metrics.csv`: a fixed header, a row for each report, appended and flushed as the run goes on.

    Opened by a run that resumes, it loses the rows after the step that the run resumes at, and a last row that a
    killed process left half written: what follows is what an uninterrupted run would have written.
    """

    def __init__(self, file: Path, columns: Sequence[str], *, resume_step: int = 0) -> None:
        """
        Args:
            file: of the table; made where it is missing.
            columns: names of the numbers, after the first column, "step".
            resume_step: optimiser steps done; rows of later steps are cut.

        Raises:
            RunError: the file has other columns, or cannot be read or written.
        """
        self.file = file
        self._columns = (STEP, *columns)
        rows = self._kept(resume_step) if file.exists() else []
        replace_file(file, "".join(map(_line, [self._columns, *rows])).encode())

    def append(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Add a row. Columns without a value stay empty; numbers are written so that they read back the same.

        Raises:
            RunError: a name that is no column, or the disk refuses.
        """
        unknown = [name for name in values if name not in self._columns[1:]]
        if unknown:
            raise RunError(f"{self.file} has no column {', '.join(unknown)}: name it when the table is opened.")
        row = [str(step), *(_text(values.get(name)) for name in self._columns[1:])]
        try:
            with self.file.open("a", encoding="utf-8", newline="") as stream:
                stream.write(_line(row))
        except OSError as error:
            raise RunError(f"{self.file} cannot be written ({error.strerror}): make room, then run again.") from error

    def rows(self) -> list[dict[str, float | None]]:
        """What the table holds, as numbers; None where a row has no value."""
        return read_metrics(self.file)

    def _kept(self, resume_step: int) -> list[list[str]]:
        header, rows = _read(self.file)
        if tuple(header) != self._columns:
            raise RunError(
                f"{self.file} has the columns {', '.join(header)}, and this run reports {', '.join(self._columns)}: "
                "start anew with --fresh, or in another folder."
            )
        return [row for row in rows if int(row[0]) <= resume_step]


def read_metrics(file: Path) -> list[dict[str, float | None]]:
    """The rows of a `metrics.csv`, as numbers by column; None where a row has no value."""
    header, rows = _read(file)
    return [{name: float(text) if text else None for name, text in zip(header, row, strict=True)} for row in rows]


class TensorBoard:
    """TensorBoard's events beside the table; does nothing, after one warning, where TensorBoard is not installed."""

    def __init__(self, folder: Path, *, warn: Callable[[str], None], resume_step: int = 0) -> None:
        """
        Args:
            folder: for event files.
            warn: is told when there is no TensorBoard.
            resume_step: events of later steps, of a run that was killed, are marked as void.
        """
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            warn("TensorBoard is not installed, so there are no events; metrics.csv has all numbers.")
            return
        self._writer = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def append(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Add the values of a step, each under its name."""
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is pending."""
        if self._writer is not None:
            self._writer.close()


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    """Header and whole rows; a last line without an end, or of another width, was being written when a kill came."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read ({error}): move it away, or start anew with --fresh.") from error
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    if not lines:
        return [], []
    header, *rows = lines
    return header, [row for row in rows if len(row) == len(header) and row[0].isdecimal()]


def _line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _text(value: float | int | None) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, float) and not math.isnan(value) else str(value)
