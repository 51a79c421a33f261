"""The whole answer: every class's log-probability, for objectives that need it and for temperatures other than 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.targets.base import (
    ArraySpec,
    Coding,
    Targets,
    check_classes,
    check_label_range,
    check_slice,
    concat_labels,
    require_labels,
)


@dataclass(frozen=True)
class FullTargets(Targets):
    """Log-probabilities of every class and the labels (own, partner's; -1 = none) once they are known."""

    log_prob: Float32[Tensor, "b c"]
    label: Int64[Tensor, "b 2"] | None

    def __len__(self) -> int:
        return len(self.log_prob)

    def __getitem__(self, rows: slice) -> "FullTargets":
        start, stop = check_slice(rows, len(self))
        return FullTargets(self.log_prob[start:stop], None if self.label is None else self.label[start:stop])

    def take(self, rows: Int64[Tensor, " n"]) -> "FullTargets":
        """The rows at these positions."""
        return FullTargets(self.log_prob[rows], None if self.label is None else self.label[rows])

    def with_labels(self, labels: Int64[Tensor, "b 2"]) -> "FullTargets":
        """The same answers with labels. Every class is stored, so that only a label beyond them is noticed."""
        check_label_range(labels, self.log_prob.shape[1])
        return FullTargets(self.log_prob, labels)

    def to(self, device: torch.device | str) -> "FullTargets":
        """The same answers on another device."""
        return FullTargets(self.log_prob.to(device), None if self.label is None else self.label.to(device))

    @classmethod
    def concat(cls, parts: Sequence["FullTargets"]) -> "FullTargets":
        """Several answers (at least one), one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([part.log_prob for part in parts]), concat_labels([part.label for part in parts]))

    def log_probs(self, num_classes: int, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """The stored values bit for bit, or log_softmax(stored / temperature)."""
        check_classes(self.log_prob.shape[1], num_classes)
        if temperature == 1.0:
            return self.log_prob
        return torch.log_softmax(self.log_prob / temperature, 1)

    def label_log_prob(self) -> Float[Tensor, "b 2"]:
        """Log-probabilities of a row's own label and of its partner's; NaN where there is no such label."""
        label = require_labels(self.label)
        found = self.log_prob.gather(1, label.clamp(min=0))
        return torch.where(label < 0, torch.nan, found)


@dataclass(frozen=True)
class FullCoding(Coding):
    """Stored as they are: array `log_prob`, float32 [rows, classes]."""

    num_classes: int
    dtype: str = "float32"
    kind = "full"

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise UsageError(f"A teacher of {self.num_classes} classes cannot be stored.")
        if self.dtype != "float32":
            raise UsageError(f"Full targets of dtype '{self.dtype}' are not known; use float32.")

    def parameters(self) -> dict[str, Any]:
        """The stored data type."""
        return {"dtype": self.dtype}

    def keep(self, log_probs: Float[Tensor, "b c"], labels: Int64[Tensor, "b 2"]) -> FullTargets:
        """All of it, on the host."""
        self.check_answers(log_probs, labels)
        return FullTargets(log_probs.detach().to("cpu", torch.float32), labels.to("cpu"))

    def arrays(self, rows: int) -> dict[str, ArraySpec]:
        """`log_prob` alone: the labels are the index's."""
        return {"log_prob": ArraySpec("float32", (rows, self.num_classes), shuffle="shuffle", effort=3)}

    def pack(self, targets: Targets, rows: int) -> dict[str, np.ndarray]:
        """The log-probabilities, padded with zeros."""
        assert isinstance(targets, FullTargets)
        packed = np.zeros((rows, self.num_classes), np.float32)
        packed[: len(targets)] = targets.log_prob.numpy()
        return {"log_prob": packed}

    def unpack(self, arrays: Mapping[str, np.ndarray], count: int) -> FullTargets:
        """The same bits back."""
        return FullTargets(torch.from_numpy(arrays["log_prob"][:count]), None)
