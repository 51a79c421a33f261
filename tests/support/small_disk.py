"""Places that run full: a real disk in memory where this machine lets one be mounted, and a limit on files anywhere."""

import os
import resource
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

#: Bytes of the disk.
SIZE = 24 * 2**20


class SmallPlace(ABC):
    """A folder in which there is no room whenever a test wants it.

    Attributes:
        cause, remedy: what the message of a writer that meets it has to say.
    """

    cause: str
    remedy: str

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def full(self, left: int = 0) -> AbstractContextManager[None]:
        """Meanwhile there is room for so many bytes."""


class SmallDisk(SmallPlace):
    """A file system of its own, which is filled by a file, `filler`, that no test reads."""

    cause = "No space left on device"
    remedy = "make room, then run the same command again"

    @contextmanager
    def full(self, left: int = 0) -> Iterator[None]:
        """Meanwhile there is room for so many bytes in all, to within a page."""
        disk = os.statvfs(self.path)
        filler = self.path / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - left)
        try:
            yield
        finally:
            filler.unlink()


class LimitedFiles(SmallPlace):
    """Any folder: the system lets this process write no file larger than the room that is left (`ulimit -f`)."""

    cause = "File too large"
    remedy = "raise the limit on the size of a file"

    def full(self, left: int = 0) -> AbstractContextManager[None]:
        """Meanwhile no file can grow beyond so many bytes."""
        return files_of(left)


@contextmanager
def files_of(size: int) -> Iterator[None]:
    """Meanwhile this process can write no file of more bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(path: Path) -> Iterator[SmallDisk]:
    """A small disk, mounted at an empty folder; the test is skipped where nothing may be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "kdcache-test", str(path)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        pytest.skip(f"A small disk cannot be mounted here ({said}); the same is tested with a limit on files.")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
