"""Disks that stop working at a chosen operation, and that forget what was not flushed."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from kdcache.cache.durable import Disk


class Killed(BaseException):
    """The process is gone: no handler of errors may catch this."""


class WatchedDisk(Disk):
    """Counts operations; at operation `stop_at` does `at_stop` instead, which raises.

    It does not really flush, but remembers what was: `lose_unflushed` leaves what a power failure may leave.
    """

    def __init__(self, stop_at: int | None = None, at_stop: Callable[[], None] | None = None) -> None:
        self.operations: list[tuple[str, Path]] = []
        self.stop_at, self.at_stop = stop_at, at_stop or self.die
        self._open: dict[int, Path] = {}
        self._unflushed_data: set[Path] = set()
        self._unflushed_names: set[Path] = set()

    @staticmethod
    def die() -> None:
        raise Killed

    @staticmethod
    def run_full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _begin(self, name: str, path: Path) -> None:
        if len(self.operations) == self.stop_at:
            self.operations.append(("stop", path))
            self.at_stop()
        self.operations.append((name, path))

    def make_folder(self, path: Path) -> None:
        self._begin("make_folder", path)
        super().make_folder(path)
        self._unflushed_names.add(path)

    def create(self, path: Path) -> int:
        self._begin("create", path)
        file = super().create(path)
        self._open[file] = path
        self._unflushed_names.add(path)
        self._unflushed_data.add(path)
        return file

    def write(self, file: int, data: bytes) -> None:
        super().write(file, data[: len(data) // 2])
        self._begin("write", self._open[file])
        super().write(file, data[len(data) // 2 :])

    def flush(self, file: int) -> None:
        self._begin("flush", self._open[file])
        self._unflushed_data.discard(self._open[file])

    def flush_folder(self, path: Path) -> None:
        self._begin("flush_folder", path)
        assert path.is_dir()
        self._unflushed_names = {name for name in self._unflushed_names if name.parent != path}

    def replace(self, source: Path, target: Path) -> None:
        self._begin("replace", target)
        super().replace(source, target)
        self._named(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._begin("link", target)
        super().link(source, target)
        self._named(source, target)

    def remove(self, path: Path) -> None:
        self._begin("remove", path)
        super().remove(path)

    def remove_folder(self, path: Path) -> None:
        self._begin("remove_folder", path)
        super().remove_folder(path)

    def _named(self, source: Path, target: Path) -> None:
        self._unflushed_names.add(target)
        if source in self._unflushed_data:
            self._unflushed_data.add(target)

    def lose_unflushed(self, root: Path) -> None:
        """Cut the power at the worst: records came through by chance, of all else only what was flushed."""
        for path in sorted(root.rglob("*"), reverse=True):
            names = [path, *(parent for parent in path.parents if parent.is_relative_to(root))]
            if "records" in path.parts:
                continue
            lost_name = any(name in self._unflushed_names for name in names)
            if path.is_file() and lost_name:
                path.unlink()
            elif path.is_file() and path in self._unflushed_data:
                path.write_bytes(b"")
