"""Reading ahead: ranges of rows from a cache, decoded by a thread before they are asked for."""

from collections import Counter, deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from kdcache.cache.entry import Entry
from kdcache.cache.layout import Layout
from kdcache.errors import CacheError
from kdcache.targets.base import Targets

#: view, first row, row after the last
Range = tuple[int, int, int]
#: view and chunk, and the rows of the chunk that are wanted
Piece = tuple[tuple[int, int], slice]

#: Ranges that are taken from the caller before they are due, at most.
MAX_RANGES_AHEAD = 1024


def stream_targets(entry: Entry, ranges: Iterable[Range], depth: int = 2) -> Generator[Targets, None, None]:
    """The answers to each range of rows, in order, without labels.

    A range is (view, start, stop) with start < stop; it need not follow chunks or blocks. `depth` chunks are read
    beyond the one in use, by a thread. A chunk is read once for ranges that follow each other, and dropped after
    use.

    Errors of the thread are raised here, at the first range that they concern: CacheError for a block that is not
    recorded, CorruptError for one that is damaged. Closing the iterator ends the thread.
    """
    due = iter(ranges)
    waiting: deque[list[Piece]] = deque()
    loaded: dict[tuple[int, int], Future[Targets]] = {}
    uses: Counter[tuple[int, int]] = Counter()
    reader = ThreadPoolExecutor(1, thread_name_prefix="kdcache-read")
    try:
        while True:
            while not waiting or (len(loaded) <= max(depth, 1) and len(waiting) < MAX_RANGES_AHEAD):
                following = next(due, None)
                if following is None:
                    break
                waiting.append(_pieces(entry.layout, *following))
                for place, _ in waiting[-1]:
                    uses[place] += 1
                    if place not in loaded:
                        loaded[place] = reader.submit(entry.read_chunk, *place)
            if not waiting:
                return
            parts = [loaded[place].result()[rows] for place, rows in waiting[0]]
            yield type(parts[0]).concat(parts)
            del parts
            uses.subtract(place for place, _ in waiting.popleft())
            if waiting:  # else the next range may well lie in the same chunk
                for place in [place for place in loaded if not uses[place]]:
                    del loaded[place], uses[place]
    finally:
        reader.shutdown(wait=True, cancel_futures=True)


def _pieces(layout: Layout, view: int, start: int, stop: int) -> list[Piece]:
    """A range, cut at the chunks."""
    if not 0 <= start < stop <= layout.samples:
        raise CacheError(f"There are no rows {start} to {stop} in view {view}: it has {layout.samples} rows.")
    pieces = []
    for chunk in range(start // layout.chunk_rows, -(-stop // layout.chunk_rows)):
        first, last = layout.chunk_range(chunk)
        pieces.append(((view, chunk), slice(max(start, first) - first, min(stop, last) - first)))
    return pieces
