"""How top-k targets lie in a chunk: five arrays, in zeros where a row has less than there is room for.

| array | type | shape | holds |
|---|---|---|---|
| `count` | u8 or u16 | [rows] | number of kept classes of each row |
| `class` | u8, u16 or u32 | [rows * width] | classes of all rows, ascending in each row, one row after the other |
| `level` | u8 | [rows * width] | sqrt level of each of these classes (`codec.SqrtLevels`) |
| `tail` | u16 | [rows] | mass of the classes that are not stored (`codec.encode_mass`) |
| `label` | u16 | [2, rows] | own and partner's label where it is an exception (`codec.encode_label`), else 0 |

`width` is the most classes that a row can keep, so the streams cannot overflow. On reading, the kept
probabilities of a row are scaled so that all of it sums to 1; the tail is stored, never derived from
quantised values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from kdcache.errors import CorruptError, UsageError
from kdcache.targets.base import ArraySpec, Coding, Targets
from kdcache.targets.codec import SqrtLevels, decode_label, decode_mass, encode_label, encode_mass
from kdcache.targets.topk import TopKTargets, keep_top

#: Kept classes get no less than this of a row's mass, whatever the tail's rounding leaves them.
LEAST_MASS = np.float32(1e-7)


@dataclass(frozen=True)
class TopKCoding(Coding):
    """Classes with p > `min_prob`, at most `k`, in 2**`bits` levels. `min_prob` 0 keeps a fixed number."""

    num_classes: int
    k: int = 128
    min_prob: float = 0.0031
    bits: int = 6
    kind = "topk"

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise UsageError(f"A teacher of {self.num_classes} classes cannot be stored.")
        if self.k < 1:
            raise UsageError(f"k is {self.k}, and at least one class must be kept; use --k 1 or more.")
        if not 0 <= self.min_prob < 1:
            raise UsageError(f"min_prob is {self.min_prob:g}, which is no probability below 1 (--min-prob).")
        if not 1 <= self.bits <= 8:
            raise UsageError(f"Probabilities of {self.bits} bits are not known; use 1 to 8.")

    @property
    def width(self) -> int:
        """The most classes that a row can keep: no more than 1 / min_prob can exceed min_prob."""
        most = min(self.k, self.num_classes)
        return min(most, max(1, floor(1 / self.min_prob))) if self.min_prob > 0 else most

    def parameters(self) -> dict[str, Any]:
        """k, min_prob and bits."""
        return {"k": self.k, "min_prob": self.min_prob, "bits": self.bits}

    def keep(self, log_probs: Float[Tensor, "b c"], labels: Int64[Tensor, "b 2"]) -> TopKTargets:
        """Select on the device of the answers, then move what is kept to the host."""
        self.check_answers(log_probs, labels)
        return keep_top(log_probs.detach(), labels.to(log_probs.device), self.width, self.min_prob).to("cpu")

    def arrays(self, rows: int) -> dict[str, ArraySpec]:
        """See the module's table."""
        stream = (rows * self.width,)
        return {
            "count": ArraySpec(_unsigned(self.width), (rows,)),
            "class": ArraySpec(_unsigned(self.num_classes - 1), stream),
            "level": ArraySpec("uint8", stream),
            "tail": ArraySpec("uint16", (rows,)),
            "label": ArraySpec("uint16", (2, rows), axis=1),
        }

    def pack(self, targets: Targets, rows: int) -> dict[str, np.ndarray]:
        """Quantise at most `rows` rows; the rest of every array is zero."""
        assert isinstance(targets, TopKTargets)
        count, kept = len(targets), len(targets.class_id)
        packed = {name: np.zeros(spec.shape, spec.dtype) for name, spec in self.arrays(rows).items()}
        packed["count"][:count] = targets.offset.diff().numpy()
        packed["class"][:kept] = targets.class_id.numpy()
        packed["level"][:kept] = self._levels().encode(targets.prob.numpy())
        packed["tail"][:count] = encode_mass(targets.tail.numpy())
        packed["label"][:, :count] = encode_label(targets.label_prob.numpy()).T
        return packed

    def unpack(self, arrays: Mapping[str, np.ndarray], count: int) -> TopKTargets:
        """Read `count` rows and give every row the sum 1."""
        counts = arrays["count"][:count].astype(np.int64)
        offset = np.concatenate([[0], counts.cumsum()])
        kept = int(offset[-1])
        class_id = arrays["class"][:kept].astype(np.int32)
        level = arrays["level"][:kept]
        if (
            counts.max(initial=0) > self.width
            or class_id.max(initial=0) >= self.num_classes
            or level.max(initial=0) >= 2**self.bits
        ):
            raise CorruptError("More classes, a higher class or a higher level are stored than there can be.")
        code = np.ascontiguousarray(arrays["label"][:, :count].T)
        prob, tail, label_prob = _sum_to_one(
            self._levels().decode(level), counts, decode_mass(arrays["tail"][:count]), decode_label(code)
        )
        return TopKTargets(
            self.num_classes,
            torch.from_numpy(class_id),
            torch.from_numpy(prob),
            torch.from_numpy(offset),
            torch.from_numpy(tail),
            None,
            torch.from_numpy(label_prob),
        )

    def _levels(self) -> SqrtLevels:
        return SqrtLevels(self.bits, self.min_prob)


def _unsigned(largest: int) -> str:
    """The smallest unsigned type that holds `largest`."""
    return next(name for name in ("uint8", "uint16", "uint32") if largest <= np.iinfo(name).max)


def _row_sums(values: np.ndarray, counts: Int64[np.ndarray, " b"]) -> np.ndarray:
    """Sum of each ragged row; 0 for an empty one."""
    sums = np.zeros(len(counts), values.dtype)
    filled = counts > 0
    if values.size:
        starts = (counts.cumsum() - counts)[filled]
        sums[filled] = np.add.reduceat(values, starts)
    return sums


def _sum_to_one(
    prob: Float32[np.ndarray, " n"],
    counts: Int64[np.ndarray, " b"],
    tail: Float32[np.ndarray, " b"],
    label_prob: Float32[np.ndarray, "b 2"],
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " b"], Float32[np.ndarray, "b 2"]]:
    """Scale the kept classes to what tail and exceptions leave them, then everything by what rounding left."""
    exceptions = np.nansum(label_prob, 1)
    kept = np.where(counts > 0, np.maximum(1 - tail - exceptions, LEAST_MASS), 0)
    total = kept + tail + exceptions
    total[total == 0] = 1  # an empty row of a store that does not tell the truth
    scale = kept / total / np.maximum(_row_sums(prob, counts), np.float32(1e-30))
    return prob * np.repeat(scale, counts), tail / total, label_prob / total[:, None]
