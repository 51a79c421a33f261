"""A schedule shows every pair as often as it should, in batches that differ when a view is seen again."""

import threading
from collections import Counter
from contextlib import closing
from itertools import chain, islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.data.order import reused_pairs
from kdcache.loader.schedule import UNIT_ROWS, Schedule
from kdcache.views.orders import OrdersAhead


def schedule(samples=400, views=4, repeats=1, batch_size=20, epochs=4, block_rows=64, seed=0):
    return Schedule(samples, views, repeats, batch_size, epochs, block_rows, seed)


def shown(plan, epoch):
    """(view, pair) of each pair that an epoch shows, in order."""
    steps = plan.steps_per_epoch
    batches = islice(plan.batches(epoch * steps), steps)
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
    pairs = [shown(plan, epoch) for epoch in (0, 2, 4)]
    batches = [{frozenset(seen[start : start + 10]) for start in range(0, 1000, 10)} for seen in pairs]
    assert not batches[0] & batches[1]
    assert not batches[1] & batches[2]


def test_a_view_that_is_seen_again_is_drawn_from_a_few_units_at_a_time():
    pairs, block, unit = 4096, 512, 64
    order = reused_pairs(pairs, block, unit, seed=0, group=0, cycle=1)
    stretches = order.reshape(-1, 4 * unit) // unit
    assert {len(set(stretch)) for stretch in stretches} == {4}
    first = stretches[0]
    assert (np.diff(first) != 0).mean() > 0.5, "the pairs of the units are mixed"
    assert len({unit // (block // 64) for unit in first}) == 4, "of different blocks"
    # Each cycle anew: other units beside each other, and other pairs of a unit behind each other.
    again = reused_pairs(pairs, block, unit, seed=0, group=0, cycle=2)
    met = {frozenset(stretch) for stretch in stretches}
    assert not met & {frozenset(stretch) for stretch in again.reshape(-1, 4 * unit) // unit}
    assert not np.array_equal(again[again // unit == 5], order[order // unit == 5])


@given(
    pairs=st.integers(1, 3000), block=st.integers(3, 9), unit=st.integers(0, 3), chunk=st.integers(3, 9),
    seed=st.integers(0, 3), cycle=st.integers(1, 3),
)  # fmt: skip
def test_a_chunk_is_gone_through_without_a_stop_when_a_view_is_seen_again(pairs, block, unit, chunk, seed, cycle):
    """Whatever power of two is a chunk: four readers, and each is done with a chunk before it takes the next."""
    chunk = min(block, max(chunk, unit))
    order = reused_pairs(pairs, 1 << block, 1 << unit, seed, 0, cycle)
    assert sorted(order) == list(range(pairs))
    position = np.empty(pairs, np.int64)
    position[order] = np.arange(pairs)
    parts = [position[start : start + (1 << chunk)] for start in range(0, pairs, 1 << chunk)]
    visited = [int(part.max() - part.min()) for part in parts]
    # Where one reader's way ends and another's begins, a chunk may be cut, and is read twice.
    assert sum(span >= 4 * ((1 << chunk) + (1 << unit)) for span in visited) <= 3


@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3))
def test_reuse_depends_on_seed_group_and_cycle_alone(seed, group, cycle):
    order = reused_pairs(500, 64, 8, seed, group, cycle)
    assert np.array_equal(order, reused_pairs(500, 64, 8, seed, group, cycle))
    assert sorted(order) == list(range(500))
    for other in ((seed + 1, group, cycle), (seed, group + 1, cycle), (seed, group, cycle + 1)):
        if max(cycle, other[2]) > 0 and other[2] > 0:
            assert not np.array_equal(order, reused_pairs(500, 64, 8, *other))


@pytest.mark.parametrize(("repeats", "epochs"), [(1, 4), (3, 9), (2, 10)])
def test_a_step_depends_on_its_number_alone(repeats, epochs):
    plan = schedule(samples=130, views=6, repeats=repeats, epochs=epochs)
    whole = list(plan.batches())
    assert len(whole) == plan.steps
    for first in (1, plan.steps // 2, plan.steps - 1):
        for resumed, straight in zip(plan.batches(first), whole[first:], strict=True):
            assert np.array_equal(resumed.row, straight.row)
            assert np.array_equal(resumed.view, straight.view)


@pytest.mark.parametrize(
    ("repeats", "epochs", "expected"), [(1, 6, [1, 2, 3, 0, 1]), (2, 8, [2, 0, 2]), (4, 8, [0]), (1, 1, [])]
)
def test_the_next_groups_view_is_known_from_the_middle_of_a_visit_on(repeats, epochs, expected):
    plan = schedule(samples=130, views=4, repeats=repeats, epochs=epochs)
    visit = repeats * plan.steps_per_epoch
    upcoming = [plan.upcoming_view(step) for step in range(plan.steps)]
    for number in range(0, plan.steps, visit):
        first, last = upcoming[number : number + visit // 2], upcoming[number + visit // 2 : number + visit]
        assert first == [None] * len(first)
        assert set(last) == {expected.pop(0) if expected else None}
    assert not expected


def test_the_orders_of_views_seen_again_are_computed_ahead():
    plan = schedule(samples=130, views=2, repeats=1, epochs=6)
    computed = []

    def compute(visit, pause):
        computed.append((visit, threading.current_thread().name))
        return reused_pairs(65, 32, 4, 0, visit % 2, visit // 2)

    with closing(OrdersAhead(compute)) as orders:
        given = [indices.row.tolist() for indices in plan.batches(orders=orders)]
    assert computed == [(visit, "kdcache-order") for visit in (2, 3, 4, 5)]
    assert given == [indices.row.tolist() for indices in plan.batches()]


@pytest.mark.parametrize("world", [2, 5])
def test_ranks_share_each_batch_in_equal_parts(world):
    plan = schedule(samples=130, views=6, repeats=3, epochs=9)
    shares = [list(plan.batches(0, rank, world)) for rank in range(world)]
    for whole, *parts in zip(plan.batches(), *shares, strict=True):
        assert {len(part) for part in parts} == {20 // world}
        assert plan.largest_share(world) == 20 // world
        rows = list(zip(whole.view, whole.row, strict=True))
        shared = [list(zip(part.view, part.row, strict=True)) for part in parts]
        assert sorted(chain(*shared)) == sorted(rows)
        for share in shared:
            assert share == [row for row in rows if row in share], "in the batch's order"


@pytest.mark.parametrize("world", [1, 3, 4, 10])
def test_the_largest_share_of_a_rank_is_known_also_where_shares_differ(world):
    plan = schedule(samples=130, views=6, repeats=3, epochs=9)
    shares = [len(next(plan.batches(0, rank, world))) for rank in range(world)]
    assert plan.largest_share(world) == max(shares)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("cycle", [0, 1])
@pytest.mark.parametrize("batch_size", [512, 2048])
def test_ranks_do_not_read_each_others_chunks(repeats, cycle, batch_size):
    """Of a view that is seen again, too, whose batches are drawn from a few units of 64 rows at random."""
    world, chunk, samples = 8, 16, 8192
    plan = schedule(samples, repeats, repeats, batch_size, repeats * (cycle + 1), block_rows=512)
    kept = 4  # batches for which a process keeps a chunk
    steps = repeats * plan.steps_per_epoch
    read = 0
    for rank in range(world):
        held: dict[tuple[int, int], int] = {}
        for number, batch in zip(range(steps), plan.batches(cycle * steps, rank, world), strict=False):
            for place in set(zip(batch.view.tolist(), (batch.row // chunk).tolist(), strict=True)):
                read += number - held.get(place, -kept - 1) > kept
                held[place] = number
    assert read <= 2 * repeats * samples / chunk, "each chunk is read by two processes at most, in the mean"


@pytest.mark.parametrize("cycle", [0, 1])
def test_the_views_of_a_sample_go_to_one_rank(cycle):
    """Which reads its image once."""
    plan = schedule(samples=8192, views=3, repeats=3, batch_size=240, epochs=6, block_rows=512)
    steps = 3 * plan.steps_per_epoch
    shares = [list(islice(plan.batches(cycle * steps, rank, 4), steps)) for rank in range(4)]
    for parts in zip(*shares, strict=True):
        read = sum(len(np.unique(part.row)) for part in parts)
        assert read <= len(np.unique(np.concatenate([part.row for part in parts]))) + 2 * 3, "a pair at each border"


@pytest.mark.parametrize(("block_rows", "unit_rows"), [(512, 64), (32768, UNIT_ROWS), (8, 2), (2, 2)])
def test_units_have_a_fixed_size_but_in_small_blocks(block_rows, unit_rows):
    samples = 4 * block_rows
    again = [int(b.row[0]) // 2 for b in schedule(samples, 1, 1, 2, 2, block_rows).batches(samples // 2)]
    assert again == reused_pairs(samples // 2, block_rows // 2, unit_rows // 2, 0, 0, 1).tolist()
