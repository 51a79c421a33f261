"""Folders that are held open, so that nothing is written or removed through a symbolic link.

A command is given a folder, which may be a link that the user made. Below it no component may be one: a link that
somebody put into a cache or a run folder may lead to foreign files. Paths are therefore walked component by component,
each opened relative to the one before and never through a link, and files are then created, renamed and removed
relative to the open folder: nobody can put a link in the place of a folder in between.
"""

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdcache.io.failures import LinkError

#: A handle to refer to a folder by. It asks nothing of a network file system but the lookup, and needs no permission
#: to list what is in the folder.
_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Folder:
    """An open folder. Close it, or use it as a context manager.

    Attributes:
        path: path at which it was opened, for messages.
        descriptor: file descriptor for `dir_fd`; it cannot be read or flushed (see `readable`).
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self.path = path

    @classmethod
    def trusted(cls, path: Path) -> "Folder":
        """Open a folder that the user named; links in its path are followed. Raises OSError."""
        return cls(os.open(path, _HANDLE), path)

    def enter(self, name: str) -> "Folder":
        """Open a folder in this one. Raises LinkError if it is a link, OSError as `os.open` does."""
        path = self.path / name
        try:
            return Folder(os.open(name, _HANDLE | os.O_NOFOLLOW, dir_fd=self.descriptor), path)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP) and self.holds_link(name):
                raise LinkError(path) from error
            raise OSError(error.errno, error.strerror, str(path)) from error

    def at(self, name: str) -> "Location":
        """Return a name in this folder, which may not exist."""
        return Location(self, name)

    def names(self) -> list[str]:
        """Return the sorted names of the entries."""
        descriptor = self.readable()
        try:
            return sorted(os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def stat(self, name: str) -> os.stat_result | None:
        """Return the status of an entry, of a link itself if it is one; None if there is no such entry."""
        with suppress(FileNotFoundError):
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        return None

    def holds_link(self, name: str) -> bool:
        """Return whether an entry is a symbolic link."""
        status = self.stat(name)
        return status is not None and stat.S_ISLNK(status.st_mode)

    def holds_file(self, name: str) -> bool:
        """Return whether an entry is a regular file, and no link to one."""
        status = self.stat(name)
        return status is not None and stat.S_ISREG(status.st_mode)

    def holds_folder(self, name: str) -> bool:
        """Return whether an entry is a folder, and no link to one."""
        status = self.stat(name)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def readable(self) -> int:
        """Return a descriptor that can be listed and flushed; the caller closes it."""
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)

    def library_path(self) -> Path:
        """Return a path to this open folder for libraries that open files by name; valid until it is closed."""
        own = Path(f"/proc/self/fd/{self.descriptor}")
        return own if own.exists() else self.path

    def close(self) -> None:
        """Close the folder; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Location:
    """A name in an open folder."""

    folder: Folder
    name: str

    @property
    def path(self) -> Path:
        """Return the path, for messages."""
        return self.folder.path / self.name


def components(key: str) -> list[str]:
    """Return the names in a relative path. Raises ValueError if it leads out of its folder."""
    names = [name for name in key.split("/") if name]
    if key.startswith("/") or any(name in (".", "..") for name in names):
        raise ValueError(f"{key} leads out of its folder")
    return names


def open_folder(root: Path, key: str = "") -> Folder:
    """Open the folder `key` below the trusted `root`.

    Raises LinkError where a component of `key` is a link, FileNotFoundError and other kinds of OSError as `os.open`.
    """
    folder = Folder.trusted(root)
    for name in components(key):
        with folder:
            below = folder.enter(name)
        folder = below
    return folder
