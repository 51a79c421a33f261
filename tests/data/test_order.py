"""Each group of views has its own order of the samples, made of windows."""

import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.data.order import derive_windows, order, reused_pairs
from kdcache.random.philox import Stream, philox_uint32

GOLDEN = Path(__file__).parent.parent / "golden" / "orders.json"


def keys_of(count):
    return np.sort(np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64))


@given(st.integers(0, 200), st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_an_order_is_a_permutation_with_windows_in_one_piece(count, windows, seed, group):
    ids = np.random.default_rng(1).integers(0, windows, count).astype(np.int32)
    samples = order(keys_of(count), ids, seed, group)
    assert np.array_equal(np.sort(samples), np.arange(count))
    changes = np.count_nonzero(np.diff(ids[samples]))
    assert changes == max(0, len(np.unique(ids)) - 1)


def literal_order(key_hash, windows, seed, group):
    """By definition: sorted by (rank of the window, the sample's word, its position)."""

    def word(stream, of):
        low, high = philox_uint32(seed, stream, np.array([of], np.uint64), group, 1)[0, 0, :2].tolist()
        return low | high << 32

    count = max(windows, default=-1) + 1
    ranked = sorted(range(count), key=lambda window: (word(Stream.WINDOW, window), window))
    rank = {window: place for place, window in enumerate(ranked)}
    of = [word(Stream.ORDER, key) for key in key_hash]
    return sorted(range(len(of)), key=lambda sample: (rank[windows[sample]], of[sample], sample))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4)), max_size=40).map(sorted),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
def test_an_order_is_what_its_definition_says_also_of_equal_keys(rows, seed, group):
    keys, windows = [key for key, _ in rows], [window for _, window in rows]
    found = order(np.array(keys, np.uint64), np.array(windows, np.int32), seed, group)
    assert found.tolist() == literal_order(keys, windows, seed, group)


def digest(numbers):
    return hashlib.blake2b(numbers.astype("<i8").tobytes(), digest_size=16).hexdigest()


def test_orders_are_those_that_caches_were_made_with():
    """The digests were made with an argsort of the whole words."""
    keys = np.sort(np.random.default_rng(0).integers(0, 2**64, 50_000, dtype=np.uint64))
    keys[1000:1200] = keys[1000]
    found = {}
    for windows in (1, 7):
        ids = (np.arange(len(keys)) * 2654435761 % 2**32 * windows >> 32).astype(np.int32)
        for seed, group in ((0, 0), (2**32 - 1, 299)):
            found[f"{windows} windows, seed {seed}, group {group}"] = digest(order(keys, ids, seed, group))
    for pairs, cycle in ((25_000, 0), (25_000, 1), (24_999, 2)):
        found[f"{pairs} pairs, cycle {cycle}"] = digest(reused_pairs(pairs, 4096, 256, 5, 3, cycle))
    assert found == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("windows", [1, 40, None])
def test_an_order_takes_no_more_memory_than_itself(windows):
    """Beside the mapped columns; one more column of 14 million samples would be 112 MB. None: pairs seen again."""
    count = 1 << 20
    keys, ids = keys_of(count), (np.arange(count) * (windows or 1) // count).astype(np.int32)
    tracemalloc.start()
    try:
        found = reused_pairs(count, 4096, 256, 5, 3, 1) if windows is None else order(keys, ids, 0, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == count
    assert peak < 8 * count + (4 << 20)


def test_groups_and_seeds_have_different_orders():
    keys, ids = keys_of(500), np.zeros(500, np.int32)
    orders = [order(keys, ids, seed, group) for seed, group in ((0, 0), (0, 1), (1, 0))]
    for i in range(3):
        for j in range(i):
            assert np.mean(orders[i] == orders[j]) < 0.05


def test_windows_follow_each_other_in_another_sequence_in_each_group():
    keys = keys_of(1000)
    ids = np.random.default_rng(1).integers(0, 8, 1000).astype(np.int32)
    sequences = set()
    for group in range(5):
        samples = order(keys, ids, 0, group)
        sequences.add(tuple(dict.fromkeys(ids[samples].tolist())))
    assert len(sequences) == 5


def test_a_partners_rank_depends_on_the_whole_but_the_relative_order_of_two_samples_does_not():
    keys = keys_of(300)
    kept = np.random.default_rng(2).random(300) < 0.5
    whole = order(keys, np.zeros(300, np.int32), 3, 4)
    part = order(keys[kept], np.zeros(int(kept.sum()), np.int32), 3, 4)
    assert np.array_equal(keys[kept][part], keys[whole][kept[whole]])


@pytest.mark.parametrize(("shards", "expected"), [(1, 1), (64, 1), (95, 1), (97, 2), (1000, 16)])
def test_windows_hold_about_sixty_four_neighbouring_shards(shards, expected):
    shard = np.repeat(np.arange(shards, dtype=np.int32), 20)
    label = np.random.default_rng(0).integers(0, 4, len(shard)).astype(np.int32)
    windows = derive_windows(shard, label, shards)
    assert windows.warning is None
    assert windows.ids.max() + 1 == expected
    assert (np.diff(windows.ids) >= 0).all()
    assert np.bincount(windows.ids[::20]).max() <= 96


def literal_windows(shard, label, shards):
    """By definition, from a table of all windows and classes."""
    count = max(1, round(shards / 64))
    ids = shard.astype(np.int64) * count // shards
    classes, labels = np.unique(label, return_inverse=True)
    table = np.zeros((count, len(classes)))
    np.add.at(table, (ids, labels), 1)
    size = np.maximum(table.sum(axis=1, keepdims=True), 1)
    whole = table.sum(axis=0) / table.sum()
    distance = 0.5 * np.abs(table / size - whole).sum(axis=1)
    by_chance = np.sqrt(whole * (1 - whole) / (2 * np.pi * size)).sum(axis=1)
    return ids * (not np.any(distance > 0.1 + 2 * by_chance))


@given(
    shards=st.integers(1, 1000),
    samples=st.integers(1, 400),
    classes=st.integers(1, 30),
    lowest=st.sampled_from([-1, 0, 2**31 - 40]),
    by_class=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_windows_are_what_their_definition_says(shards, samples, classes, lowest, by_class, seed):
    rng = np.random.default_rng(seed)
    shard = rng.integers(0, shards, samples).astype(np.int32)
    label = np.where(rng.random(samples) < by_class, shard * classes // shards, rng.integers(0, classes, samples))
    label = (label + lowest).astype(np.int32)
    assert np.array_equal(derive_windows(shard, label, shards).ids, literal_windows(shard, label, shards))


def test_shards_in_class_order_make_one_window_and_a_warning():
    shard = np.repeat(np.arange(200, dtype=np.int32), 50)
    windows = derive_windows(shard, (shard // 20).astype(np.int32), 200)
    assert windows.ids.max() == 0
    assert "class order" in windows.warning


def test_many_classes_in_random_order_are_no_class_order():
    shard = np.repeat(np.arange(200, dtype=np.int32), 50)
    label = np.random.default_rng(0).integers(0, 1000, len(shard)).astype(np.int32)
    assert derive_windows(shard, label, 200).ids.max() == 2
