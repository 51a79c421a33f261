"""A cache's files on a local disk: whole or not there, and flushed in an order that survives a power failure.

Bytes are written to a file in the folder `.partial` of the cache, flushed, and then renamed or linked to
their place. A writer holds a lock on its partial file, which the system drops when it dies: what can be
locked is left over.
"""

import errno
import fcntl
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kdcache.cache.files import Files
from kdcache.errors import CacheError

PARTIAL = ".partial"

#: Answers of file systems that have no hard links or no locks.
UNSUPPORTED = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EMLINK)

#: What is wrong with a file system on which no record can be put but in the place of another.
NO_LINKS_NO_LOCKS = "its file system has neither hard links nor locks, so that two processes could write one record"

#: How often a write begins anew when another process took its partial file for a left-over and removed it.
ATTEMPTS = 8


class Disk:
    """The system calls that change a disk, one each.

    Tests put theirs in its place, to record them or to stop there.
    """

    def make_folder(self, path: Path) -> None:
        """Make one folder, unless it is there."""
        with suppress(FileExistsError):
            path.mkdir()

    def create(self, path: Path) -> int:
        """Make a new file; returns its descriptor."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)

    def open(self, path: Path) -> int:
        """Open a file that several processes may have open, made where there is none; returns its descriptor."""
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)

    def clear(self, file: int) -> None:
        """Leave nothing in a file."""
        os.ftruncate(file, 0)

    def write(self, file: int, data: bytes) -> None:
        """Write all of the data."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]

    def flush(self, file: int) -> None:
        """Return when a file's bytes are on the disk."""
        os.fsync(file)

    def flush_folder(self, path: Path) -> None:
        """Return when a folder's names are on the disk."""
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def replace(self, source: Path, target: Path) -> None:
        """Rename, over what is there."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; FileExistsError where that exists."""
        os.link(source, target)

    def remove(self, path: Path) -> None:
        """Remove a file, unless it is gone."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder if it is empty."""
        try:
            path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise


class LocalFiles(Files):
    """Keys are paths under `root`, which comes into being with the first write."""

    def __init__(self, root: Path | str, *, read_only: bool = False, disk: Disk | None = None) -> None:
        self.root = Path(root).absolute()
        self.read_only = read_only
        self.disk = disk or Disk()

    def locate(self, key: str) -> str:
        """The path."""
        return str(self.root / key)

    def get(self, key: str) -> bytes | None:
        """The bytes of a file, None where it does not exist."""
        with self._named("read", key), suppress(FileNotFoundError, NotADirectoryError), self._opened(key) as file:
            self.check_size(key, os.fstat(file.fileno()).st_size)
            return file.read()
        return None

    def get_part(self, key: str, start: int, length: int) -> bytes | None:
        """Some bytes of a file, None where it does not exist."""
        with self._named("read", key), suppress(FileNotFoundError, NotADirectoryError), self._opened(key) as file:
            there = max(0, os.fstat(file.fileno()).st_size - start)
            file.seek(start)
            return file.read(min(length, there))
        return None

    def size(self, key: str) -> int | None:
        """The length of a file, None where it does not exist."""
        with self._named("read", key), suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / key).stat().st_size
        return None

    def modified(self, key: str) -> float | None:
        """When a file was last written, None where it does not exist."""
        with self._named("read", key), suppress(FileNotFoundError, NotADirectoryError):
            return (self.root / key).stat().st_mtime
        return None

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where it does not exist."""
        with self._named("read", folder), suppress(FileNotFoundError):
            return sorted(os.listdir(self.root / folder))
        return []

    def put(self, key: str, *parts: bytes) -> None:
        """Write, flush, rename."""
        target = self.root / key
        with self._named("write", key):
            self._staged(key, parts, lambda partial: self.disk.replace(partial, target))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write, flush, link, and flush the folders; where there are no hard links, look and rename under a lock."""
        target = self.root / key

        def place(partial: Path) -> None:
            try:
                self.disk.link(partial, target)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                with self._alone():
                    if target.exists():
                        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
                    self.disk.replace(partial, target)
            else:
                self.disk.remove(partial)

        with self._named("write", key):
            try:
                self._staged(key, [data], place)
            except FileExistsError:
                return False
            self.flush([key])
        return True

    def flush(self, keys: Iterable[str]) -> None:
        """Flush the folders of these files and all above them, up to the one that holds the cache."""
        folders = {folder for key in keys for folder in (self.root / key).relative_to(self.root).parents}
        with self._named("write", ""):
            for folder in sorted(folders, key=lambda path: (-len(path.parts), path)):
                self.disk.flush_folder(self.root / folder)
            self.disk.flush_folder(self.root.parent)

    def delete(self, key: str) -> None:
        """Remove a file and flush its folder."""
        path = self.root / key
        with self._named("write", key):
            if path.exists():
                self.disk.remove(path)
                self.disk.flush_folder(path.parent)

    def prepare(self) -> None:
        """Write a file and remove it again, so that a month of work does not end at the first block."""
        with self._named("write", ""):
            self._staged("", [], self.disk.remove)
        self.tidy()

    def tidy(self) -> None:
        """Remove the partial files that no living process holds, and their folder when it is empty."""
        with self._named("write", PARTIAL):
            for name in self.names(PARTIAL):
                path = self.root / PARTIAL / name
                with _left_over(path) as nobody_holds_it:
                    if nobody_holds_it:
                        self.disk.remove(path)
            self.disk.remove_folder(self.root / PARTIAL)

    def _opened(self, key: str) -> BinaryIO:
        return (self.root / key).open("rb")

    def make_folders(self, path: Path) -> None:
        """Make a folder and all above it, where they are not there; OSError where that fails."""
        missing = []
        while not path.exists():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            self.disk.make_folder(folder)
            if folder in self.root.parents:  # which `flush` leaves out
                self.disk.flush_folder(folder.parent)

    def _staged(self, key: str, parts: Sequence[bytes], place: Callable[[Path], None]) -> None:
        """Write and flush all parts as a partial file and `place` it; leave nothing behind when the disk refuses."""
        for _ in range(ATTEMPTS):
            self.make_folders((self.root / key).parent)
            self.make_folders(self.root / PARTIAL)
            partial = self.root / PARTIAL / uuid.uuid4().hex
            try:
                file = self.disk.create(partial)
            except FileNotFoundError:  # another process tidied the folder away
                continue
            try:
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for part in parts:
                    self.disk.write(file, part)
                self.disk.flush(file)
                place(partial)
                return
            except FileNotFoundError:  # another process took it for a left-over before it was locked
                continue
            except OSError:
                with suppress(OSError):
                    self.disk.remove(partial)
                raise
            finally:
                os.close(file)
        raise OSError(errno.EAGAIN, "other processes keep removing its partial file")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out every other process that asks for the same; OSError where the file system has no locks either."""
        path = self.root / PARTIAL / "placing"
        while True:
            file = self.disk.open(path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                os.close(file)
                with suppress(OSError):
                    self.disk.remove(path)
                raise OSError(error.errno, NO_LINKS_NO_LOCKS) from error
            if is_still(file, path):
                break
            os.close(file)  # whoever had it before has removed it, or somebody tidied it away
        try:
            yield
            self.disk.remove(path)
        finally:
            os.close(file)

    @contextmanager
    def _named(self, verb: str, key: str) -> Iterator[None]:
        """Turn an error of the system into one that names the place."""
        if verb == "write" and self.read_only:
            raise CacheError(f"The cache {self.root} was opened for reading and cannot be changed.")
        try:
            yield
        except OSError as error:
            remedy = "Nothing that is recorded is lost: run the same command again when the cause is gone."
            if error.strerror == NO_LINKS_NO_LOCKS:
                remedy = "Use a folder on another file system, or an object store."
            elif error.errno in (errno.ENOSPC, errno.EDQUOT):
                remedy = "Nothing that is recorded is lost: make room, then run the same command again."
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and verb == "write":
                remedy = "Use a folder that you can write to, or have its permissions changed."
            raise CacheError(f"Cannot {verb} {self.locate(key)}: {error.strerror or error}. {remedy}") from error


@contextmanager
def _left_over(path: Path) -> Iterator[bool]:
    """Whether the process that wrote a partial file is dead, as far as its lock tells.

    The lock is held meanwhile, so that nobody can come to hold a file that is about to be removed.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = is_still(file, path)
        except OSError:
            free = False
        yield free
    finally:
        os.close(file)


def is_still(file: int, path: Path) -> bool:
    """Whether an open file is the one that lies at a path."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
