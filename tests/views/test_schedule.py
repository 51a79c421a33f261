"""A schedule shows every pair as often as it should, in batches that differ when a view is seen again."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.data.order import reused_pairs
from kdcache.views.schedule import UNITS_A_BLOCK, Schedule


def schedule(samples=400, views=4, repeats=1, batch_size=20, epochs=4, block_rows=64, seed=0):
    return Schedule(samples, views, repeats, batch_size, epochs, block_rows, seed)


def shown(plan, epoch):
    """(view, pair) of each pair that an epoch shows, in order."""
    steps = plan.steps_per_epoch
    batches = list(plan.batches())[epoch * steps : (epoch + 1) * steps]
    return [(int(v), int(r) // 2) for b in batches for v, r in zip(b.view[::2], b.row[::2], strict=True)]


def test_without_repeats_epoch_e_walks_through_view_e():
    plan = schedule(samples=401)
    for epoch in range(4):
        assert shown(plan, epoch) == [(epoch, pair) for pair in range(200)]
    assert plan.walks_in_order


def test_an_epoch_leaves_out_the_last_partial_batch_and_an_odd_last_row():
    plan = schedule(samples=49, batch_size=20)
    assert plan.steps_per_epoch == 2
    assert shown(plan, 1) == [(1, pair) for pair in range(20)]
    assert schedule(samples=19, batch_size=20).steps == 0


def test_repeats_show_each_pair_in_all_views_of_its_group_one_after_the_other():
    plan = schedule(samples=600, views=6, repeats=3, batch_size=60, epochs=6)
    group = [place for epoch in range(3) for place in shown(plan, epoch)]
    assert group == [(view, pair) for pair in range(300) for view in range(3)]
    assert {view for view, _ in shown(plan, 3)} == {3, 4, 5}
    # As repeated augmentation wants it: an epoch has a third of the images, three times each.
    assert Counter(pair for _, pair in shown(plan, 1)) == dict.fromkeys(range(100, 200), 3)
    assert not plan.walks_in_order


@settings(max_examples=50)
@given(
    samples=st.integers(20, 300),
    groups=st.integers(1, 3),
    repeats=st.integers(1, 3),
    cycles=st.integers(1, 3),
    blocks=st.integers(0, 6),
    seed=st.integers(0, 9),
)
def test_every_cycle_shows_every_row_of_every_view_once(samples, groups, repeats, cycles, blocks, seed):
    views = groups * repeats
    plan = schedule(samples, views, repeats, 2, views * cycles, 2 << blocks, seed)  # batches of one pair: none is cut
    for cycle in range(cycles):
        seen = [place for epoch in range(views) for place in shown(plan, cycle * views + epoch)]
        assert sorted(seen) == [(view, pair) for view in range(views) for pair in range(samples // 2)]


def test_pairs_stay_pairs():
    for batch in schedule(repeats=2, epochs=12).batches():
        assert (batch.row[::2] % 2 == 0).all()
        assert (batch.row[1::2] == batch.row[::2] + 1).all()
        assert (batch.view[1::2] == batch.view[::2]).all()


def test_a_view_that_is_seen_again_comes_in_other_batches():
    plan = schedule(samples=2000, views=2, epochs=6, block_rows=512)
    batches = [
        {frozenset(shown(plan, epoch)[start : start + 10]) for start in range(0, 1000, 10)} for epoch in (0, 2, 4)
    ]
    assert not batches[0] & batches[1]
    assert not batches[1] & batches[2]


def test_a_view_that_is_seen_again_is_drawn_from_a_few_units_at_a_time():
    pairs, unit = 4096, 64
    order = reused_pairs(pairs, unit, seed=0, group=0, cycle=1)
    for start in range(0, pairs, 4 * unit):
        assert len(set(order[start : start + 4 * unit] // unit)) == 4
    first = order[:256] // unit
    assert (np.diff(first) != 0).mean() > 0.5, "the pairs of the units are mixed"
    assert sorted(set(first)) != [0, 1, 2, 3], "the units are mixed"
    # Each cycle anew: other units beside each other, and other pairs of a unit behind each other.
    again = reused_pairs(pairs, unit, seed=0, group=0, cycle=2)
    assert set(again[:256] // unit) != set(first)
    assert not np.array_equal(again[again // unit == 5], order[order // unit == 5])


@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3))
def test_reuse_depends_on_seed_group_and_cycle_alone(seed, group, cycle):
    order = reused_pairs(500, 16, seed, group, cycle)
    assert np.array_equal(order, reused_pairs(500, 16, seed, group, cycle))
    assert sorted(order) == list(range(500))
    for other in ((seed + 1, group, cycle), (seed, group + 1, cycle), (seed, group, cycle + 1)):
        if max(cycle, other[2]) > 0 and other[2] > 0:
            assert not np.array_equal(order, reused_pairs(500, 16, *other))


@pytest.mark.parametrize(("repeats", "epochs"), [(1, 4), (3, 9), (2, 10)])
def test_a_step_depends_on_its_number_alone(repeats, epochs):
    plan = schedule(samples=130, views=6, repeats=repeats, epochs=epochs)
    whole = list(plan.batches())
    assert len(whole) == plan.steps
    for first in (1, plan.steps // 2, plan.steps - 1):
        for resumed, straight in zip(plan.batches(first), whole[first:], strict=True):
            assert np.array_equal(resumed.row, straight.row)
            assert np.array_equal(resumed.view, straight.view)


@pytest.mark.parametrize("world", [2, 5])
def test_ranks_share_each_batch_in_equal_parts(world):
    plan = schedule(samples=130, views=6, repeats=3, epochs=9)
    shares = [list(plan.batches(0, rank, world)) for rank in range(world)]
    for whole, *parts in zip(plan.batches(), *shares, strict=True):
        assert {len(part) for part in parts} == {20 // world}
        assert np.array_equal(np.concatenate([part.row for part in parts]), whole.row)
        assert np.array_equal(np.concatenate([part.view for part in parts]), whole.view)


def test_units_are_an_eighth_of_a_block():
    order = reused_pairs(1024, 512 // (2 * UNITS_A_BLOCK), 0, 0, 1)
    again = [(int(b.row[0]) // 2) for b in schedule(2048, 1, 1, 2, 2, 512).batches(1024)]
    assert again == order.tolist()
