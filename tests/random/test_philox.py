"""Philox equals its published vectors, and the numbers made of it have the distributions that they claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.random.philox import Stream, below, normal, philox4x32, philox_uint32, symmetric_beta, unit
from support.distributions import differ

# The known-answer vectors of the Random123 distribution for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, expected):
    assert tuple(philox4x32(np.array([counter], np.uint32), key)[0]) == expected


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), st.integers(0, 2**32 - 1), st.randoms())
def test_a_draw_does_not_depend_on_its_company(ids, view, random):
    ids = np.array(ids, np.uint64)
    together = philox_uint32(7, Stream.CROP, ids, view, 3)
    chosen = np.array(random.sample(range(len(ids)), len(ids)))
    assert np.array_equal(philox_uint32(7, Stream.CROP, ids[chosen], view, 3), together[chosen])
    assert np.array_equal(philox_uint32(7, Stream.CROP, ids, view, 2), together[:, :2])


def test_seed_stream_id_view_and_draw_each_change_the_numbers():
    ids = np.array([5, 6], np.uint64)
    base = philox_uint32(1, Stream.CROP, ids, 2, 2)
    others = [
        philox_uint32(2, Stream.CROP, ids, 2, 2),
        philox_uint32(1, Stream.FLIP, ids, 2, 2),
        philox_uint32(1, Stream.CROP, ids, 3, 2),
    ]
    for other in others:
        assert not (base == other).any()
    assert not (base[0] == base[1]).any()
    assert not (base[:, 0] == base[:, 1]).any()


def test_high_half_of_the_id_matters():
    low, high = philox_uint32(1, Stream.CROP, np.array([9, 9 + (1 << 40)], np.uint64), 0, 1)
    assert not (low == high).any()


def test_unit_stays_inside_the_open_interval():
    edges = unit(np.array([0, 2**32 - 1], np.uint32))
    assert 0 < edges[0] < edges[1] < 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 2**31 - 1))
def test_below_stays_below(word, bound):
    got = below(np.array([word], np.uint32), np.array([bound], np.int64))[0]
    assert 0 <= got < bound
    assert got == word * bound // 2**32


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2, 0.5, 1.0, 2.0])
def test_symmetric_beta_has_the_distribution_of_beta(alpha):
    draws = philox_uint32(3, Stream.MIX, np.arange(60_000, dtype=np.uint64), 0, 1)[:, 0]
    ours = np.sort(symmetric_beta(draws, np.full(len(draws), alpha)))
    reference = np.sort(np.random.default_rng(0).beta(alpha, alpha, 600_000))
    # Two-sample Kolmogorov-Smirnov: the 0.1 % critical value for these sizes is 0.0083.
    grid = np.linspace(0, 1, 2001)
    gap = np.abs(np.searchsorted(ours, grid) / len(ours) - np.searchsorted(reference, grid) / len(reference))
    assert gap.max() < 0.0083
    wrong = np.sort(np.random.default_rng(1).beta(alpha * 1.1, alpha * 1.1, 600_000))
    power = np.abs(np.searchsorted(ours, grid) / len(ours) - np.searchsorted(wrong, grid) / len(wrong))
    assert power.max() > 0.0083, "the test could not tell an alpha that is 10 % off"


def test_normal_has_the_distribution_of_the_normal():
    draws = philox_uint32(3, Stream.AUGMENT, np.arange(60_000, dtype=np.uint64), 0, 1)[:, 0]
    ours = normal(draws[:, :2])
    reference = np.random.default_rng(0).normal(size=200_000)
    assert not differ(ours, reference)
    assert differ(ours * 1.05, reference)
    assert differ(ours + 0.05, reference)
    assert abs(np.corrcoef(ours, normal(draws[:, 2:]))[0, 1]) < 4 / np.sqrt(len(ours))


def test_the_rarest_draws_give_finite_normal_numbers():
    edges = np.array([[0, 0], [2**32 - 1, 0], [0, 2**31], [2**32 - 1, 2**32 - 1]], np.uint32)
    assert np.isfinite(normal(edges)).all()
    assert np.abs(normal(edges)).max() < 6.8
