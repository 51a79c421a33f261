"""Reading of single images from the shards, by their row in the index."""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import chain

import google_crc32c
import numpy as np
from jaxtyping import Int64, Integer
from PIL import Image

from kdcache.data import remote
from kdcache.data.index import Index
from kdcache.data.places import is_url
from kdcache.data.shards import unreadable
from kdcache.errors import DataError
from kdcache.io.reading import open_descriptor
from kdcache.io.remedies import REMEDIES
from kdcache.runtime.open_files import open_files_limit

#: Images that are read at the same time. On a network disk a read takes about a millisecond, so that one thread would
#: read fewer than 1,000 images a second.
AT_ONCE = 8

#: Shards that a reader keeps open. A batch that is read front to back needs each of them once.
MOST_OPEN = 64


@lru_cache(maxsize=4)
def grey_image(height: int, width: int) -> bytes:
    """Return a PNG file of these sides that stands in for a lost sample's image, so that rows keep their places.

    A dump makes targets of it that are never read: trainings pass over its pair.
    """
    buffer = BytesIO()
    Image.new("L", (width, height), 128).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class SampleReader:
    """Reads encoded images at random, from any number of threads, with a bounded number of open shards or requests.

    index: index of the samples.
    open_files: number of shards that stay open; None: an eighth of the process's limit of open files, at most 64.
        Threads that read at the same moment may exceed it by one each.
    """

    def __init__(self, index: Index, open_files: int | None = None) -> None:
        self._index = index
        self._ranges = remote.RangeReader(index.shards) if is_url(index.shards[0]) else None
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="kdcache-reader")
        self._files = _OpenFiles(index.shards, open_files or max(1, min(MOST_OPEN, open_files_limit() // 8)))

    def read(self, samples: Int64[np.ndarray, " b"]) -> list[bytes]:
        """Return the image files of samples (numbers in the index), in the order given; a grey one for a lost sample.

        They are read in `AT_ONCE` parts at the same time, within each of which the shards are read front to back.
        Raises DataError when a shard is gone, cannot be read, or is shorter than it was when the index was made, and
        when an image that was checked has other bytes now.
        """
        wanted = _Wanted.of(self._index, samples)
        images: list[bytes] = [b""] * len(samples)
        order = np.lexsort((wanted.offsets, wanted.shards))
        if len(self._index.lost):
            is_lost = np.isin(samples, self._index.lost)
            for place in np.flatnonzero(is_lost).tolist():
                images[place] = grey_image(
                    *(int(side[samples[place]]) for side in (self._index.height, self._index.width))
                )
            order = order[~is_lost[order]]
        if self._ranges is not None:
            ranges = [
                (int(wanted.shards[run[0]]), wanted.offsets[run].tolist(), wanted.lengths[run].tolist())
                for run in wanted.runs(order)
            ]
            found = self._ranges.read(ranges)
            for place, data in zip(order.tolist(), chain.from_iterable(found), strict=True):
                images[place] = self._whole_remote(self._ranges, data, *wanted.at(place))
            return images
        for place, data in self._read_local(wanted, order):
            images[place] = data
        return images

    def _read_local(self, wanted: "_Wanted", order: Int64[np.ndarray, " n"]) -> Iterator[tuple[int, bytes]]:
        """Yield the place and the image file of each sample at these places, which are sorted by shard and offset."""
        parts = np.array_split(order, min(AT_ONCE, len(order))) if len(order) > 1 else []
        try:
            reads = [self._pool.submit(self._read_part, wanted, part) for part in parts]
        except RuntimeError:  # closed meanwhile, or the system allows no other thread
            parts, reads = [], []
        if not parts:
            yield from self._read_part(wanted, order)
        wait(reads)
        for part, read in zip(parts, reads, strict=True):
            # What failed is tried once more alone: fewer shards are open then.
            yield from read.result() if read.exception() is None else self._read_part(wanted, part)

    def _read_part(self, wanted: "_Wanted", order: Int64[np.ndarray, " n"]) -> list[tuple[int, bytes]]:
        found = []
        for run in wanted.runs(order):
            with self._files.borrow(int(wanted.shards[run[0]])) as descriptor:
                for place in run.tolist():
                    sample, _, offset, length = wanted.at(place)
                    found.append((place, self._read_one(descriptor, sample, offset, length)))
        return found

    def _read_one(self, descriptor: int, sample: int, offset: int, length: int) -> bytes:
        try:
            data = os.pread(descriptor, length, offset)
        except OSError as error:
            raise DataError(
                f"{self._index.describe(sample)} cannot be read: {error.strerror}. "
                f"{REMEDIES.get(error.errno or 0, 'Restore the shard, then run the same command again.')}"
            ) from error
        return self._whole(data, sample, length)

    def _whole_remote(
        self, ranges: remote.RangeReader, data: bytes, sample: int, shard: int, offset: int, length: int
    ) -> bytes:
        """Return the same as `_whole`; bytes that are incomplete or altered are fetched once more."""
        try:
            return self._whole(data, sample, length)
        except DataError:
            return ranges.read_again(shard, lambda: self._whole(ranges.read_one(shard, offset, length), sample, length))

    def _whole(self, data: bytes, sample: int, length: int) -> bytes:
        if len(data) != length:
            raise DataError(
                f"{self._index.describe(sample)} ends after {len(data)} of {length} bytes: the shard has shrunk since "
                "its index was made. Restore the shard, or train on what is there after "
                f"`kdcache index {self._index.data}`."
            )
        if self._index.crc is not None and google_crc32c.value(data) != self._index.crc[sample]:
            raise DataError(
                f"The bytes of {self._index.describe(sample)} are not those that were checked: they are damaged on the "
                "way from the disk, or the shard was written over. Restore the shard, or run `kdcache index "
                f"{self._index.data} --check` again."
            )
        return data

    def close(self) -> None:
        """Close all shards and end the threads that read; a read that goes on keeps its shard until it is done."""
        self._files.close()
        # A request to a store may take minutes to fail, and is not waited for.
        self._pool.shutdown(wait=self._ranges is None, cancel_futures=True)
        if self._ranges is not None:
            self._ranges.close()

    def __enter__(self) -> "SampleReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True, eq=False)
class _Wanted:
    """The samples of a batch, and where the index has them: looked up once for all threads that read."""

    samples: Int64[np.ndarray, " b"]
    shards: Integer[np.ndarray, " b"]
    offsets: Integer[np.ndarray, " b"]
    lengths: Integer[np.ndarray, " b"]

    @classmethod
    def of(cls, index: Index, samples: Int64[np.ndarray, " b"]) -> "_Wanted":
        return cls(samples, index.shard[samples], index.offset[samples], index.length[samples])

    def at(self, place: int) -> tuple[int, int, int, int]:
        """Return the number, shard, offset and length of the sample at a place."""
        return int(self.samples[place]), int(self.shards[place]), int(self.offsets[place]), int(self.lengths[place])

    def runs(self, order: Int64[np.ndarray, " n"]) -> list[Int64[np.ndarray, " _"]]:
        """Return the places, which are sorted by shard, in one array for each shard."""
        return np.split(order, np.flatnonzero(np.diff(self.shards[order])) + 1) if len(order) else []


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
                self._open[shard] = self._open_one(self._paths[shard])
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

    def _open_one(self, path: str) -> int:
        while True:
            self._close_idle(self._limit - 1)
            try:
                return open_descriptor(path)
            except OSError as error:
                # Something else in this process has taken what is allowed: keep less open from now on.
                if error.errno != errno.EMFILE or not self._close_idle(len(self._open) // 2):
                    raise unreadable(path, error) from error
                self._limit = max(1, len(self._open))

    def _close_idle(self, limit: int) -> bool:
        """Close what nobody uses, least recently used first, until `limit` are open; whether any was closed."""
        before = len(self._open)
        for shard in list(self._open):
            if len(self._open) <= limit:
                break
            if self._users.get(shard, 0) == 0:
                os.close(self._open.pop(shard))
                self._users.pop(shard, None)
        return len(self._open) < before
