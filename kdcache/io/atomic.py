"""Atomic files and folders: complete or absent, whenever the process is killed; never written through a link.

Bytes are written beside their place under a name of our own (`.NAME.partial-HEX`), flushed, and renamed. What a killed
process left is known by that name, and nothing of another name is ever removed.
"""

import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdcache.io.disk import Disk, make_below, make_folder
from kdcache.io.failures import LinkError, RefusedError
from kdcache.io.folders import Folder, Location, components, open_folder

#: Pattern of temporary names. Code that lists a folder skips them.
PARTIAL_NAME = re.compile(r"\.(?P<name>.+)\.partial-[0-9a-f]{32}", re.DOTALL)

#: Files that file managers and network file systems leave in any folder; they may be removed.
_NOBODYS = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+", re.DOTALL)


def replace_file(root: Path, key: str, *parts: bytes, disk: Disk | None = None) -> None:
    """Replace a file by one with these bytes; the file is flushed before, and its folder after.

    Folders between `root` and it are made. A link in the file's place is replaced, and what it leads to stays as it is.

    Args:
        root: the folder that the user named.
        key: the file's path below it, with slashes.

    Raises:
        OSError: the disk refuses; what was there before is whole.
        LinkError: a folder on the way from `root` is a link.
    """
    disk = disk or Disk()
    *above, name = components(key)
    with make_below(root, "/".join(above), disk) as folder:
        partial = folder.at(partial_name(name))
        file = disk.create(partial)
        try:
            try:
                for part in parts:
                    disk.write(file, part)
                disk.flush(file)
            finally:
                os.close(file)
            disk.replace(partial, folder.at(name))
        except BaseException:
            with suppress(OSError):
                disk.remove(partial)
            raise
        disk.flush_folder(folder)


def append(root: Path, key: str, data: bytes, disk: Disk | None = None) -> None:
    """Add bytes to the end of a file, or none of them where the disk refuses; the file is made where it is missing.

    Raises:
        OSError: the disk refuses.
        LinkError: the file, or a folder on the way from `root`, is a link.
    """
    disk = disk or Disk()
    *above, name = components(key)
    with make_below(root, "/".join(above), disk) as folder:
        file = disk.open(folder.at(name))
        try:
            end = os.lseek(file, 0, os.SEEK_END)
            try:
                disk.write(file, data)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(file, end)
                raise
        finally:
            os.close(file)


@contextmanager
def new_folder(root: Path, key: str, ours: re.Pattern[str], disk: Disk | None = None) -> Iterator[Path]:
    """Yield a folder to fill, which replaces `key` when the block ends without an error.

    It is empty, and has a path of its own that stays right whatever is renamed meanwhile. When an error ends the block
    it is removed, and what stood there is whole.

    Args:
        root: the folder that the user named.
        key: the new folder's path below it, with slashes; folders on the way are made.
        ours: matches the names of all that such a folder holds. A former one with anything else is not replaced.

    Raises:
        OSError: the disk refuses.
        LinkError: `key`, or a folder on the way to it, is a link.
        RefusedError: a former folder holds what nothing of ours has written.
    """
    disk = disk or Disk()
    *above, name = components(key)
    with make_folder(root, "/".join(above), disk) as parent:
        _require_ours(parent.at(name), ours)
        partial = parent.at(partial_name(name))
        disk.make_folder(partial)
        try:
            with parent.enter(partial.name) as folder:
                yield folder.library_path()
                _flush_all(folder, disk)
            _require_ours(parent.at(name), ours)
            _swap(partial, parent.at(name), disk)
        except BaseException:
            remove_tree(partial)
            raise
        disk.flush_folder(parent)


def partial_name(name: str) -> str:
    """Return an unused name for what will become `name`."""
    return f".{name}.partial-{uuid.uuid4().hex}"


def tidy(root: Path, key: str = "", *, of: str | None = None, disk: Disk | None = None) -> None:
    """Remove the incomplete files of a killed process from a folder: only names of this module's pattern.

    Not while another process writes there. Nothing happens where there is no such folder.

    of: remove only what was to become this name; None for all.

    Raises:
        OSError: it cannot be removed; LinkError where the folder, or one on the way from `root`, is a link.
    """
    disk = disk or Disk()
    try:
        folder = open_folder(root, key)
    except FileNotFoundError:
        return
    with folder:
        for name in folder.names():
            partial = PARTIAL_NAME.fullmatch(name)
            if partial and of in (None, partial["name"]):
                _remove(folder.at(name), disk)


def remove_known(root: Path, key: str, known: re.Pattern[str], disk: Disk | None = None) -> None:
    """Remove a file, or a folder and all known files in it; other files stay, and so do their folders.

    Args:
        root: the folder that the user named.
        key: a path below it, with slashes.
        known: matches the paths below `root`, with slashes, of all that may be removed.

    Raises:
        OSError: something cannot be removed.
        LinkError: a folder on the way is a link. A link that lies where a file should be is removed itself.
    """
    disk = disk or Disk()
    *above, name = components(key)
    with suppress(FileNotFoundError), open_folder(root, "/".join(above)) as folder:
        _remove_known(folder.at(name), key, known, disk)


def remove_tree(place: Location) -> None:
    """Remove a folder with a name of this module and all of its content, as far as possible; follow no link."""
    shutil.rmtree(place.name, ignore_errors=True, dir_fd=place.folder.descriptor)


def _remove_known(place: Location, key: str, known: re.Pattern[str], disk: Disk) -> None:
    folder = place.folder
    if not known.fullmatch(key) or folder.stat(place.name) is None:
        return
    if not folder.holds_folder(place.name):
        if folder.holds_link(place.name) and _is_folder(place):
            raise LinkError(place.path)
        disk.remove(place)
        return
    with folder.enter(place.name) as inner:
        for name in inner.names():
            _remove_known(inner.at(name), f"{key}/{name}", known, disk)
    disk.remove_folder(place)


def _is_folder(place: Location) -> bool:
    """Return whether a link leads to a folder."""
    try:
        return stat.S_ISDIR(os.stat(place.name, dir_fd=place.folder.descriptor).st_mode)
    except OSError:
        return False


def _remove(place: Location, disk: Disk) -> None:
    if place.folder.holds_folder(place.name):
        remove_tree(place)
    else:
        disk.remove(place)


def _flush_all(folder: Folder, disk: Disk) -> None:
    """Give all files of a new folder the permissions of the umask, and flush the files and the folder.

    safetensors makes files for one user alone: they are for whom the umask allows, as the folder shows.
    """
    allowed = os.stat(folder.descriptor).st_mode & 0o666
    for name in folder.names():
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=folder.descriptor)
        try:
            mode = os.fstat(file).st_mode
            if stat.S_ISREG(mode) and mode & allowed != allowed:
                os.fchmod(file, stat.S_IMODE(mode) | allowed)
            disk.flush(file)
        finally:
            os.close(file)
    disk.flush_folder(folder)


def require_ours(root: Path, key: str, ours: re.Pattern[str]) -> None:
    """Raise as `new_folder` does where it would replace no former folder at `key`; nothing is changed."""
    *above, name = components(key)
    with suppress(FileNotFoundError), open_folder(root, "/".join(above)) as parent:
        _require_ours(parent.at(name), ours)


def _require_ours(place: Location, ours: re.Pattern[str]) -> None:
    if place.folder.holds_link(place.name):
        raise LinkError(place.path)
    if place.folder.stat(place.name) is None:
        return
    with place.folder.enter(place.name) as former:
        for name in former.names():
            if not (ours.fullmatch(name) or PARTIAL_NAME.fullmatch(name) or _NOBODYS.fullmatch(name)):
                raise RefusedError(
                    0,
                    f"{former.path} holds {name}, which kdcache did not write and which would be lost with the folder "
                    "that is written anew",
                    former.path / name,
                    "move it elsewhere, then run the same command again.",
                )


def _swap(partial: Location, target: Location, disk: Disk) -> None:
    """Replace a former folder by a filled one, and remove the former.

    No system call swaps folders everywhere. Killed between the two renamings, neither is in its place; whoever writes
    a folder anew has what it holds at hand, and writes it again.
    """
    former: Location | None = None
    if target.folder.stat(target.name) is not None:
        former = target.folder.at(partial_name(target.name))
        disk.replace(target, former)
    try:
        disk.replace(partial, target)
    except BaseException:
        if former is not None:
            disk.replace(former, target)
        raise
    if former is not None:
        remove_tree(former)
