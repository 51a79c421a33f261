"""Full targets: the log-probability of every class, for objectives that need it and for temperatures other than 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from kdcache.errors import CorruptError, UsageError
from kdcache.targets.base import (
    ArraySpec,
    Capabilities,
    ReadClassifier,
    TargetCodec,
    Targets,
    check_classes,
    check_temperature,
)
from kdcache.targets.rows import RowTargets

DTYPES = ("float32", "uint8")

#: Nats between the greatest log-probability of a row and the least that 8 bits tell apart.
DEPTH = np.float32(24)


@dataclass(frozen=True)
class FullTargets(RowTargets):
    """Log-probabilities of every class and the labels (own, partner's; -1 = none) once they are known.

    stored: the log-probabilities themselves; where there is a scale (lowest value and step of each row) their codes,
        which stay 8 bits wide until they are asked for, wherever they lie.
    """

    stored: Float32[Tensor, "b c"] | UInt8[Tensor, "b c"]
    label: Int64[Tensor, "b 2"] | None
    scale: Float32[Tensor, "b 2"] | None = None

    values_field: ClassVar[str] = "stored"

    @property
    def num_classes(self) -> int:
        """The number of classes that they give."""
        return self.stored.shape[1]

    @property
    def log_prob(self) -> Float32[Tensor, "b c"]:
        """The stored values bit for bit, or what the codes stand for, shifted such that each row sums to 1."""
        return self.stored if self.scale is None else torch.log_softmax(self._decoded, 1)

    def log_probs(self, *, num_classes: int | None = None, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Return `log_prob`, or log_softmax(log_prob / temperature)."""
        check_classes(self.stored.shape[1], num_classes)
        check_temperature(temperature)
        if temperature == 1.0:
            return self.log_prob
        return torch.log_softmax(self._decoded / temperature, 1)

    @property
    def _decoded(self) -> Float32[Tensor, "b c"]:
        return self.stored if self.scale is None else self.scale[:, :1] + self.stored * self.scale[:, 1:]


@dataclass(frozen=True)
class FullCodec(TargetCodec):
    """Every class, as it is (`float32`) or in 8 bits (`uint8`).

    `float32`: array `log_prob`, float32 [rows, classes].
    `uint8`: array `log_prob`, u8 [rows, classes], and `range`, float32 [2, rows], a row's lowest log-probability and
    the step between two codes. Read are lowest + code * step, then shifted such that the row sums to 1. The codes
    reach from a row's greatest log-probability down to its least, but no more than `DEPTH` nats: what lies lower is
    read as that. The mean KL divergence from the teacher is below 0.001; docs/compact.md has measured 0.00002 to
    0.00005.
    """

    num_classes: int
    dtype: str = "float32"
    kind = "full"
    capabilities: ClassVar[Capabilities] = Capabilities("full targets", every_class=True)

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise UsageError(f"A teacher of {self.num_classes} classes cannot be stored.")
        if self.dtype not in DTYPES:
            raise UsageError(
                f"Full targets of dtype '{self.dtype}' are not known; use {' or '.join(DTYPES)} (--dtype)."
            )

    @classmethod
    def for_teacher(cls, num_classes: int, classifier: ReadClassifier, **options: Any) -> "FullCodec":
        """Return the codec of a teacher of so many classes, whatever its classifier is."""
        return cls(num_classes, **options)

    def parameters(self) -> dict[str, Any]:
        """Return the stored data type."""
        return {"dtype": self.dtype}

    def keep(
        self,
        log_probs: Float[Tensor, "b c"],
        labels: Int64[Tensor, "b 2"],
        features: Float[Tensor, "b d"] | None = None,
    ) -> FullTargets:
        """Return all log-probabilities, on the host."""
        return FullTargets(log_probs.detach().to("cpu", torch.float32), labels.to("cpu"))

    def arrays(self, rows: int) -> dict[str, ArraySpec]:
        """Return the arrays of the class's docstring; labels are not stored, as the index has them."""
        shuffle: Literal["shuffle", "noshuffle"] = "shuffle" if self.dtype == "float32" else "noshuffle"
        found = {"log_prob": ArraySpec(self.dtype, (rows, self.num_classes), shuffle=shuffle, effort=3)}
        if self.dtype == "uint8":
            found["range"] = ArraySpec("float32", (2, rows), axis=1, shuffle="shuffle")
        return found

    def encode(self, targets: Targets, rows: int) -> dict[str, np.ndarray]:
        """Return the log-probabilities or their codes, padded with zeros."""
        assert isinstance(targets, FullTargets)
        count, log_prob = len(targets), targets.log_prob.numpy()
        encoded = {name: np.zeros(spec.shape, spec.dtype) for name, spec in self.arrays(rows).items()}
        if self.dtype == "float32":
            encoded["log_prob"][:count] = log_prob
            return encoded
        greatest = log_prob.max(1)
        lowest = np.maximum(log_prob.min(1), greatest - DEPTH)
        step = (greatest - lowest) / np.float32(255)
        code = np.rint((log_prob - lowest[:, None]) / np.where(step > 0, step, 1)[:, None])
        encoded["log_prob"][:count] = np.clip(code, 0, 255)
        encoded["range"][:, :count] = lowest, step
        return encoded

    def decode(self, arrays: Mapping[str, np.ndarray], count: int) -> FullTargets:
        """Return the same bits, or the codes and the scale that tells what they stand for."""
        stored = torch.from_numpy(arrays["log_prob"][:count])
        if self.dtype == "float32":
            return FullTargets(stored, None)
        scale = torch.from_numpy(np.ascontiguousarray(arrays["range"][:, :count].T))
        lowest, step = scale.unbind(1)
        if not bool(((lowest <= 0) & (step >= 0) & (255 * step <= 2 * DEPTH)).all()):
            raise CorruptError("The range of a row's log-probabilities is none that is written.")
        return FullTargets(stored, None, scale)
