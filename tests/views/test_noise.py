"""Noise is the same random words as everywhere in kdcache, made normal."""

import hashlib

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.random.philox import philox4x32
from kdcache.views.pixels.noise import normals, philox
from support.distributions import differ

word = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(word, word, word, word), min_size=1, max_size=5), st.tuples(word, word))
def test_words_are_those_of_philox4x32(counters, key):
    wanted = philox4x32(np.array(counters, np.uint32), key)
    assert np.array_equal(philox(torch.tensor(counters), key).numpy(), wanted)


def test_words_are_those_of_philox4x32_for_many_counters():
    counters = np.random.default_rng(0).integers(0, 2**32, (50_000, 4), np.int64)
    wanted = philox4x32(counters.astype(np.uint32), (3, 2**32 - 1))
    assert np.array_equal(philox(torch.from_numpy(counters), (3, 2**32 - 1)).numpy(), wanted)


@given(st.lists(st.tuples(word, word, word, word), min_size=1, max_size=50))
def test_normals_are_box_and_mullers(words):
    u = np.array(words, np.float64)
    radius = np.sqrt(-2 * np.log((u[:, 0::2] + 0.5) / 2**32))
    turns = 2 * np.pi * u[:, 1::2] / 2**32
    wanted = np.stack([radius * np.cos(turns), radius * np.sin(turns)], 2).reshape(-1, 4)
    assert np.allclose(normals(torch.tensor(words)).numpy(), wanted, rtol=0, atol=1e-6)


def test_the_ends_are_finite():
    ends = torch.tensor([[a, b, b, a] for a in (0, 1, 2**32 - 1) for b in (0, 2**30, 2**31, 2**32 - 1)])
    assert normals(ends).isfinite().all()


def test_normals_are_normal_and_independent():
    words = philox(torch.arange(4 * 40_000).view(-1, 4), (1, 2))
    drawn = normals(words).double().numpy()
    normal = np.random.default_rng(0).standard_normal(drawn.size)
    assert not differ(drawn.ravel(), normal)
    assert differ(drawn.ravel() * 1.05, normal)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.025


def test_a_number_does_not_depend_on_its_batch():
    words = philox(torch.arange(4 * 1003).view(-1, 4), (5, 6))
    whole = normals(words)
    alone = torch.cat([normals(row[None]) for row in words])
    assert torch.equal(whole, alone)


def test_bits_are_the_same_on_every_machine():
    """One digest for all processors: a library that fused or approximated would change it."""
    words = philox(torch.arange(4 * 5000).view(-1, 4), (0, 0))
    assert hashlib.blake2b(normals(words).numpy().tobytes(), digest_size=8).hexdigest() == "ad30b8392dc35aca"
