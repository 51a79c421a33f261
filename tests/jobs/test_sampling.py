"""Answers that are looked at stand for all: they come from everywhere, and are the same ones every time."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kdcache.cache.layout import Layout
from kdcache.jobs.examining.sampling import LEAST_CHUNKS, spread

#: ImageNet-1k in blocks of one chunk.
LARGE = Layout(1_281_167, 131_072, 131_072, 131_072)


def test_a_few_answers_of_a_large_cache_come_from_all_over_it() -> None:
    recorded = {view: set(range(LARGE.blocks)) for view in range(300)}
    samples = spread(LARGE, recorded, 100_000)
    assert len(samples) == LEAST_CHUNKS
    assert len({sample.view for sample in samples}) == LEAST_CHUNKS
    views = [sample.view for sample in samples]
    assert max(later - earlier for earlier, later in pairwise(views)) < 2 * 300 / LEAST_CHUNKS
    places = Counter(sample.chunk for sample in samples)
    assert len(places) > 6, "of ten blocks of a view"
    assert len({sample.start for sample in samples}) > LEAST_CHUNKS / 2, "nor always from the beginning of a block"
    assert 100_000 <= sum(sample.stop - sample.start for sample in samples) < 101_000
    assert spread(LARGE, recorded, 100_000) == samples


@given(
    rows=st.integers(1, 300),
    chunk=st.sampled_from([1, 2, 8]),
    views=st.integers(0, 9),
    samples=st.integers(1, 4000),
    gone=st.sets(st.integers(0, 40)),
)
def test_samples_lie_in_recorded_blocks_and_are_as_many_as_there_are(
    rows: int, chunk: int, views: int, samples: int, gone: set[int]
) -> None:
    layout = Layout(rows, 8, 8, chunk)
    recorded = {view: set(range(layout.blocks)) - gone for view in range(views)}
    found = spread(layout, recorded, samples)
    assert len({(sample.view, sample.chunk) for sample in found}) == len(found), "no chunk twice"
    for sample in found:
        start, stop = layout.chunk_range(sample.chunk)
        assert layout.block_of(sample.chunk) in recorded[sample.view]
        assert 0 <= sample.start < sample.stop <= stop - start <= chunk
        assert sample.start % 2 == 0, "pairs are not divided"
    there = sum(
        layout.block_range(block)[1] - layout.block_range(block)[0] for blocks in recorded.values() for block in blocks
    )
    if samples >= there + 2 * len(found) * chunk:
        assert sum(sample.stop - sample.start for sample in found) == there
