"""Targets that are looked at stand for all: they come from everywhere, and are the same ones every time."""

from collections import Counter
from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from kdcache.cache.layout import Layout
from kdcache.inspection.sampling import LEAST_CHUNKS, spread, spread_batches

#: ImageNet-1k in blocks of one chunk.
LARGE = Layout(1_281_167, 131_072, 131_072, 131_072)


def test_a_few_targets_of_a_large_cache_come_from_all_over_it() -> None:
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


def test_a_few_batches_of_a_large_cache_come_from_all_over_it() -> None:
    """32 batches of 128 rows, of some three millions."""
    blocks = [(view, block) for view in range(300) for block in range(LARGE.blocks)]
    found = spread_batches(LARGE, 128, blocks, 32 * 128, seed=0)
    views = [row_range.view for row_range in found]
    assert len(found) == len(set(views)) == 32
    assert max(later - earlier for earlier, later in pairwise([0, *views, 299])) < 2 * 300 / 32
    assert len({row_range.start // LARGE.block_rows for row_range in found}) > 6, "of ten blocks of a view"
    assert spread_batches(LARGE, 128, blocks, 32 * 128, seed=0) == found
    assert spread_batches(LARGE, 128, blocks, 32 * 128, seed=1) != found


@given(
    rows=st.integers(1, 300),
    batch=st.sampled_from([2, 4, 6, 8]),
    views=st.integers(1, 9),
    samples=st.integers(1, 4000),
    gone=st.sets(st.tuples(st.integers(0, 8), st.integers(0, 37))),
    seed=st.integers(0, 9),
)
def test_batches_lie_in_the_blocks_and_hold_as_many_rows_as_were_asked_for(
    rows: int, batch: int, views: int, samples: int, gone: set[tuple[int, int]], seed: int
) -> None:
    layout = Layout(rows, 8, 8, 8)
    blocks = [(view, block) for view in range(views) for block in range(layout.blocks) if (view, block) not in gone]
    assume(blocks)
    found = spread_batches(layout, batch, blocks, samples, seed)
    assert found == sorted(set(found)), "none twice"
    for view, start, stop in found:
        assert (view, start // 8) in blocks
        assert start % 8 % batch == 0
        assert stop == min(start + batch, start // 8 * 8 + 8, rows)
    there = sum(stop - start for start, stop in (layout.block_range(block) for _, block in blocks))
    compared = sum(row_range.stop - row_range.start for row_range in found)
    assert min(samples, there) <= compared < samples + 2 * batch + batch * len(blocks)
    if samples >= there:
        assert compared == there
