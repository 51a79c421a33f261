"""Two scalar codes: one uniform in sqrt(p), for many probabilities, and one uniform in log p, for a few.

A step that is uniform in sqrt(p) is uniform in the Fisher metric of the probability simplex: every class
then adds about the same error to the KL divergence, however probable it is.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Integer, UInt8, UInt16

from kdcache.targets.ragged import row_sums, row_totals


@dataclass(frozen=True)
class SqrtLevels:
    """Probabilities in [floor, 1] as one of 2**bits levels of equal width in sqrt(p), read as its middle.

    So no level stands for zero, and a logarithm is always finite.
    """

    bits: int
    floor: float

    @property
    def step(self) -> float:
        """The width of a level in sqrt(p)."""
        return float((1 - np.sqrt(np.float64(self.floor))) / 2**self.bits)

    @property
    def middles(self) -> Float32[np.ndarray, " levels"]:
        """The probability that each level stands for."""
        steps = np.arange(2**self.bits, dtype=np.float64) + 0.5
        return ((np.sqrt(np.float64(self.floor)) + steps * self.step) ** 2).astype(np.float32)

    def place(self, prob: Float32[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Return each probability counted in levels from the floor: its level is the whole part."""
        return (np.sqrt(prob.astype(np.float64)) - np.sqrt(np.float64(self.floor))) / self.step

    def encode(self, prob: Float32[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """Return the level of each probability; those outside [floor, 1] get the nearest."""
        return np.clip(np.floor(self.place(prob)), 0, 2**self.bits - 1).astype(np.uint8)

    def encode_to_sum(
        self,
        prob: Float32[np.ndarray, " n"],
        counts: Integer[np.ndarray, " b"],
        wanted: Float[np.ndarray, " b"],
        tolerance: Float[np.ndarray, " b"],
    ) -> UInt8[np.ndarray, " n"]:
        """Return the levels of ragged rows, such that what is read of a row sums to `wanted` within `tolerance`.

        Where rounding to the nearest misses that, entries of the row go to the next level on the other side, those
        first that lie closest to it. It stays missed where no entry can move any more.
        """
        level, middles = self.encode(prob), self.middles.astype(np.float64)
        excess = row_sums(middles[level], counts) - wanted
        missed = np.abs(excess) > tolerance
        entries = np.flatnonzero(np.repeat(missed, counts))
        if not entries.size:
            return level
        lengths = np.where(missed, counts, 0)
        up = np.repeat(excess < 0, lengths)
        old = level[entries].astype(np.int64)
        new = np.clip(old + np.where(up, 1, -1), 0, 2**self.bits - 1)
        within = self.place(prob[entries]) - old
        rows = np.repeat(np.arange(len(counts)), lengths)
        ranked = np.lexsort((np.where(up, 1 - within, within), rows))
        moved = np.abs(middles[new] - middles[old])[ranked]
        # Move on while that brings the sum nearer: until half a move would be too much.
        useful = row_totals(moved, lengths) - moved / 2 < np.repeat(np.abs(excess), lengths)
        level[entries[ranked[useful]]] = new[ranked[useful]]
        return level

    def decode(self, level: UInt8[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the probability of each level. The levels must be below 2**bits."""
        return self.middles[level]


#: The log-probability at the end of the label code; anything less probable is stored as this.
LABEL_RANGE = 40.0


def encode_label(prob: Float32[np.ndarray, "b 2"]) -> UInt16[np.ndarray, "b 2"]:
    """Probabilities as 1 + a 16-bit fraction of -log p / 40 (a relative step of 0.0006), and 0 for NaN."""
    absent = np.isnan(prob)
    with np.errstate(divide="ignore"):
        depth = -np.log(np.where(absent, 1, prob).astype(np.float64))
    code = 1 + np.rint(np.clip(depth / LABEL_RANGE, 0, 1) * 65534)
    return np.where(absent, 0, code).astype(np.uint16)


def decode_label(code: UInt16[np.ndarray, "b 2"]) -> Float32[np.ndarray, "b 2"]:
    """Return the inverse of `encode_label`."""
    prob = np.full(code.shape, np.nan, np.float32)
    there = code.nonzero()  # few
    prob[there] = np.exp(-(code[there].astype(np.float64) - 1) * (LABEL_RANGE / 65534))
    return prob
