"""Output of the commands: reports go to stdout; progress, notices and warnings go to stderr.

On a terminal, a task is shown as a progress bar. Elsewhere, such as in a log file, it is a plain line when it begins,
one every 30 seconds, and one when it ends.

A line may contain names from files, arguments and servers. So every line goes through `printable` here, and no text is
interpreted as rich's markup or emoji codes.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from kdcache.errors import printable
from kdcache.runtime.progress import Progress, Task, silent
from kdcache_cli.log_lines import is_quiet
from kdcache_cli.meter import Meter
from kdcache_cli.widths import fold, table_lines, terminal_columns

if TYPE_CHECKING:
    from kdcache_cli.bars import ProgressBars

PLAIN_INTERVAL = 30.0
"""Seconds between two plain lines about one task."""


def print_lines(lines: Iterable[str]) -> None:
    """Print a report."""
    for line in lines:
        _print(printable(line), sys.stdout)


def print_report(lines: Iterable[str]) -> None:
    """Print the sentences of a report, folded between words on a terminal that is narrower than a line."""
    columns = terminal_columns()
    print_lines(part for line in lines for part in (fold(line, columns) if columns else [line]))


def print_json(value: object) -> None:
    """Print a report as JSON. Characters outside ASCII are escaped as JSON does it, and NaN and infinities are null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False).replace("\x7f", "\\u007f"))


def _finite(value: object) -> object:
    """Return plain values with null for numbers that JSON cannot have."""
    if isinstance(value, dict):
        return {str(name): _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(line: str, stream: TextIO) -> None:
    """Print a line; characters that the stream's encoding cannot represent are escaped."""
    try:
        print(line, file=stream, flush=stream is not sys.stdout)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=stream is not sys.stdout)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text as a table that fits the terminal."""
    body = [[printable(cell) for cell in row] for row in rows]
    for line in table_lines(list(header), body, terminal_columns()):
        _print(line, sys.stdout)


class ConsoleProgress(Progress):
    """Shows the progress of a job on a terminal, or as plain lines in a log."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._bars = _open_bars(self._stream) if self._stream.isatty() else None

    @contextmanager
    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Task]:
        """Show a task while the context is open, and its summary if it ends without an error."""
        if is_quiet():
            with silent.task(title, total, unit, done) as task:
                yield task
            return
        meter = Meter(total, unit, done, self._clock)
        if self._bars is not None:
            with self._bars.bar(title, meter) as task:
                yield task
        else:
            self.say(f"{title}: {meter.state()}")
            yield _PlainTask(title, meter, self.say, self._clock)
        self.say(f"{title}: {meter.summary()}")

    def say(self, line: str) -> None:
        """Print one notice, above the progress bars if there are any; nothing with --quiet."""
        if not is_quiet():
            self._print(line)

    def warn(self, line: str) -> None:
        """Print one warning."""
        self._print(f"warning: {line}")

    def _print(self, line: str) -> None:
        if self._bars is not None:
            self._bars.say(printable(line))
        else:
            _print(printable(line), self._stream)


class _PlainTask:
    def __init__(self, title: str, meter: Meter, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._title, self._meter, self._say, self._clock = title, meter, say, clock
        self._next = clock() + PLAIN_INTERVAL

    def advance(self, count: int = 1, **values: float) -> None:
        self._meter.advance(count, values)
        now = self._clock()
        if now >= self._next and self._meter.done < self._meter.total:
            self._next = now + PLAIN_INTERVAL
            self._say(f"{self._title}: {self._meter.state()}")


def _open_bars(stream: TextIO) -> "ProgressBars":
    # Only a job on a terminal needs rich's bars, which are slow to import.
    from kdcache_cli.bars import ProgressBars

    return ProgressBars(stream)
