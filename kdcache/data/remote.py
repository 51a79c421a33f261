"""Shards in an object store, or at any other URL that obstore reads, such as `s3://bucket/train/shard-000000.tar`.

Only these parts are fetched: the listing of a folder, what tells one state of a shard from another, and
ranges of bytes. obstore is an extra, and imported when the first URL is met.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from kdcache.data.shard_file import ShardFile
from kdcache.errors import DataError, UnreachableDataError
from kdcache.io.failures import TooLargeError, cannot_read
from kdcache.io.reading import TEXT_LIMIT

if TYPE_CHECKING:
    from kdcache.io.object_store import ObjectState, ObjectStore

T = TypeVar("T")

_AT_ONCE = 32
"""Requests, or batches of ranges of up to ten requests each, that one process has in flight."""

_RANGES_A_BATCH = 32

_WINDOW = 8 << 20
"""Bytes that a scan requests at once: unused bytes cost less than another request."""

_READINGS = 3
"""Number of times that a shard, or a part of it, is read before it counts as damaged."""

_NEAR = 1 << 20
"""Bytes between two ranges below which they are fetched as one."""


def names_in(folder: str) -> list[str]:
    """Return the names of the objects directly under a URL, sorted. Raises DataError when it cannot be listed.

    A listing may be one of before: several are taken, and what not all of them have is looked at.
    """
    store = _open_store(folder)
    listings: list[set[str]] = []

    def look() -> bool:
        listings.append(set(store.names("")[0]))
        return False

    with _reading(folder):
        store.confirmed("", look, bool, _is_doubtful)
        found: set[str] = set.union(*listings)
        for name in found - listings[0].intersection(*listings):
            if store.confirmed(name, partial(store.head, name), _is_there, _is_doubtful) is None:
                found.discard(name)
    return sorted(found)


def states_of(urls: Sequence[str]) -> list[tuple[int, str]]:
    """Of each object its size in bytes, and a text that differs once it is written over: the ETag, or the time of
    modification where the store has none.

    Raises DataError, naming the object, when one is not there or cannot be looked at.
    """
    stores = _Stores()

    def state(url: str) -> tuple[int, str]:
        found = _look_at(stores.of(url), url)
        return found.size, found.e_tag or found.modified.isoformat()

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(state, urls))


def read_if_there(url: str) -> bytes | None:
    """Return the bytes of a small object, None where there is none to be seen.

    Raises DataError when it cannot be read, or has more bytes than a file of text may have, of which none is read then.
    Two reads have to agree, because no checksum of the bytes is known.
    """
    store = _Stores().of(url)
    readings: list[bytes] = []

    def read() -> bytes | None:
        for _ in range(2):
            found = store.get_if_visible(_name(url), partial(_require_small, url))
            if found is None or found in readings:
                return found
            readings.append(found)
        return None

    with _reading(url):
        agreed = store.confirmed(_name(url), read, _is_there, _is_doubtful)
    if agreed is None and readings:
        raise UnreachableDataError(
            f"Cannot read {url}: no two readings of it agree. Check the network, then run the same command again."
        )
    return agreed


def _require_small(url: str, size: int) -> None:
    if size > TEXT_LIMIT:
        raise DataError(cannot_read(url, TooLargeError(url, TEXT_LIMIT), "Restore it, or remove it."))


def read_again(shard: str, read: Callable[[], T], accept: Callable[[T], bool] = lambda found: True) -> T:
    """Return what `read` makes of a shard; of one in an object store, made again where it is doubtful.

    What came over a network may have been altered on the way, once; so it is fetched again before a shard or an image
    is called damaged.

    read: may raise DataError, which is doubtful, too.
    accept: whether what it gives is beyond doubt.
    """
    with _reading(shard):
        return _Stores().of(shard).confirmed(_name(shard), read, accept, _is_doubtful, _READINGS)


class RemoteFile(ShardFile):
    """A shard that is read from front to back, for the most part: by windows, of which the last two are kept.

    Two, since the header of the next sample is read before the image of this one. What lies between the end of a
    window and the next byte that is asked for is not fetched, and nothing from the byte `end` on unless asked for.
    """

    def __init__(self, url: str, end: int | None = None) -> None:
        self._url = url
        self._store = _Stores().of(url)
        self.size = _look_at(self._store, url).size
        self._end = self.size if end is None else min(end, self.size)
        self._windows: deque[tuple[int, memoryview]] = deque(maxlen=2)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fetches the window that begins at `offset` unless one has that byte already. Raises DataError."""
        wanted = max(0, min(len(buffer), self.size - offset))
        done = 0
        while done < wanted:
            part = self._from(offset + done)[: wanted - done]
            buffer[done : done + len(part)] = part
            done += len(part)
        return wanted

    def _from(self, offset: int) -> memoryview:
        """Return the bytes from `offset` to the end of a window: at least one."""
        for start, window in self._windows:
            if start <= offset < start + len(window):
                return window[offset - start :]
        length = min(_WINDOW, (self._end if offset < self._end else self.size) - offset)
        window = memoryview(_read_range(self._store, self._url, offset, length))
        if len(window) != length:
            raise DataError(f"The shard {self._url} was written over while it was being read. Run the command again.")
        self._windows.append((offset, window))
        return window


class RangeReader:
    """Reads ranges of bytes of objects, from any number of threads, with a bounded number of requests in flight."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._stores = _Stores()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="kdcache-ranges")
        self._lock = threading.Lock()

    def read(self, runs: Sequence[tuple[int, Sequence[int], Sequence[int]]]) -> list[list[bytes]]:
        """Of each run (the number of an object, and ascending offsets and lengths there) the bytes.

        Ranges less than a megabyte apart are fetched as one. Bytes behind the end of an object are left out.
        Raises DataError, naming the object, when it is not there or cannot be read.
        """
        batches = [
            (run, self._urls[number], offsets[low : low + _RANGES_A_BATCH], lengths[low : low + _RANGES_A_BATCH])
            for run, (number, offsets, lengths) in enumerate(runs)
            for low in range(0, len(offsets), _RANGES_A_BATCH)
        ]
        with self._lock:  # closing comes before or after all of them
            fetched = self._pool.map(lambda batch: self._fetch(*batch[1:]), batches)
        found: list[list[bytes]] = [[] for _ in runs]
        for (run, *_), images in zip(batches, fetched, strict=True):
            found[run] += images
        return found

    def read_one(self, number: int, offset: int, length: int) -> bytes:
        """Fetch one range of the object of this number. Raises DataError as `read` does."""
        url = self._urls[number]
        return _read_range(self._stores.of(url), url, offset, length)

    def read_again(self, number: int, read: Callable[[], T]) -> T:
        """Return the result of `read` on bytes of the object of this number; retry if it raises DataError."""
        url = self._urls[number]
        return self._stores.of(url).confirmed(_name(url), read, _is_there, _is_doubtful)

    def _fetch(self, url: str, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        stretches = _stretches(offsets, lengths)
        starts, sizes = [start for start, _ in stretches], [end - start for start, end in stretches]
        store = self._stores.of(url)
        with _reading(url):
            parts = store.get_ranges(_name(url), starts, sizes)
        if parts is None:
            parts = [_read_range(store, url, start, size) for start, size in zip(starts, sizes, strict=True)]
        images, number = [], 0
        for offset, length in zip(offsets, lengths, strict=True):
            while offset + length > stretches[number][1]:
                number += 1
            first = offset - starts[number]
            images.append(parts[number][first : first + length])
        return images

    def close(self) -> None:
        """End the threads; a running read is finished first."""
        with self._lock:
            self._pool.shutdown(wait=False)


def _stretches(offsets: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first byte, and the byte after the last, of the requests for ascending ranges."""
    found: list[tuple[int, int]] = []
    for offset, length in zip(offsets, lengths, strict=True):
        if found and offset - found[-1][1] < _NEAR:
            found[-1] = (found[-1][0], max(found[-1][1], offset + length))
        else:
            found.append((offset, offset + length))
    return found


class _Stores:
    """One store per folder, opened when it is first used; its connections are reused."""

    def __init__(self) -> None:
        self._opened: dict[str, ObjectStore] = {}

    def of(self, url: str) -> "ObjectStore":
        folder = url.rpartition("/")[0]
        if folder not in self._opened:
            self._opened[folder] = _open_store(folder)
        return self._opened[folder]


def _open_store(folder: str) -> "ObjectStore":
    with _reading(folder) as library:
        store: ObjectStore = library.ObjectStore(folder)
        return store


def _library(url: str) -> ModuleType:
    try:
        from kdcache.io import object_store
    except ImportError as error:
        raise DataError(
            f"{url} lies in an object store, and obstore is not installed: pip install 'kdcache[objects]'."
        ) from error
    return object_store


def _look_at(store: "ObjectStore", url: str) -> "ObjectState":
    with _reading(url):
        found = store.confirmed(_name(url), lambda: store.head(_name(url)), _is_there, _is_doubtful)
    if found is None:
        raise _missing(url)
    return found


def _read_range(store: "ObjectStore", url: str, offset: int, length: int) -> bytes:
    """Return the bytes, fewer where the object ends before. Raises DataError where it cannot be read."""
    with _reading(url):
        found = store.confirmed(
            _name(url),
            lambda: store.get_range(_name(url), offset, length),
            lambda part: part is not None and len(part) == length,
            _is_doubtful,
        )
    if found is None:
        raise _missing(url)
    return found


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _is_there(found: object) -> bool:
    return found is not None


def _is_doubtful(error: BaseException) -> bool:
    """Return whether an error may come from bytes that were altered on the way, and not from a request that failed."""
    return isinstance(error, DataError) and not isinstance(error, UnreachableDataError)


def _missing(url: str) -> DataError:
    return DataError(
        f"There is no {url}, or no such bucket. Correct the URL, or check the endpoint (AWS_ENDPOINT_URL, ...)."
    )


@contextmanager
def _reading(url: str) -> Iterator[ModuleType]:
    """Convert an error of the store to one that names the shard."""
    library = _library(url)
    try:
        yield library
    except library.StoreError as error:
        if error.is_missing:
            raise _missing(url) from error
        raise UnreachableDataError(
            f"Cannot read {url}: {error}. Check {library.SETTINGS}; a public bucket needs "
            "AWS_SKIP_SIGNATURE=true. Then run the same command again."
        ) from error
