"""Where the shards are, and reading single images out of them.

Shards are plain tar files on a file system, or in an object store (see `remote`). Which names a brace pattern stands
for is webdataset's own rule; only random access by byte offset is ours.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np
from jaxtyping import Int64

from kdcache.data import remote
from kdcache.data.places import is_folder, is_pattern, is_url
from kdcache.data.shard_file import LocalFile, ShardFile
from kdcache.errors import DataError

if TYPE_CHECKING:
    from kdcache.data.index import Index

CLASSES = "classes.json"
"""The file beside the shards that lists the class names in the order of their labels."""

INCOMPLETE = "IMPORT-INCOMPLETE"
"""A file that lies in a folder of shards from the first byte of an import until its last."""


def expand_data(data: str | Path) -> tuple[str, ...]:
    """Absolute paths, or URLs, of the shards that DATA stands for, in order.

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
        if not is_url(shard) and not os.path.isfile(shard):
            raise DataError(f"The shard {shard} named by {data} does not exist. Correct the pattern, or add it.")
    return shards


def _exists(path: str) -> bool:
    return remote.read_if_there(path) is not None if is_url(path) else os.path.exists(path)


def _in_folder(data: str | Path) -> tuple[str, ...]:
    folder = str(data).rstrip("/") if is_url(data) else os.path.abspath(data)
    try:
        names = remote.names_in(folder) if is_url(folder) else sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror}. Check its permissions.") from error
    shards = tuple(f"{folder}/{name}" for name in names if name.endswith(".tar"))
    if shards:
        return shards
    if INCOMPLETE in names:
        raise DataError(f"The import into {folder} did not finish. Run the same import again.")
    if any(name.endswith((".tar.gz", ".tgz", ".tar.zst")) for name in names):
        raise DataError(
            f"The shards in {folder} are compressed, which rules out random access. "
            "Unpack them to plain .tar files (images are compressed already)."
        )
    raise DataError(
        f"There are no .tar files in {folder}. Name a folder of webdataset shards, "
        "or make one from a folder of images with `kdcache import folder`."
    )


def _expand_braces(pattern: str) -> list[str]:
    if not is_pattern(pattern):
        if not is_url(pattern) and not os.path.exists(pattern):
            raise DataError(f"{pattern} does not exist. Name a folder of .tar files or a brace pattern of them.")
        return [pattern]
    from webdataset.shardlists import expand_urls  # imports torch

    try:
        return expand_urls(pattern)
    except (ValueError, AssertionError) as error:  # unbalanced braces, a missing environment variable
        raise DataError(f"The pattern {pattern} cannot be expanded: {error}. Correct it.") from error


@contextmanager
def open_shard(shard: str) -> Iterator[ShardFile]:
    """A shard, to be read by position. Raises DataError when it cannot be opened or, within the block, read."""
    if is_url(shard):
        yield remote.RemoteFile(shard)
        return
    try:
        with open(shard, "rb") as stream:
            yield LocalFile(stream.fileno())
    except OSError as error:
        raise DataError(
            f"The shard {shard} cannot be read: {error.strerror or error}. Restore it, or leave it out of DATA."
        ) from error


class SampleReader:
    """Reads encoded images at random, from any number of threads, with a bounded number of open shards or requests.

    index: where each sample lies.
    open_files: how many shards stay open; threads that read at the same moment may exceed it by one each.
    """

    def __init__(self, index: "Index", open_files: int = 64) -> None:
        self._index = index
        self._ranges = remote.RangeReader(index.shards) if is_url(index.shards[0]) else None
        self._files = _OpenFiles(index.shards, open_files)

    def read(self, samples: Int64[np.ndarray, " b"]) -> list[bytes]:
        """The image files of these samples (numbers in the index), in the order given.

        Within the call the shards are read front to back. Raises DataError when a shard is gone, cannot be read, or
        is shorter than it was when the index was made, and when an image that was checked has other bytes now.
        """
        shards, offsets, lengths = (
            column[samples] for column in (self._index.shard, self._index.offset, self._index.length)
        )
        images: list[bytes] = [b""] * len(samples)
        order = np.lexsort((offsets, shards))
        runs = np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(order) else []
        if self._ranges is not None:
            wanted = [(int(shards[run[0]]), offsets[run].tolist(), lengths[run].tolist()) for run in runs]
            found = self._ranges.read(wanted)
            for place, data in zip(order.tolist(), chain.from_iterable(found), strict=True):
                images[place] = self._whole(data, int(samples[place]), int(lengths[place]))
            return images
        for run in runs:
            shard = int(shards[run[0]])
            with self._files.borrow(shard) as descriptor:
                for place in run.tolist():
                    images[place] = self._read_one(
                        descriptor, int(samples[place]), int(offsets[place]), int(lengths[place])
                    )
        return images

    def _read_one(self, descriptor: int, sample: int, offset: int, length: int) -> bytes:
        try:
            data = os.pread(descriptor, length, offset)
        except OSError as error:
            raise DataError(f"{self._index.describe(sample)} cannot be read: {error.strerror}.") from error
        return self._whole(data, sample, length)

    def _whole(self, data: bytes, sample: int, length: int) -> bytes:
        if len(data) != length:
            raise DataError(
                f"{self._index.describe(sample)} ends after {len(data)} of {length} bytes: the shard has shrunk since "
                "its index was made. Restore the shard, or run `kdcache index DATA` and train on what is there."
            )
        if self._index.crc is not None and google_crc32c.value(data) != self._index.crc[sample]:
            raise DataError(
                f"The bytes of {self._index.describe(sample)} are not those that were checked: they are damaged on the "
                "way from the disk, or the shard was written over. Restore the shard, or run `kdcache index DATA "
                "--check` again."
            )
        return data

    def close(self) -> None:
        """Close all shards; a read still going on in another thread keeps its own until it is done."""
        self._files.close()
        if self._ranges is not None:
            self._ranges.close()

    def __enter__(self) -> "SampleReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _OpenFiles:
    """The file descriptors of the shards read last; one in use is never closed under its reader."""

    def __init__(self, paths: tuple[str, ...], limit: int) -> None:
        self._paths = paths
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, least recently used first
        self._users: dict[int, int] = {}

    @contextmanager
    def borrow(self, shard: int) -> Iterator[int]:
        with self._lock:
            if shard not in self._open:
                self._open[shard] = _open_shard(self._paths[shard])
            self._open.move_to_end(shard)
            self._users[shard] = self._users.get(shard, 0) + 1
            descriptor = self._open[shard]
        try:
            yield descriptor
        finally:
            with self._lock:
                self._users[shard] -= 1
                self._close_idle(self._limit)

    def close(self) -> None:
        with self._lock:
            self._limit = 0
            self._close_idle(0)

    def _close_idle(self, limit: int) -> None:
        for shard in list(self._open):
            if len(self._open) <= limit:
                break
            if self._users.get(shard, 0) == 0:
                os.close(self._open.pop(shard))
                self._users.pop(shard, None)


def _open_shard(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(
            f"The shard {path} cannot be opened: {error.strerror}. Restore it, or run `kdcache index DATA` again."
        ) from error
