"""The interface through which a long job reports its progress.

A job opens one `Task` for each stage of its work. The command line shows bars on a terminal and plain lines elsewhere.
If a job is called as a function without a `Progress`, its messages go to the logger `kdcache`: nothing is shown unless
that logger has a handler (`logging.basicConfig(level="INFO")`).
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from kdcache.errors import printable

_log = logging.getLogger("kdcache")
# Without a handler Python would print warnings to stderr by itself.
_log.addHandler(logging.NullHandler())


@runtime_checkable
class Task(Protocol):
    """A stage of work with a known number of units."""

    def advance(self, count: int = 1, **values: float | int) -> None:
        """Report that `count` more units are done; `values` (a loss, an accuracy) are shown beside the rate."""


@runtime_checkable
class Progress(Protocol):
    """A receiver of a job's progress and messages."""

    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> AbstractContextManager[Task]:
        """Open a task of `total` units, of which `done` were done before."""

    def say(self, line: str) -> None:
        """Report a notice of one line."""

    def warn(self, line: str) -> None:
        """Report a warning of one line."""


class _SilentTask:
    def advance(self, count: int = 1, **values: float | int) -> None:
        pass


class Silent:
    """Shows nothing; for processes other than the main one of a job."""

    @contextmanager
    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Task]:
        yield _SilentTask()

    def say(self, line: str) -> None:
        pass

    def warn(self, line: str) -> None:
        pass


class Logged(Silent):
    """Passes notices and warnings to the logger `kdcache`, without bars; for callers of the library."""

    def say(self, line: str) -> None:
        _log.info("%s", printable(line))

    def warn(self, line: str) -> None:
        _log.warning("%s", printable(line))


silent = Silent()
logged = Logged()
