"""Watching an index being built."""

from contextlib import AbstractContextManager
from pathlib import Path

from kdcache.data.index import open_index
from kdcache.runtime.progress import Task, silent

SHARED = ("key_hash", "length", "height", "width", "label", "key_start", "key_bytes")
"""The columns on which two shardings of the same samples agree."""


class Listener:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def task(self, title: str, total: int, unit: str = "images", done: int = 0) -> AbstractContextManager[Task]:
        return silent.task(title, total, unit, done)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.lines.append(line)
        self.warnings.append(line)

    @property
    def builds(self) -> int:
        return sum(line.startswith("indexed") for line in self.lines)


def builds(data: str | Path, **options: bool) -> int:
    """How often the index is built when it is opened: 0 or 1."""
    listener = Listener()
    open_index(data, progress=listener, **options)
    return listener.builds
