"""Shards in an object store, or wherever else obstore gets by a URL such as `s3://bucket/train/shard-000000.tar`.

Only what this module asks for is fetched: the listing of a folder, what tells one state of a shard from another, and
ranges of bytes. obstore is an extra, and imported when the first URL is met.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from kdcache.data.shard_file import ShardFile
from kdcache.errors import DataError

_AT_ONCE = 32
"""Requests, or batches of ranges of up to ten requests each, that one process has in flight."""

_RANGES_A_BATCH = 32

_WINDOW = 8 << 20
"""Bytes that a scan asks for at once: what is skipped within them costs less than another request would."""


def names_in(folder: str) -> list[str]:
    """The names of the objects directly under a URL, sorted. Raises DataError when it cannot be listed."""
    with _reading(folder) as library:
        found = library.open_store(folder).list_with_delimiter()["objects"]
        return sorted(entry["path"].rsplit("/", 1)[-1] for entry in found)


def states_of(urls: Sequence[str]) -> list[tuple[int, str]]:
    """Of each object its size in bytes, and a text that differs once it is written over: the ETag, or the time of
    modification where the store has none.

    Raises DataError, naming the object, when one is not there or cannot be looked at.
    """
    stores = _Stores()

    def state(url: str) -> tuple[int, str]:
        with _reading(url):
            found = stores.of(url).head(_name(url))
            return int(found["size"]), found["e_tag"] or found["last_modified"].isoformat()

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(state, urls))


def read_if_there(url: str) -> bytes | None:
    """The bytes of a small object, None where there is none to be seen. Raises DataError when it cannot be read."""
    with _reading(url) as library:
        try:
            return bytes(_Stores().of(url).get(_name(url)).bytes())
        except library.HIDDEN:
            return None


class RemoteFile(ShardFile):
    """A shard that is read from front to back, for the most part: by windows, of which the last two are kept.

    Two, since the header of the next sample is read before the image of this one. What lies between the end of a
    window and the next byte that is asked for is not fetched, and nothing from the byte `end` on unless asked for.
    """

    def __init__(self, url: str, end: int | None = None) -> None:
        self._url = url
        with _reading(url):
            self._store = _Stores().of(url)
            self.size = int(self._store.head(_name(url))["size"])
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
        """The bytes from `offset` to the end of a window: at least one."""
        for start, window in self._windows:
            if start <= offset < start + len(window):
                return window[offset - start :]
        length = min(_WINDOW, (self._end if offset < self._end else self.size) - offset)
        with _reading(self._url):
            window = memoryview(self._store.get_range(_name(self._url), start=offset, length=length))
        if len(window) != length:
            raise _shrunk(self._url)
        self._windows.append((offset, window))
        return window


class RangeReader:
    """Ranges of bytes of these objects, from any number of threads, with a bounded number of requests in flight."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self._stores = _Stores()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="kdcache-ranges")
        self._lock = threading.Lock()

    def read(self, runs: Sequence[tuple[int, Sequence[int], Sequence[int]]]) -> list[list[bytes]]:
        """Of each run (the number of an object, and offsets and lengths there) the bytes.

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

    def _fetch(self, url: str, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        with _reading(url):
            ranges = self._stores.of(url).get_ranges(_name(url), starts=offsets, lengths=lengths)
        return [bytes(found) for found in ranges]

    def close(self) -> None:
        """End the threads; a read that is going on is finished first, by whoever asked for it."""
        with self._lock:
            self._pool.shutdown(wait=False)


class _Stores:
    """One store for each folder, opened when it is first needed: its connections are kept and used again."""

    def __init__(self) -> None:
        self._opened: dict[str, Any] = {}

    def of(self, url: str) -> Any:
        folder = url.rpartition("/")[0]
        if folder not in self._opened:
            self._opened[folder] = _library(url).open_store(folder)
        return self._opened[folder]


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _library(url: str) -> ModuleType:
    try:
        from kdcache import object_store
    except ImportError as error:
        raise DataError(
            f"{url} lies in an object store, and obstore is not installed: pip install 'kdcache[objects]'."
        ) from error
    return object_store


@contextmanager
def _reading(url: str) -> Iterator[ModuleType]:
    """Turn an error of the store's into one that names what was read."""
    library = _library(url)
    try:
        yield library
    except library.FAILURES as error:
        if library.is_missing(error):
            raise DataError(
                f"There is no {url}, or no such bucket. Correct the URL, or check the endpoint (AWS_ENDPOINT_URL, ...)."
            ) from error
        raise DataError(
            f"Cannot read {url}: {library.cause(error)}. Check {library.SETTINGS}; a public bucket needs "
            "AWS_SKIP_SIGNATURE=true. Then run the same command again."
        ) from error


def _shrunk(url: str) -> DataError:
    return DataError(f"The shard {url} was written over while it was being read. Run the command again.")
