"""The lock file of a folder at one moment, and the verdict about its owner."""

import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdcache.errors import FolderHeldError
from kdcache.io.lock_owner import MAGIC, MAX_RECORD_BYTES, Owner, is_local

#: How a lock file is opened. A named pipe in its place must not block.
OPEN_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

Verdict = Literal["free", "held", "unknown"]


@dataclass
class LockFile:
    """An open lock file, as it was at one moment.

    Attributes:
        file: its descriptor.
        locked: whether this process has its lock: False where another has it, None where the file system has no locks
            or it was not asked for.
        writable: whether it may be written in place.
        local: whether its disk is this machine's own.
        content: bytes of the file.
        about: status of the file.
    """

    file: int
    locked: bool | None
    writable: bool
    local: bool
    content: bytes
    about: os.stat_result

    def __enter__(self) -> "LockFile":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.file >= 0:
            os.close(self.file)

    def keep(self) -> int:
        """Keep the file open and its lock held; return its descriptor."""
        file, self.file = self.file, -1
        return file

    @property
    def owner(self) -> Owner | None:
        """The process of the record; None for an incomplete record."""
        return Owner.from_record(self.content)

    def same_as(self, other: "LockFile") -> bool:
        """Return whether nothing has changed between two checks."""
        return (self.content, _version(self.about)) == (other.content, _version(other.about))

    def verdict(self) -> Verdict:
        """Return whether the folder is held; `kdcache.io.folder_lock` has the rules."""
        owner = self.owner
        if owner is None:  # being written just now, or cut short
            return "free" if self.locked and self.local else "unknown"
        if self.locked and self.local and owner.shares_kernel():  # also of a copy that was made of a held folder
            return "free"
        life = owner.life()
        if life == "alive":
            return "held"
        if self.locked is False:  # for a moment the record may be that of the owner before
            return "held" if life == "unknown" and owner.shares_kernel() else "unknown"
        if life == "dead":
            return "free"
        earlier_boot = self.local and owner.shares_host_name() and not owner.shares_kernel()
        return "free" if earlier_boot else "unknown"


def _version(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_dev, about.st_ino, about.st_mtime_ns


def look_at(path: Path, *, lock: bool = True) -> LockFile | None:
    """Open a lock file and read its state, with or without trying its lock; None if there is none."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise _foreign(path, "a link" if path.is_symlink() else "no file")
        file, writable = _open(path)
    except FileNotFoundError:
        return None
    keep = False
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise _foreign(path, "no file")
        locked = try_flock(file) if lock else None
        content = os.pread(file, MAX_RECORD_BYTES, 0)
        # One that was cut short by a power failure begins as ours do, or is empty, or holds zeros.
        if content[: len(MAGIC)] != MAGIC[: len(content)] and content.strip(b"\0"):
            raise _foreign(path, "nothing that kdcache wrote")
        keep = is_at(file, path)
        # What is written into a file that has other names as well would be written there, too.
        writable = writable and about.st_nlink == 1
        return LockFile(file, locked, writable, is_local(path.parent), content, about) if keep else None
    finally:
        if not keep:
            os.close(file)


def _open(path: Path) -> tuple[int, bool]:
    """Return a descriptor of an existing file, and whether it can be written; another user's may be read-only."""
    try:
        return os.open(path, OPEN_FLAGS), True
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _foreign(path, "a link") from None
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    return os.open(path, OPEN_FLAGS & ~os.O_RDWR), False


def _foreign(path: Path, found: str) -> FolderHeldError:
    return FolderHeldError(
        f"{path} is where kdcache notes which process writes a folder, and it is {found}: nothing was changed. Look at "
        "it, remove it, then run the same command again."
    )


def try_flock(file: int) -> bool | None:
    """Return whether the lock of a file could be taken; None if its file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES) else None
    return True


def is_at(file: int, path: Path) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


def age_of(lock: Path, look: LockFile) -> float:
    """Return the seconds since the lock file was written, by the clock of its file system; 0 if unknown."""
    probe = lock.with_name(f"{lock.name}-{uuid.uuid4().hex}")
    try:
        file = os.open(probe, os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o666)
    except OSError:
        return 0.0
    try:
        return max(0.0, os.fstat(file).st_mtime - look.about.st_mtime)
    finally:
        with suppress(OSError):
            probe.unlink()
        os.close(file)


@contextmanager
def removed_on_error(file: int, *paths: Path) -> Iterator[None]:
    """Close a file, and remove it if it is at one of these paths, if the block ends with an error."""
    try:
        yield
    except BaseException:
        for path in paths:
            with suppress(OSError):
                if is_at(file, path):
                    path.unlink()
        os.close(file)
        raise


def make_folders(folder: Path) -> list[Path]:
    """Create a folder and all above it; return the created ones, the deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
    return missing
