"""The system calls that change a disk, in one class, so that tests can record them or stop at each."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from kdcache.io.failures import LinkError, RefusedError, SpecialFileError
from kdcache.io.folders import Folder, Location, components


class Disk:
    """The system calls that change a disk, one each. All names are relative to folders that are held open.

    Tests put theirs in its place, to record them or to stop there.
    """

    def make_folder(self, place: Location) -> None:
        """Create one folder, unless the name exists."""
        with suppress(FileExistsError):
            os.mkdir(place.name, dir_fd=place.folder.descriptor)

    def create(self, place: Location) -> int:
        """Create a new file and return its descriptor. Raises FileExistsError if the name exists, also as a link."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(place.name, flags, 0o666, dir_fd=place.folder.descriptor)

    def open(self, place: Location) -> int:
        """Open a file that other processes may have open, or create it; return its descriptor.

        Raises LinkError for a link and for a file of several names, SpecialFileError for what is no regular file.
        """
        if place.folder.holds_link(place.name):
            raise LinkError(place.path)
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(place.name, flags, 0o666, dir_fd=place.folder.descriptor)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            os.close(file)
            raise SpecialFileError(place.path, "a special file")
        if status.st_nlink > 1:  # truncating it would truncate the other name's file
            os.close(file)
            raise LinkError(place.path, "a file with a second name (a hard link)")
        return file

    def clear(self, file: int) -> None:
        """Truncate a file to no bytes."""
        os.ftruncate(file, 0)

    def write(self, file: int, data: bytes) -> None:
        """Write all of the data."""
        rest = memoryview(data).cast("B") if len(data) else memoryview(b"")
        while rest:
            rest = rest[os.write(file, rest) :]

    def flush(self, file: int) -> None:
        """Return when a file's bytes are on the disk."""
        os.fsync(file)

    def flush_folder(self, folder: Folder) -> None:
        """Return when a folder's names are on the disk."""
        descriptor = folder.readable()
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, source: Location, target: Location) -> None:
        """Rename an entry and replace the target; a link there is replaced, not followed."""
        os.replace(source.name, target.name, src_dir_fd=source.folder.descriptor, dst_dir_fd=target.folder.descriptor)

    def link(self, source: Location, target: Location) -> None:
        """Give a file a second name. Raises FileExistsError if that exists."""
        os.link(
            source.name,
            target.name,
            src_dir_fd=source.folder.descriptor,
            dst_dir_fd=target.folder.descriptor,
            follow_symlinks=False,
        )

    def remove(self, place: Location) -> None:
        """Remove a file or a link, if it exists."""
        with suppress(FileNotFoundError):
            os.unlink(place.name, dir_fd=place.folder.descriptor)

    def remove_folder(self, place: Location) -> None:
        """Remove a folder if it exists and is empty."""
        try:
            os.rmdir(place.name, dir_fd=place.folder.descriptor)
        except FileNotFoundError:
            pass
        except OSError:
            if not (place.folder.holds_folder(place.name) and _is_filled(place)):
                raise


def _is_filled(place: Location) -> bool:
    with place.folder.enter(place.name) as folder:
        return bool(folder.names())


def make_folder(root: Path, key: str = "", disk: Disk | None = None) -> Folder:
    """Open the folder `key` below the trusted `root`; both are created if missing.

    Raises LinkError where a component of `key` is a link, FileNotFoundError where another process removes what is
    made meanwhile, and other kinds of OSError where the system refuses.
    """
    disk = disk or Disk()
    make_root(root, disk)
    return make_below(root, key, disk)


def make_below(root: Path, key: str, disk: Disk) -> Folder:
    """Open the folder `key` below a trusted, existing `root`; create it if missing. Raises as `make_folder`."""
    folder = Folder.trusted(root)
    for name in components(key):
        with folder:
            try:
                below = folder.enter(name)
            except FileNotFoundError:
                disk.make_folder(folder.at(name))
                below = folder.enter(name)
        folder = below
    return folder


def make_root(root: Path, disk: Disk | None = None) -> None:
    """Create a folder that the user named, and missing ones above it; flush the names above it."""
    disk = disk or Disk()
    missing: list[Path] = []
    path = root
    while not path.exists():
        if path.is_symlink():
            raise RefusedError(
                errno.ENOENT,
                f"{path} is a symbolic link that leads to nothing",
                path,
                "mount or make what it leads to, or remove the link.",
            )
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with Folder.trusted(folder.parent) as parent:
            disk.make_folder(parent.at(folder.name))
            if folder != root:  # whose name is flushed with the first file in it
                disk.flush_folder(parent)
