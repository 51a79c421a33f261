"""The paths and URLs of shards.

Shards are plain tar files on a file system, or in an object store (see `remote`). Which names a brace pattern stands
for is webdataset's own rule; only random access by byte offset (see `reader`) is ours.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcache.data import remote
from kdcache.data.places import is_folder, is_pattern, is_url
from kdcache.data.shard_file import LocalFile, ShardFile
from kdcache.errors import DataError
from kdcache.io.failures import RefusedError, cause
from kdcache.io.reading import opened
from kdcache.io.remedies import REMEDIES
from kdcache.runtime.open_files import open_files_limit

CLASSES = "classes.json"
"""The file beside the shards that lists the class names in the order of their labels."""

INCOMPLETE = "IMPORT-INCOMPLETE"
"""A file that lies in a folder of shards from the first byte of an import until its last."""


_COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")
_SHOWN = 3
_RESTORE = "restore it, or leave it out of DATA."
_REMEDIES = {number: REMEDIES[number] for number in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENFILE)}


def expand_data(data: str | Path) -> tuple[str, ...]:
    """Return the absolute paths, or URLs, of the shards of DATA, in order.

    data: a folder (its `*.tar` files by name), one tar file, or a brace pattern such as `train-{000000..001023}.tar`
        with webdataset's expansion, whose order is kept; or a URL of any of them, such as `s3://bucket/train`.

    Raises DataError when there is no shard, when one of them is missing or listed twice (a URL that is missing is
    found by whoever looks at it), when DATA is a program, and when the import that made the shards did not finish.
    """
    names = ["pipe:"] if str(data).startswith("pipe:") else [] if is_folder(data) else _expand_braces(str(data))
    if any(name.startswith("pipe:") for name in names):
        raise DataError(
            f"{data} is a program; kdcache reads single images out of the shards at random. "
            "Put the shards on a file system or into an object store, and name the folder."
        )
    shards = tuple(name if is_url(name) else os.path.abspath(name) for name in names) or _in_folder(data)
    if len({is_url(shard) for shard in shards}) > 1:
        raise DataError(f"{data} names shards on a file system and elsewhere. Bring them together.")
    for folder in dict.fromkeys(os.path.dirname(shard) for shard in shards):
        if _exists(f"{folder}/{INCOMPLETE}"):
            raise DataError(
                f"The import into {folder} did not finish, so images are missing. Run the same import again."
            )
    seen: set[str] = set()
    for shard in shards:
        if shard in seen:
            raise DataError(f"{data} names the shard {shard} twice. Name each shard once.")
        seen.add(shard)
        if not is_url(shard):
            _require_file(shard, data)
    return shards


def _require_file(shard: str, data: str | Path) -> None:
    if not _look_for(shard):
        if os.path.islink(shard):
            raise DataError(
                f"The shard {shard} is a link to {os.readlink(shard)}, which is not there. Restore that, or remove the "
                "link."
            )
        raise DataError(f"The shard {shard} named by {data} does not exist. Correct the pattern, or add it.")
    if not os.path.isfile(shard):
        what = "a folder" if os.path.isdir(shard) else "no regular file"
        raise DataError(f"The shard {shard} is {what}. Give it another name, or remove it.")


def _exists(path: str) -> bool:
    return remote.read_if_there(path) is not None if is_url(path) else os.path.exists(path)


def _look_for(path: str) -> bool:
    """Return whether a path exists. Raises DataError if a folder above it cannot be read."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataError(
            f"{path} cannot be reached: {error.strerror}. {REMEDIES.get(error.errno or 0, 'Check the path.')}"
        ) from error
    return True


def _in_folder(data: str | Path) -> tuple[str, ...]:
    folder, names = _names_in(data)
    shards = tuple(f"{folder}/{name}" for name in names if _is_shard(name) and not name.startswith("."))
    compressed = [name for name in names if name.endswith(_COMPRESSED) and not name.startswith(".")]
    compressed = [name for name in compressed if f"{name.partition('.t')[0]}.tar" not in names]
    if compressed and INCOMPLETE not in names:
        raise DataError(
            f"{len(compressed)} shard{'s' if len(compressed) > 1 else ''} in {folder} (such as {compressed[0]}) "
            f"{'are' if len(compressed) > 1 else 'is'} compressed, which rules out random access. "
            "Unpack them to plain .tar files (images are compressed already)."
        )
    if shards:
        return shards
    if INCOMPLETE in names:
        raise DataError(f"The import into {folder} did not finish. Run the same import again.")
    below = folders_with_shards(data)
    if below:
        raise DataError(
            f"There are no .tar files in {folder} itself, but in {', '.join(below[:_SHOWN])}"
            f"{', ...' * (len(below) > _SHOWN)} below it. Name that folder."
        )
    hidden = hidden_shards(data)
    raise DataError(
        f"There are no .tar files in {folder}"
        + (f", but hidden ones, such as {hidden[0]}, which macOS writes beside files" if hidden else "")
        + ". Name a folder of webdataset shards, or make one from a folder of images with `kdcache import folder`."
    )


def hidden_shards(data: str | Path) -> list[str]:
    """Return the names of tars in the folder DATA that begin with a dot and so are no shards; none for a pattern.

    The shell's `*.tar` passes over them as well. macOS writes them (`._a.tar`) where a disk keeps no notes on files.
    """
    if not is_folder(data):
        return []
    return [name for name in _names_in(data)[1] if name.startswith(".") and _is_shard(name)]


def folders_with_shards(data: str | Path) -> list[str]:
    """Return the names of folders directly in the folder DATA that hold shards, which are not part of DATA.

    None if DATA is no folder, or one in an object store, where each would cost a listing; hidden folders do not count.
    """
    if is_url(data) or not is_folder(data):
        return []
    folder, names = _names_in(data)
    return [name for name in names if not name.startswith(".") and _holds_shards(f"{folder}/{name}")]


def _names_in(data: str | Path) -> tuple[str, list[str]]:
    folder = str(data).rstrip("/") if is_url(data) else os.path.abspath(data)
    try:
        return folder, remote.names_in(folder) if is_url(folder) else sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}. Check its permissions.") from error


def _is_shard(name: str) -> bool:
    return name.lower().endswith(".tar")


def _holds_shards(folder: str) -> bool:
    try:
        return any(_is_shard(name) and not name.startswith(".") for name in os.listdir(folder))
    except OSError:  # no folder, or none of ours
        return False


def _expand_braces(pattern: str) -> list[str]:
    if not is_pattern(pattern):
        if not is_url(pattern) and not _look_for(pattern):
            raise DataError(
                f"{pattern} does not exist. Name a folder of .tar files or a brace pattern of them, "
                "or make shards from a folder of images with `kdcache import folder`."
            )
        return [pattern]
    from webdataset.shardlists import expand_urls  # imports torch

    try:
        return expand_urls(pattern)
    except (ValueError, AssertionError) as error:  # unbalanced braces, a missing environment variable
        raise DataError(f"The pattern {pattern} cannot be expanded: {error}. Correct it.") from error


@contextmanager
def open_shard(shard: str, end: int | None = None) -> Iterator[ShardFile]:
    """Open a shard, to be read by position. Raises DataError when it cannot be opened or, within the block, read.

    end: the byte before which reading will stop, so that nothing behind it is fetched in advance; None for the last.
    """
    if is_url(shard):
        yield remote.RemoteFile(shard, end)
        return
    try:
        with opened(shard) as descriptor:
            yield LocalFile(descriptor)
    except OSError as error:
        raise unreadable(shard, error) from error


def unreadable(shard: str, error: OSError) -> DataError:
    """Return the error for a shard on a file system that cannot be opened or read."""
    if error.errno == errno.EMFILE:
        return DataError(
            f"The shard {shard} cannot be opened: this process has as many files open as it may, "
            f"{open_files_limit():,}. Raise the limit (`ulimit -n 4096` in the same shell), then run the same command "
            "again."
        )
    remedy = error.remedy if isinstance(error, RefusedError) else _REMEDIES.get(error.errno or 0, _RESTORE)
    return DataError(f"The shard {shard} cannot be read: {cause(error)}. {remedy[:1].upper()}{remedy[1:]}")
