"""How a long job says how far it is, without knowing who listens.

A job opens one `Task` for each stretch of work. The command line shows bars on a terminal and plain lines elsewhere.
Who calls a job as a function without a `Progress` of his own finds its messages in the logger `kdcache`: nothing is
shown unless that logger is given a handler (`logging.basicConfig(level="INFO")`).
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
    """One stretch of work of a known length."""

    def advance(self, count: int = 1, **values: float) -> None:
        """Say that `count` more units are done; `values` (a loss, an accuracy) are shown beside the rate."""


@runtime_checkable
class Progress(Protocol):
    """Somebody who is told what a job does."""

    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> AbstractContextManager[Task]:
        """Open a stretch of `total` units, `done` of which were there already."""

    def say(self, line: str) -> None:
        """Tell one fact in one line."""

    def warn(self, line: str) -> None:
        """Tell one thing that wants attention, in one line."""


class _SilentTask:
    def advance(self, count: int = 1, **values: float) -> None:
        pass


class Silent:
    """Shows nothing: for processes that are not the main one of a job."""

    @contextmanager
    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Task]:
        yield _SilentTask()

    def say(self, line: str) -> None:
        pass

    def warn(self, line: str) -> None:
        pass


class Logged(Silent):
    """Passes facts and warnings to the logger `kdcache`, and shows no bars: for those who call the library."""

    def say(self, line: str) -> None:
        _log.info("%s", printable(line))

    def warn(self, line: str) -> None:
        _log.warning("%s", printable(line))


silent = Silent()
logged = Logged()
