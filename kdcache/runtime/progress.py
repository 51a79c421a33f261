"""How a long job says how far it is, without knowing who listens.

A job opens one `Task` for each stretch of work. The command line listens with bars on a terminal and with plain lines
elsewhere; tests and library users get `silent` unless they bring their own.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable


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
    """Nobody listens."""

    @contextmanager
    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Task]:
        yield _SilentTask()

    def say(self, line: str) -> None:
        pass

    def warn(self, line: str) -> None:
        pass


silent = Silent()
