"""The numbers of a run: a table that survives kills and resumes, and the same for TensorBoard."""

import csv
import io
import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from kdcache.errors import RunError, reason
from kdcache.io.disk import Disk, make_folder
from kdcache.io.reading import read_text
from kdcache.training.files import append_line, replace_file

STEP = "step"


class MetricsTable:
    """`metrics.csv`: a fixed header, a row for each report, appended and flushed as the run goes on.

    Opened by a run that resumes, it loses the rows after the step that the run resumes at, and a last row that a
    killed process left half written: what follows is what an uninterrupted run would have written. Columns that an
    earlier version did not have are empty in its rows.
    """

    def __init__(self, file: Path, columns: Sequence[str], *, resume_step: int = 0) -> None:
        """
        Args:
            file: path of the table; made where it is missing.
            columns: names of the numbers, after the first column, "step".
            resume_step: optimiser steps done; rows of later steps are cut.

        Raises:
            RunError: the file has columns that are not among these, or cannot be read or written.
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
        append_line(self.file, _line([str(step), *(_text(values.get(name)) for name in self._columns[1:])]))

    def rows(self) -> list[dict[str, float | None]]:
        """Return the rows of the table as numbers; None where a row has no value."""
        return read_metrics(self.file)

    def _kept(self, resume_step: int) -> list[list[str]]:
        header, rows = _read(self.file)
        if header[:1] != [STEP] or not set(header) <= set(self._columns):
            raise RunError(
                f"{self.file} has the columns {', '.join(header)}, and this run reports {', '.join(self._columns)}: "
                "start anew with --fresh, or in another folder."
            )
        cells = [dict(zip(header, row, strict=True)) for row in rows if int(row[0]) <= resume_step]
        return [[row.get(name, "") for name in self._columns] for row in cells]


def read_metrics(file: Path) -> list[dict[str, float | None]]:
    """Read the rows of a `metrics.csv` as numbers by column; None where a row has no value."""
    header, rows = _read(file)
    return [{name: float(text) if text else None for name, text in zip(header, row, strict=True)} for row in rows]


class TensorBoard:
    """TensorBoard's events beside the table, written and flushed with each row.

    Nothing is lost without them, as metrics.csv has all numbers: where TensorBoard is not installed, or the disk
    refuses, one warning is given, and the training goes on. TensorBoard's own writer has a thread for events by the
    thousand, whose errors nobody can catch.
    """

    def __init__(
        self, folder: Path, *, warn: Callable[[str], None], last_row: Mapping[str, float | None] | None = None
    ) -> None:
        """
        Args:
            folder: folder of the event files; made where it is missing.
            warn: function that is told when there are no events, or no more.
            last_row: last row of the table that a run goes on with. It is written again, as a kill may have come
                before; what there is from its step on, also of later steps that a kill took back, is marked as void.
        """
        self._warn = warn
        self._file: BinaryIO | None = None
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            warn("TensorBoard is not installed, so there are no events; metrics.csv has all numbers.")
            return
        self._event, self._summary = Event, Summary
        first = 0 if last_row is None else int(last_row[STEP] or 0)
        with self._refusals():
            with make_folder(folder.parent, folder.name) as place:
                self._file = os.fdopen(Disk().create(place.at(_events_name(place.names()))), "wb")
            self._records = RecordWriter(self._file)
            self._write(file_version="brain.Event:2")
            self._write(step=first, session_log=SessionLog(status=SessionLog.START))
            self._file.flush()
        if last_row is not None:
            self.append(first, {name: value for name, value in last_row.items() if name != STEP})

    def append(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Add the values of a step, each under its name."""
        given = {name: float(value) for name, value in values.items() if value is not None}
        with self._refusals():
            if self._file is not None:
                scalars = [self._summary.Value(tag=name, simple_value=value) for name, value in given.items()]
                self._write(step=step, summary=self._summary(value=scalars))
                self._file.flush()

    def close(self) -> None:
        """Close the file; everything is in it already."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what a full disk did not take was told
                file.close()

    def _write(self, **event: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **event).SerializeToString())

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            self._warn(
                f"TensorBoard's events cannot be written ({reason(error)}), so there are no more of them; metrics.csv "
                "has all numbers. Make room, and a run that is started again writes events again."
            )


def _events_name(there: Sequence[str]) -> str:
    """Return a file name that TensorBoard reads after those that are there, whatever the clock says."""
    before = [name.split(".")[3] for name in there if re.fullmatch(r"events\.out\.tfevents\..*\..*", name)]
    second = max([int(time.time()), *(int(number) + 1 for number in before if number.isdecimal())])
    return f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}.0"


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    """Read header and whole rows; a last line without an end or of another width was cut short by a kill."""
    try:
        text = read_text(file)
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
