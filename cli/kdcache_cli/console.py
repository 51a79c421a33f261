"""What commands show: reports on stdout; progress, facts and warnings on stderr.

On a terminal a stretch of work is a bar; elsewhere, in a log file or a job's output, it is a plain line when it
begins, one every half minute, and one when it ends.

Whatever is shown may hold names from files, arguments and servers. So every line goes through `printable` here, and no
text is taken for rich's markup or emoji codes.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import rich.console
import rich.progress

from kdcache.errors import printable
from kdcache.runtime.progress import Progress, Task
from kdcache_cli.meter import Meter

PLAIN_INTERVAL = 30.0
"""Seconds between two plain lines about one stretch of work."""

_WIDE = 110  # columns; in a narrower terminal the words need the place of the bar
_NUMBER = re.compile(r"-|[\d,.]+( ?%)?")


def print_lines(lines: Iterable[str]) -> None:
    """Print a report."""
    for line in lines:
        _print(printable(line), sys.stdout)


def print_json(value: object) -> None:
    """Print a report for programs. All but ASCII is escaped in JSON's own way."""
    print(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def _print(line: str, stream: TextIO) -> None:
    """Print a line, with escapes in the place of letters that the stream's encoding does not have."""
    try:
        print(line, file=stream, flush=stream is not sys.stdout)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=stream is not sys.stdout)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text as columns, aligned to the left, or to the right where a column holds numbers alone."""
    body = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(header, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]
    for row in [list(header), *body]:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        _print("  ".join(cells).rstrip(), sys.stdout)


class ConsoleProgress(Progress):
    """Tells whoever sits at the terminal, or reads the log later, what a job does."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._bars = _Bars(self._stream) if self._stream.isatty() else None

    @contextmanager
    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Task]:
        """Show a stretch of work while the context is open, and what it came to when it ends well."""
        meter = Meter(total, unit, done, self._clock)
        if self._bars is not None:
            with self._bars.bar(title, meter) as task:
                yield task
        else:
            self.say(f"{title}: {meter.state()}")
            yield _PlainTask(title, meter, self.say, self._clock)
        self.say(f"{title}: {meter.summary()}")

    def say(self, line: str) -> None:
        """Print one fact, above the bars if there are any."""
        if self._bars is not None:
            self._bars.say(printable(line))
        else:
            _print(printable(line), self._stream)

    def warn(self, line: str) -> None:
        """Print one thing that wants attention."""
        self.say(f"warning: {line}")


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


class _BarTask:
    def __init__(self, bars: rich.progress.Progress, bar: rich.progress.TaskID, meter: Meter) -> None:
        self._bars, self._bar, self._meter = bars, bar, meter

    def advance(self, count: int = 1, **values: float) -> None:
        self._meter.advance(count, values)
        self._bars.update(self._bar, completed=self._meter.done, state=printable(self._meter.state()))


class _Bars:
    """The bars of all stretches of work that are open; they vanish as these end."""

    def __init__(self, stream: TextIO) -> None:
        console = rich.console.Console(file=stream, highlight=False)
        words = "{task.percentage:>3.0f}% {task.description}: {task.fields[state]}"
        self._progress = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            *([rich.progress.BarColumn(bar_width=20)] if console.width >= _WIDE else []),
            rich.progress.TextColumn(words, markup=False),
            console=console,
            transient=True,
        )
        self._open = 0

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, meter: Meter) -> Iterator[Task]:
        bar = self._progress.add_task(
            printable(title), total=meter.total, completed=meter.done, state=printable(meter.state())
        )
        if not self._open:
            self._progress.start()
        self._open += 1
        try:
            yield _BarTask(self._progress, bar, meter)
        finally:
            self._open -= 1
            self._progress.remove_task(bar)
            if not self._open:
                self._progress.stop()
