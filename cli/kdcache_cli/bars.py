"""Progress bars on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import rich.console
import rich.progress

from kdcache.errors import printable
from kdcache.runtime.progress import Task
from kdcache_cli.meter import Meter

_WIDE = 110  # columns; a narrower terminal has no room for the bar beside the text


class _BarTask:
    def __init__(self, bars: rich.progress.Progress, bar: rich.progress.TaskID, meter: Meter) -> None:
        self._bars, self._bar, self._meter = bars, bar, meter

    def advance(self, count: int = 1, **values: float) -> None:
        self._meter.advance(count, values)
        self._bars.update(self._bar, completed=self._meter.done, state=printable(self._meter.state()))


class ProgressBars:
    """The progress bars of all open tasks; a bar disappears when its task ends."""

    def __init__(self, stream: TextIO) -> None:
        console = rich.console.Console(file=stream, highlight=False)
        text = "{task.percentage:>3.0f}% {task.description}: {task.fields[state]}"
        self._progress = rich.progress.Progress(
            rich.progress.SpinnerColumn(),
            *([rich.progress.BarColumn(bar_width=20)] if console.width >= _WIDE else []),
            rich.progress.TextColumn(text, markup=False),
            console=console,
            transient=True,
        )
        self._open = 0

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, meter: Meter) -> Iterator[Task]:
        """Show a bar while the context is open."""
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
