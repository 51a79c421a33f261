"""The choice of targets that are read if not all of them are."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from kdcache.cache.layout import Layout
from kdcache.loader.teacher_views import block_batches
from kdcache.views.viewset import RowRange

#: Least number of chunks that targets are taken from: one chunk does not represent hundreds of views.
LEAST_CHUNKS = 32


@dataclass(frozen=True)
class Sample:
    """Rows `start` to `stop` of a chunk, counted from its first."""

    view: int
    chunk: int
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.start, self.stop)


def spread(layout: Layout, recorded: Mapping[int, Set[int]], samples: int) -> list[Sample]:
    """Return about `samples` rows of the recorded blocks, by view; the same ones for the same blocks.

    The recorded chunks are divided into sections of equal length. One random chunk of each gives the same number of
    rows, in whole pairs, so that neither a view nor a position in the views is preferred.
    """
    blocks = [(view, block) for view in sorted(recorded) for block in sorted(recorded[view])]
    chunks = [(view, chunk) for view, block in blocks for chunk in layout.chunks_of(block)]
    wanted = min(len(chunks), max(LEAST_CHUNKS, -(-samples // layout.chunk_rows)))
    rng = np.random.default_rng(0)
    bounds = np.linspace(0, len(chunks), wanted + 1).astype(int)
    places = bounds[:-1] + (rng.random(wanted) * np.diff(bounds)).astype(int)
    pairs = -(-samples // max(2 * wanted, 1))
    found = []
    for place, within in zip(places, rng.random(wanted), strict=True):
        view, chunk = chunks[place]
        start, stop = layout.chunk_range(chunk)
        rows = stop - start
        first = 2 * int(within * (max(0, rows - 2 * pairs) // 2 + 1))
        found.append(Sample(view, chunk, first, min(first + 2 * pairs, rows)))
    return found


def spread_batches(
    layout: Layout, batch_size: int, blocks: Sequence[tuple[int, int]], samples: int, seed: int
) -> list[RowRange]:
    """Return batches of a dump with at least `samples` rows, or all there are, in the order of `blocks`.

    The batches of all blocks are divided into sections of equal length, and one is drawn from each, so that neither a
    view nor a position in the views is preferred, and few batches lie far apart.

    Args:
        blocks: view and number of each block that batches are taken from, at least one, in ascending order.
        seed: seed of the choice; the same batches for the same blocks.
    """
    batches = {
        block: block_batches(0, block, samples=layout.samples, block_rows=layout.block_rows, batch_size=batch_size)
        for block in {block for _, block in blocks}
    }
    ends = np.cumsum([len(batches[block]) for _, block in blocks])
    total, wanted = int(ends[-1]), 0
    rng = np.random.default_rng(seed)
    chosen: list[RowRange] = []
    while wanted < total and (missing := samples - sum(row_range.stop - row_range.start for row_range in chosen)) > 0:
        wanted = min(
            total, wanted - (-missing // batch_size)
        )  # repeated if some batches had fewer rows, such as the last of a block
        bounds = np.arange(wanted + 1) * total // wanted
        chosen = []
        for place in bounds[:-1] + (rng.random(wanted) * np.diff(bounds)).astype(np.int64):
            number = int(np.searchsorted(ends, place, side="right"))
            view, block = blocks[number]
            chosen.append(batches[block][place - ends[number]]._replace(view=view))  # counted from the end of the block
    return chosen
