"""Counter-based random numbers: Philox4x32-10, a pure function of what each number is for.

J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A draw has
an address and no predecessor: the key is (seed, stream), the counter is (64-bit hash of the sample's key, view, draw).
So no draw depends on batch, rank, worker or earlier draws, and every consumer takes a fixed number of draws.
"""

from enum import IntEnum

import numpy as np
from jaxtyping import Float64, Int64, UInt32, UInt64

from kdcache.random import exact_math

#: Constants of the algorithm: the multipliers of a round, and what each round adds to the key.
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)


class Stream(IntEnum):
    """Purpose of a draw. The numbers are part of the format: a new purpose gets a new number, and none is reused."""

    WINDOW = 1
    ORDER = 2
    CROP = 3
    FLIP = 4
    MIX = 5
    SHIFT = 6
    INTERPOLATION = 7
    AUGMENT = 8
    JITTER = 9
    ERASE = 10
    NOISE = 11
    UNIT = 12
    REUSE = 13


def philox4x32(counter: UInt32[np.ndarray, "n 4"], key: tuple[int, int]) -> UInt32[np.ndarray, "n 4"]:
    """Encrypt n counters of four 32-bit words under one key of two words, in ten rounds."""
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    product_0, product_1 = np.empty_like(c0), np.empty_like(c0)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # In place: with new arrays for each step, most of the time goes to memory.
        np.multiply(c0, _MULTIPLIER_0, out=product_0)
        np.multiply(c2, _MULTIPLIER_1, out=product_1)
        np.right_shift(product_1, _SHIFT32, out=c0)
        c0 ^= c1
        c0 ^= np.uint64(k0)
        np.bitwise_and(product_1, _LOW32, out=c1)
        np.right_shift(product_0, _SHIFT32, out=c2)
        c2 ^= c3
        c2 ^= np.uint64(k1)
        np.bitwise_and(product_0, _LOW32, out=c3)
        k0, k1 = (k0 + _WEYL_0) & 0xFFFFFFFF, (k1 + _WEYL_1) & 0xFFFFFFFF
    out = np.empty(counter.shape, np.uint32)
    for i, part in enumerate((c0, c1, c2, c3)):
        out[:, i] = part
    return out


def philox_uint32(
    seed: int, stream: Stream, ids: UInt64[np.ndarray, "n"], view: int | Int64[np.ndarray, "n"], draws: int
) -> UInt32[np.ndarray, "n draws 4"]:
    """Compute the draws 0..draws-1 of every id: four random 32-bit integers each.

    Args:
        seed: seed of the view set, 0 <= seed < 2**32.
        stream: purpose of the draws.
        ids: 64-bit numbers of what is drawn for, such as the key hashes of samples or the numbers of windows.
        view: view of all ids or of each one; the group of views for a draw that a group shares; below 2**32.
        draws: number of draws for each id.
    """
    n = len(ids)
    counter = np.empty((n, draws, 4), np.uint32)
    counter[:, :, 0] = (ids & _LOW32).astype(np.uint32)[:, None]
    counter[:, :, 1] = (ids >> _SHIFT32).astype(np.uint32)[:, None]
    counter[:, :, 2] = np.asarray(view, np.uint32).reshape(-1, 1)
    counter[:, :, 3] = np.arange(draws, dtype=np.uint32)
    return philox4x32(counter.reshape(n * draws, 4), (seed, int(stream))).reshape(n, draws, 4)


def unit(bits: UInt32[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Random integers as numbers that are uniform on the open interval (0, 1), exactly, in steps of 2**-32."""
    return (bits.astype(np.float64) + 0.5) * 2.0**-32


def below(bits: UInt32[np.ndarray, "*n"], bound: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
    """Random integers as integers that are uniform in [0, bound).

    They are multiplied and shifted, so that probabilities are off by at most a share of bound / 2**32.

    Args:
        bits: random 32-bit integers.
        bound: bound of each, 1 <= bound < 2**31.
    """
    return ((bits.astype(np.uint64) * bound.astype(np.uint64)) >> _SHIFT32).astype(np.int64)


def normal(bits: UInt32[np.ndarray, "*n 2"]) -> Float64[np.ndarray, "*n"]:
    """Standard normal numbers, from two random integers each: sqrt(-2 log u) cos(2 pi v) (Box and Muller 1958)."""
    u = unit(bits)
    return np.sqrt(-2.0 * exact_math.log(u[..., 0])) * exact_math.cos_turns(u[..., 1])


def symmetric_beta(bits: UInt32[np.ndarray, "n 4"], alpha: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Numbers that follow Beta(alpha, alpha), from four random integers each, for every alpha > 0 without rejection.

    B ~ Beta(a + 1, a + 1) comes from two uniforms (G. Ulrich, "Computer generation of distributions on the m-sphere",
    1984: 2 B - 1 = sqrt(1 - u**(1 / (a + 1/2))) cos(2 pi v)); a gamma variable of shape a is one of shape a + 1 times
    u**(1/a), so the odds of Beta(a, a) are B / (1 - B) * (u1 / u2)**(1/a). Odds are kept as a logarithm: at small
    alpha they span thousands of orders of magnitude.
    """
    u = unit(bits)
    radius = np.sqrt(1.0 - exact_math.exp(exact_math.log(u[:, 0]) / (alpha + 0.5)))
    cosine = radius * exact_math.cos_turns(u[:, 1])
    log_odds = exact_math.log(1.0 + cosine) - exact_math.log(1.0 - cosine)
    log_odds = log_odds + (exact_math.log(u[:, 2]) - exact_math.log(u[:, 3])) / alpha
    return 1.0 / (1.0 + exact_math.exp(-log_odds))
