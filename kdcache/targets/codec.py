"""Two scalar codes: one uniform in sqrt(p), for many probabilities, and one uniform in log p, for a few.

A step that is uniform in sqrt(p) is uniform in the Fisher metric of the probability simplex: every class
then adds about the same error to the KL divergence, however probable it is.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8, UInt16


@dataclass(frozen=True)
class SqrtLevels:
    """Probabilities in [floor, 1] as one of 2**bits levels of equal width in sqrt(p), read as its middle.

    So no level stands for zero, and a logarithm is always finite.
    """

    bits: int
    floor: float

    @property
    def middles(self) -> Float32[np.ndarray, " levels"]:
        """The probability that each level stands for."""
        low = np.sqrt(np.float64(self.floor))
        steps = np.arange(2**self.bits, dtype=np.float64) + 0.5
        return ((low + steps * (1 - low) / 2**self.bits) ** 2).astype(np.float32)

    def encode(self, prob: Float32[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
        """The level of each probability; those outside [floor, 1] get the nearest."""
        low = np.sqrt(np.float64(self.floor))
        steps = np.floor((np.sqrt(prob.astype(np.float64)) - low) * (2**self.bits / (1 - low)))
        return np.clip(steps, 0, 2**self.bits - 1).astype(np.uint8)

    def decode(self, level: UInt8[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """The probability of each level. The levels must be below 2**bits."""
        return self.middles[level]


def encode_mass(mass: Float[np.ndarray, " n"]) -> UInt16[np.ndarray, " n"]:
    """A probability mass in [0, 1] in 16 bits, uniformly in its root; 0 and 1 are exact."""
    return np.rint(np.sqrt(np.clip(mass.astype(np.float64), 0, 1)) * 65535).astype(np.uint16)


def decode_mass(code: UInt16[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """The inverse of `encode_mass`."""
    return ((code.astype(np.float64) / 65535) ** 2).astype(np.float32)


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
    """The inverse of `encode_label`."""
    prob = np.exp(-(code.astype(np.float64) - 1) * (LABEL_RANGE / 65534))
    return np.where(code == 0, np.nan, prob).astype(np.float32)
