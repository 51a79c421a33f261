"""How top-k targets lie in a chunk: six arrays, in zeros where a row has less than there is room for.

| array | type | shape | holds |
|---|---|---|---|
| `top` | u8, u16 or u32 | [rows] | the most probable class of each row |
| `count` | u8 or u16 | [rows] | how many other classes each row keeps |
| `class` | u8, u16 or u32 | [rows * others] | names of these beside `top`, ascending in a row, as gaps (see below) |
| `level` | u8 | [rows * others] | sqrt level of each of them (`codec.SqrtLevels`) |
| `tail` | u8 | [rows] | sqrt level, from 0 on, of the mass of the classes that are not stored |
| `label` | u16 | [2, rows] | own and partner's label where it is an exception (`codec.encode_label`), else 0 |

A class's name is its place in the order of classes as seen from `top` (`class_order`), its number without an order.
The first name of a row stands as it is, every other as what it exceeds the one before by, less 1.
`others` is the most classes beside the first that a row can keep, so the streams cannot overflow. The probability of
the most probable class is not stored: it is what all others leave, and their levels are chosen such that this comes
out right within a level. The tail is stored, never derived from quantised values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import floor
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, Integer, UInt8, UInt16
from torch import Tensor

from kdcache.errors import CorruptError, UsageError
from kdcache.targets.array_codec import SqrtLevels, decode_label, encode_label
from kdcache.targets.base import ArraySpec, Capabilities, ReadClassifier, TargetCodec, Targets
from kdcache.targets.class_order import ClassOrder, class_dtype, prefix_of
from kdcache.targets.ragged import first_maxima, row_maxima, row_sums, row_totals, starts_of
from kdcache.targets.topk import TopKTargets, keep_top

#: Kept classes get no less than this of a row's mass, whatever the tail's rounding leaves them.
LEAST_MASS = 1e-7

#: The most probable class is read as at least this many times any other, however the others were rounded.
LEAD = 1.001


def usual_bits(min_prob: float) -> int:
    """Return the bits of a level that lose little for their bytes: 5 over a threshold, 8 for a fixed number of classes.

    Without a threshold the lowest level begins at 0, and a coarse one would read every unlikely class too high.
    """
    return 5 if min_prob > 0 else 8


@dataclass(frozen=True)
class TopKCodec(TargetCodec):
    """The most probable class and those with p > `min_prob`, at most `k`, in 2**`bits` levels.

    `min_prob` 0 keeps a fixed number. Without an `order` classes are named by their numbers.
    """

    num_classes: int
    k: int = 128
    min_prob: float = 0.0033
    bits: int = 5
    order: ClassOrder | None = None
    kind = "topk"
    capabilities: ClassVar[Capabilities] = Capabilities("topk targets", every_class=False)
    table_names: ClassVar[frozenset[str]] = frozenset({"order"})

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
        """The number of classes that a row can keep: no more than 1 / min_prob can exceed min_prob."""
        most = min(self.k, self.num_classes)
        return floor(min(most, 1 / self.min_prob)) if self.min_prob > 0 else most

    @classmethod
    def for_teacher(cls, num_classes: int, classifier: ReadClassifier, **options: Any) -> "TopKCodec":
        """Return the codec without an order; `k` is at most the number of classes, `bits` is `usual_bits`."""
        codec = cls(num_classes, **options)
        return replace(codec, k=min(codec.k, num_classes), bits=usual_bits(codec.min_prob))

    def parameters(self) -> dict[str, Any]:
        """Return k, min_prob and bits, and the checksum of the order where there is one."""
        found: dict[str, Any] = {"k": self.k, "min_prob": self.min_prob, "bits": self.bits}
        return found if self.order is None else found | {"order": self.order.checksum}

    def table_specs(self) -> dict[str, ArraySpec]:
        """Return the one table, `order`, that of a `ClassOrder`."""
        classes = self.num_classes
        return {"order": ArraySpec(class_dtype(classes), (classes, prefix_of(classes)), shuffle="shuffle")}

    def tables(self) -> dict[str, np.ndarray]:
        """Return the order, where there is one."""
        return {} if self.order is None else {"order": self.order.table}

    def with_tables(self, tables: Mapping[str, np.ndarray]) -> "TopKCodec":
        """Return the same codec with this order."""
        return replace(self, order=ClassOrder(tables["order"]) if "order" in tables else None)

    def keep(
        self,
        log_probs: Float[Tensor, "b c"],
        labels: Int64[Tensor, "b 2"],
        features: Float[Tensor, "b d"] | None = None,
    ) -> TopKTargets:
        """Select on the device of the teacher's outputs, then move what is kept to the host."""
        return keep_top(log_probs.detach(), labels.to(log_probs.device), self.width, self.min_prob).to("cpu")

    def arrays(self, rows: int) -> dict[str, ArraySpec]:
        """Return the arrays of the table in the module's docstring."""
        stream = (rows * max(1, self.width - 1),)
        names = (prefix_of(self.num_classes) if self.order is not None else 0) + self.num_classes
        name_type, count_type = class_dtype(names), class_dtype(self.width)
        wide = np.dtype(name_type).itemsize > 1
        return {
            "top": ArraySpec(class_dtype(self.num_classes), (rows,), shuffle="bitshuffle"),
            "count": ArraySpec(count_type, (rows,)),
            "class": ArraySpec(name_type, stream, shuffle="shuffle" if wide else "noshuffle"),
            "level": ArraySpec("uint8", stream),
            "tail": ArraySpec("uint8", (rows,)),
            "label": ArraySpec("uint16", (2, rows), axis=1, shuffle="shuffle"),
        }

    def encode(self, targets: Targets, rows: int) -> dict[str, np.ndarray]:
        """Quantise at most `rows` rows; the rest of every array is zero."""
        assert isinstance(targets, TopKTargets)
        class_id, prob = targets.class_id.numpy(), targets.prob.numpy()
        first = first_maxima(prob, targets.offset.diff().numpy())
        top, top_prob = class_id[first], prob[first]
        counts = targets.offset.diff().numpy() - 1
        other, other_prob = np.delete(class_id, first), np.delete(prob, first)

        name = self._names(np.repeat(top, counts), other)
        ranked = np.lexsort((name, np.repeat(np.arange(len(counts)), counts)))
        name = name[ranked]
        gap = np.diff(name, prepend=0) - 1
        begin = starts_of(counts)[counts > 0]
        gap[begin] = name[begin]

        tail = self._tail_levels.encode(targets.tail.numpy())
        label = encode_label(targets.label_prob.numpy())
        kept_mass, _, _ = self._masses(counts, tail, label)
        level = self._levels.encode_to_sum(
            other_prob[ranked], counts, kept_mass - top_prob, np.sqrt(top_prob) * self._levels.step
        )
        found = {"top": top, "count": counts, "class": gap, "level": level, "tail": tail, "label": label.T}
        encoded = {key: np.zeros(spec.shape, spec.dtype) for key, spec in self.arrays(rows).items()}
        for key, values in found.items():
            encoded[key][..., : values.shape[-1]] = values
        return encoded

    def decode(self, arrays: Mapping[str, np.ndarray], count: int) -> TopKTargets:
        """Return the targets, the most probable class of each row first; every row sums to 1."""
        counts = arrays["count"][:count].astype(np.int64)
        top = arrays["top"][:count].astype(np.int32)
        stored = int(counts.sum())
        if counts.max(initial=0) >= self.width or top.max(initial=0) >= self.num_classes:
            raise CorruptError("More classes or a higher class are stored than there can be.")
        level, tail = arrays["level"][:stored], arrays["tail"][:count]
        if max(level.max(initial=0), tail.max(initial=0)) >= 2**self.bits:
            raise CorruptError("A higher level is stored than there can be.")
        name = row_totals(arrays["class"][:stored].astype(np.int32) + 1, counts) - 1
        other = self._classes(np.repeat(top, counts), name)
        if other.min(initial=0) < 0 or other.max(initial=0) >= self.num_classes:
            raise CorruptError("A higher class is stored than there can be.")

        code = np.ascontiguousarray(arrays["label"][:, :count].T)
        kept_mass, tail_mass, label_prob = self._masses(counts, tail, code)
        other_prob = self._levels.decode(level)
        left = kept_mass - row_sums(other_prob, counts)
        least = np.maximum(LEAD * self._levels.middles[row_maxima(level, counts)] * (counts > 0), LEAST_MASS)
        crowded = left < least
        if crowded.any():  # the others were rounded up so far that all must shrink
            scale = np.where(crowded, kept_mass / (kept_mass - left + least), 1)
            other_prob *= np.repeat(scale.astype(np.float32), counts)
            left = np.where(crowded, least * scale, left)

        offset = np.zeros(count + 1, np.int64)
        np.cumsum(counts + 1, out=offset[1:])
        place = np.arange(stored) + np.repeat(np.arange(1, count + 1), counts)
        return TopKTargets(
            self.num_classes,
            torch.from_numpy(_joined(top, offset[:-1], other, place)),
            torch.from_numpy(_joined(left.astype(np.float32), offset[:-1], other_prob, place)),
            torch.from_numpy(offset),
            torch.from_numpy(tail_mass.astype(np.float32)),
            None,
            torch.from_numpy(label_prob),
        )

    def rows_of(self, arrays: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the arrays of some rows; in the streams they begin where those of the rows before end."""
        counts = arrays["count"]
        first, entries = (int(counts[part].sum(dtype=np.int64)) for part in (slice(start), slice(start, stop)))
        streams = {name: arrays[name][first : first + entries] for name in ("class", "level")}
        return {name: array[..., start:stop] for name, array in arrays.items()} | streams

    @property
    def _levels(self) -> SqrtLevels:
        return SqrtLevels(self.bits, self.min_prob)

    @property
    def _tail_levels(self) -> SqrtLevels:
        return SqrtLevels(self.bits, 0.0)

    def _names(self, top: Integer[np.ndarray, " n"], class_id: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
        return class_id if self.order is None else self.order.names(top, class_id)

    def _classes(self, top: Integer[np.ndarray, " n"], name: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " n"]:
        return name if self.order is None else self.order.classes(top, name)

    def _masses(
        self, counts: Int64[np.ndarray, " b"], tail: UInt8[np.ndarray, " b"], label: UInt16[np.ndarray, "b 2"]
    ) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, " b"], Float32[np.ndarray, "b 2"]]:
        """Return the masses of a row's kept classes together, of its tail and of its exceptions, which sum to 1."""
        exception = decode_label(label)
        rest = self._tail_levels.decode(tail).astype(np.float64)
        rest[counts + 1 + (label != 0).sum(1) >= self.num_classes] = 0  # no class is left for a tail
        taken = rest + np.where(label != 0, exception, 0).sum(1, dtype=np.float64)
        scale = np.minimum(1, (1 - LEAST_MASS) / np.maximum(taken, LEAST_MASS))
        return 1 - taken * scale, rest * scale, exception * scale[:, None].astype(np.float32)


def _joined(
    first: np.ndarray, first_place: Int64[np.ndarray, " b"], other: np.ndarray, other_place: Int64[np.ndarray, " n"]
) -> np.ndarray:
    """Return one array with the values of both, each at its place."""
    found = np.empty(len(first) + len(other), other.dtype)
    found[first_place] = first
    found[other_place] = other
    return found
