"""Disks that stop working at a chosen operation, and that forget what was not flushed."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from threading import RLock

from kdcache.io.disk import Disk
from kdcache.io.folders import Folder, Location


class Killed(BaseException):
    """The process is gone: no handler of errors may catch this."""


class WatchedDisk(Disk):
    """Counts operations; at operation `stop_at` does `at_stop` instead, which raises.

    It does not really flush, but remembers what was: `without_unflushed` is what a power failure may leave.
    """

    def __init__(self, stop_at: int | None = None, at_stop: Callable[[], None] | None = None) -> None:
        self.operations: list[tuple[str, Path]] = []
        self.stop_at, self.at_stop = stop_at, at_stop or self.die
        self._open: dict[int, Path] = {}
        self._unflushed_data: set[Path] = set()
        self._unflushed_names: set[Path] = set()
        self._before: dict[Path, bytes] = {}  # what lay under an unflushed name when that was last flushed
        self._one_at_a_time = RLock()

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

    def make_folder(self, place: Location) -> None:
        with self._one_at_a_time:
            self._begin("make_folder", place.path)
            super().make_folder(place)
            self._unflushed_names.add(place.path)

    def create(self, place: Location) -> int:
        with self._one_at_a_time:
            self._begin("create", place.path)
            file = super().create(place)
            self._made(file, place.path)
            return file

    def open(self, place: Location) -> int:
        with self._one_at_a_time:
            self._begin("open", place.path)
            file = super().open(place)
            self._made(file, place.path)
            return file

    def _made(self, file: int, path: Path) -> None:
        self._open[file] = path
        self._unflushed_names.add(path)
        self._unflushed_data.add(path)

    def clear(self, file: int) -> None:
        with self._one_at_a_time:
            self._begin("clear", self._open[file])
            super().clear(file)

    def write(self, file: int, data: bytes) -> None:
        with self._one_at_a_time:
            super().write(file, data[: len(data) // 2])
            self._begin("write", self._open[file])
            super().write(file, data[len(data) // 2 :])

    def flush(self, file: int) -> None:
        with self._one_at_a_time:
            self._begin("flush", self._open[file])
            self._unflushed_data.discard(self._open[file])

    def flush_folder(self, folder: Folder) -> None:
        path = folder.path
        with self._one_at_a_time:
            self._begin("flush_folder", path)
            assert path.is_dir()
            self._unflushed_names = {name for name in self._unflushed_names if name.parent != path}
            self._before = {name: data for name, data in self._before.items() if name.parent != path}

    def replace(self, source: Location, target: Location) -> None:
        with self._one_at_a_time:
            self._begin("replace", target.path)
            self._remember(target.path)
            super().replace(source, target)
            self._named(source.path, target.path)

    def link(self, source: Location, target: Location) -> None:
        with self._one_at_a_time:
            self._begin("link", target.path)
            super().link(source, target)
            self._named(source.path, target.path)

    def remove(self, place: Location) -> None:
        with self._one_at_a_time:
            self._begin("remove", place.path)
            self._remember(place.path)
            super().remove(place)

    def remove_folder(self, place: Location) -> None:
        with self._one_at_a_time:
            self._begin("remove_folder", place.path)
            super().remove_folder(place)

    def _remember(self, path: Path) -> None:
        """What is about to be taken from a name comes back with a power failure, unless the folder is flushed."""
        if path not in self._unflushed_names and path not in self._before and path.is_file():
            self._before[path] = path.read_bytes()

    def _named(self, source: Path, target: Path) -> None:
        self._unflushed_names.add(target)
        (self._unflushed_data.add if source in self._unflushed_data else self._unflushed_data.discard)(target)

    def without_unflushed(self, root: Path, files: dict[Path, bytes]) -> dict[Path, bytes]:
        """The files below `root` after a power failure at the worst.

        Records came through by chance, of all else only what was flushed: of a name that was not, what it had before.
        """
        left = {}
        for path, data in (self._before | files).items():
            folders = [parent for parent in path.parents if parent.is_relative_to(root)]
            if "records" in path.parts and path in files:
                left[path] = data
            elif any(folder in self._unflushed_names for folder in folders):
                continue
            elif path in self._unflushed_names or path not in files:
                if path in self._before:
                    left[path] = self._before[path]
            else:
                left[path] = b"" if path in self._unflushed_data else data
        return left
