"""Reading ahead: rows from a cache, decoded and put together by threads before they are asked for."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from kdcache.cache.entry import Entry
from kdcache.cache.layout import Layout
from kdcache.errors import CacheError
from kdcache.targets.base import Targets

#: The view and the row of each target that is wanted.
Wanted = tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]
#: A view and a chunk of it.
Place = tuple[int, int]

#: Chunks that are read before they are due: a hundred megabytes or so.
CHUNKS_AHEAD = 16

#: Batches that are taken from the caller before they are due, at most.
MAX_BATCHES_AHEAD = 256

#: And at least: where a batch alone has several chunks, a disk that is late for once shall find some of them read.
BATCHES_AHEAD = 3

#: Batches for which a chunk is kept after its last known use: of several chunks that are drawn from at random, a small
#: batch may need none of one.
BATCHES_KEPT = 8

#: Batches that are held until the caller, too, can be expected to have let go of them: to give back the memory of a
#: large one takes milliseconds, which then are not the caller's.
BATCHES_YIELDED = 2


def stream_targets(
    entry: Entry,
    batches: Iterable[Wanted],
    depth: int = CHUNKS_AHEAD,
    *,
    read: Callable[[int, int], Targets] | None = None,
) -> Generator[Targets, None, None]:
    """Return the targets of each batch of rows, without labels, in order.

    A batch is the view and the row of each of its targets (at least one), of any views and in any order. Chunks are
    read ahead by a thread: those of the batches to come, until `depth` of them are not in use yet, and at least those
    of the next `BATCHES_AHEAD`. Another thread puts the next two batches together, so that neither the caller nor the
    next batch waits where many chunks are read at once for later ones, and gives back the memory of what was used. A
    chunk is kept while a batch that was taken from `batches` needs it, and for `BATCHES_KEPT` more. So batches that
    follow each other, or draw from the same few chunks, read each chunk once, and memory is bounded: by some batches,
    and by a few chunks more than `depth` where batches follow each other, by those of three stretches or of a few
    chunks a lane (`kdcache.data.order`) where views are seen again.

    `read` is called by the thread that reads, with the view and the number of a chunk; None for `entry.read_chunk`.

    Errors of the threads are raised here, at the first batch that they concern: CacheError for a block that is not
    recorded, CorruptError for one that is damaged. Closing the iterator ends the threads.
    """
    due = iter(batches)
    waiting: deque[_Batch] = deque()
    loaded: dict[Place, Future[Targets]] = {}
    uses: Counter[Place] = Counter()
    last_use: dict[Place, int] = {}
    gathered: deque[Future[Targets]] = deque()  # of waiting[0], and of the batch behind it
    yielded: deque[Targets] = deque()
    done_with: deque[Targets | Future[Targets]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="kdcache-read")
    gatherer = ThreadPoolExecutor(1, thread_name_prefix="kdcache-gather")

    def chunks_ahead() -> int:
        return len((loaded.keys() - last_use.keys()) - waiting[0].pieces.keys())

    try:
        for number in count():
            while len(waiting) <= BATCHES_AHEAD or (
                len(waiting) < MAX_BATCHES_AHEAD and chunks_ahead() < max(depth, 1)
            ):
                following = next(due, None)
                if following is None:
                    break
                waiting.append(_Batch.of(entry.layout, *following))
                for place in waiting[-1].pieces:
                    uses[place] += 1
                    if place not in loaded:
                        loaded[place] = reader.submit(read or entry.read_chunk, *place)
            if not waiting:
                return
            for batch in islice(waiting, len(gathered), 2):
                gathered.append(gatherer.submit(batch.gather, {place: loaded[place] for place in batch.pieces}))
            yielded.append(gathered.popleft().result())
            yield yielded[-1]
            if len(yielded) > BATCHES_YIELDED:
                done_with.append(yielded.popleft())
            done = waiting.popleft().pieces.keys()
            uses.subtract(done)
            last_use |= dict.fromkeys(done, number)
            for place in [place for place in loaded if not uses[place] and last_use[place] + BATCHES_KEPT < number]:
                done_with.append(loaded.pop(place))
                del uses[place], last_use[place]
            if done_with:
                gatherer.submit(done_with.clear)
    finally:
        reader.shutdown(wait=True, cancel_futures=True)  # first: a batch that waits for a chunk waits no longer then
        gatherer.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Which rows of which chunks a batch is made of.

    pieces: positions in the chunk, of the rows that lie in it, in their order in the batch.
    order: where each row of the batch lies in the joined pieces; None where it is their order.
    """

    pieces: dict[Place, Int64[np.ndarray, "rows"]]
    order: Int64[Tensor, "b"] | None

    @classmethod
    def of(cls, layout: Layout, view: Int64[np.ndarray, "b"], row: Int64[np.ndarray, "b"]) -> "_Batch":
        """Raises CacheError for rows that a view does not have."""
        if not len(row) or row.min() < 0 or row.max() >= layout.samples:
            there = f"{row.min()} to {row.max()}" if len(row) else "none"
            raise CacheError(f"There are no such rows ({there}): a view has rows 0 to {layout.samples - 1}.")
        chunk = row // layout.chunk_rows
        number = view * layout.chunks + chunk
        by_chunk = np.argsort(number, kind="stable")
        starts = np.flatnonzero(np.diff(number[by_chunk], prepend=-1))
        pieces = {
            (int(view[part[0]]), int(chunk[part[0]])): row[part] - chunk[part] * layout.chunk_rows
            for part in np.split(by_chunk, starts[1:])
        }
        if np.array_equal(by_chunk, np.arange(len(row))):
            return cls(pieces, None)
        order = np.empty(len(row), np.int64)
        order[by_chunk] = np.arange(len(row))
        return cls(pieces, torch.from_numpy(order))

    def gather(self, chunks: dict[Place, Future[Targets]]) -> Targets:
        """Return the batch's targets out of the chunks that it needs, as soon as these have been read."""
        parts = [_rows(chunks[place].result(), rows) for place, rows in self.pieces.items()]
        joined = type(parts[0]).concat(parts)
        return joined if self.order is None else joined.take(self.order)


def _rows(targets: Targets, rows: Int64[np.ndarray, "rows"]) -> Targets:
    """Return some rows of a chunk; neighbours are cut out without copying."""
    if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return targets[int(rows[0]) : int(rows[-1]) + 1]
    return targets.take(torch.from_numpy(rows))
