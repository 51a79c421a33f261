"""Random numbers as a pure function of what they are for: Philox4x32-10.

J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. A draw is addressed,
never advanced to: the key is (seed, stream), the counter is (64-bit hash of the sample's key, view, draw). So no draw
depends on batch, rank, worker or what was drawn before, and every consumer takes a fixed number of draws.
"""

from enum import IntEnum

import numpy as np
from jaxtyping import Float64, Int64, UInt32, UInt64

from kdcache.random import exact_math

_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)


class Stream(IntEnum):
    """What a draw is for. The numbers are part of the format: a new purpose gets a new one, none is ever reused."""

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
    """The bijection itself: n counters of four words under one key of two, ten rounds."""
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


def words(
    seed: int, stream: Stream, ids: UInt64[np.ndarray, "n"], view: int | Int64[np.ndarray, "n"], draws: int
) -> UInt32[np.ndarray, "n draws 4"]:
    """Draws 0..draws-1 of every id: four 32-bit words each.

    Args:
        seed: 0 <= seed < 2**32.
        ids: what is drawn for, as 64 bits: a sample's key hash, or a window's number.
        view: the view, of all or of each, or the group of views where they share the draw; below 2**32.
    """
    n = len(ids)
    counter = np.empty((n, draws, 4), np.uint32)
    counter[:, :, 0] = (ids & _LOW32).astype(np.uint32)[:, None]
    counter[:, :, 1] = (ids >> _SHIFT32).astype(np.uint32)[:, None]
    counter[:, :, 2] = np.asarray(view, np.uint32).reshape(-1, 1)
    counter[:, :, 3] = np.arange(draws, dtype=np.uint32)
    return philox4x32(counter.reshape(n * draws, 4), (seed, int(stream))).reshape(n, draws, 4)


def unit(words: UInt32[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Uniform on the open interval (0, 1), in steps of 2**-32, exact."""
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def below(words: UInt32[np.ndarray, "*n"], bound: Int64[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
    """Uniform integers in [0, bound), 1 <= bound < 2**31, by multiply and shift (off uniform by bound / 2**32)."""
    return ((words.astype(np.uint64) * bound.astype(np.uint64)) >> _SHIFT32).astype(np.int64)


def normal(words: UInt32[np.ndarray, "*n 2"]) -> Float64[np.ndarray, "*n"]:
    """Standard normal numbers, each from two words: sqrt(-2 log u) cos(2 pi v) (Box and Muller 1958)."""
    u = unit(words)
    return np.sqrt(-2.0 * exact_math.log(u[..., 0])) * exact_math.cos_turns(u[..., 1])


def symmetric_beta(words: UInt32[np.ndarray, "n 4"], alpha: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Beta(alpha, alpha) from four words, for every alpha > 0, without rejection.

    B ~ Beta(a + 1, a + 1) comes from two uniforms (G. Ulrich, "Computer generation of distributions on the m-sphere",
    1984: 2 B - 1 = sqrt(1 - u**(1 / (a + 1/2))) cos(2 pi v)); a gamma variable of shape a is one of shape a + 1 times
    u**(1/a), so the odds of Beta(a, a) are B / (1 - B) * (u1 / u2)**(1/a). Odds are kept as a logarithm: at small
    alpha they span thousands of orders of magnitude.
    """
    u = unit(words)
    radius = np.sqrt(1.0 - exact_math.exp(exact_math.log(u[:, 0]) / (alpha + 0.5)))
    cosine = radius * exact_math.cos_turns(u[:, 1])
    log_odds = exact_math.log(1.0 + cosine) - exact_math.log(1.0 - cosine)
    log_odds = log_odds + (exact_math.log(u[:, 2]) - exact_math.log(u[:, 3])) / alpha
    return 1.0 / (1.0 + exact_math.exp(-log_odds))
