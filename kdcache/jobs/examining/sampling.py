"""Which stored answers are looked at, when not all of them are."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np

from kdcache.cache.layout import Layout

#: Chunks that answers are taken from, however few answers: one chunk says little of hundreds of views.
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
        """As a slice."""
        return slice(self.start, self.stop)


def spread(layout: Layout, recorded: Mapping[int, Set[int]], samples: int) -> list[Sample]:
    """About so many of the rows of recorded blocks, by view; the same ones for the same blocks.

    What is recorded is divided into stretches of equal length, and from a random chunk of each are taken as many rows
    as from every other, in whole pairs: so that neither a view nor a place in the views is preferred.
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
