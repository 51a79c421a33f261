"""Targets of which each row is a row of one tensor, and rows of large tensors on the host.

Those are taken and joined in memory of NumPy's, which lies in huge pages on Linux. torch's own does not, and costs
several times the copying itself in page faults. The copying is torch's, during which other threads go on.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from kdcache.runtime.transfer import to_device
from kdcache.targets.base import Targets, check_label_range, check_slice, concat_labels, require_labels

R = TypeVar("R", bound="RowTargets")


class RowTargets(Targets):
    """Targets that keep as many values of one row as of another: a frozen dataclass with a field for the values.

    Attributes:
        values_field: name of that field: values [b, ...], or 8-bit codes of them where there is a scale.
        scale: lowest value of each row, and the step between two codes; None where the values are no codes.
        label: own and partner's label of each row, -1 for none; None while they are not known.
    """

    values_field: ClassVar[str]
    scale: Float32[Tensor, "b 2"] | None
    label: Int64[Tensor, "b 2"] | None

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """The number of classes that they give."""

    def __len__(self) -> int:
        return len(getattr(self, self.values_field))

    def __getitem__(self: R, rows: slice) -> R:
        start, stop = check_slice(rows, len(self))
        return self._rows(slice(start, stop))

    def take(self: R, rows: Int64[Tensor, " n"]) -> R:
        """Return the rows at these positions."""
        return self._rows(rows)

    def with_labels(self: R, labels: Int64[Tensor, "b 2"]) -> R:
        """Return the same targets with labels. They have every class, so only a label beyond these is noticed."""
        check_label_range(labels, self.num_classes)
        return self._changed(label=labels)

    def to(self: R, device: torch.device | str) -> R:
        """Return the same targets on another device; the host does not wait for a GPU."""
        move = partial(to_device, device=device)
        return self._with_each(move, move)

    @classmethod
    def concat(cls: type[R], parts: Sequence[R]) -> R:
        """Concatenate targets (at least one) of one codec, in this order."""
        if len(parts) == 1:
            return parts[0]
        scales = [part.scale for part in parts if part.scale is not None]
        values = joined([getattr(part, cls.values_field) for part in parts])
        return parts[0]._changed(
            **{cls.values_field: values},
            scale=joined(scales) if scales else None,
            label=concat_labels([part.label for part in parts]),
        )

    def label_log_prob(self) -> Float[Tensor, "b 2"]:
        """Return log-probabilities of a row's own label and of its partner's; NaN where there is no such label."""
        label = require_labels(self.label)
        found = self.log_probs().gather(1, label.clamp(min=0))
        return torch.where(label < 0, torch.nan, found)

    def _rows(self: R, rows: slice | Int64[Tensor, " n"]) -> R:
        return self._with_each(lambda values: rows_of(values, rows), lambda few: few[rows])

    def _with_each(self: R, of_values: Callable[[Tensor], Tensor], of_others: Callable[[Tensor], Tensor]) -> R:
        """Return the targets with functions applied to the values, and to scale and labels where there are any."""
        return self._changed(
            **{self.values_field: of_values(getattr(self, self.values_field))},
            scale=None if self.scale is None else of_others(self.scale),
            label=None if self.label is None else of_others(self.label),
        )

    def _changed(self: R, **fields: Any) -> R:
        changed: R = replace(self, **fields)  # type: ignore[type-var] # a subclass is a dataclass
        return changed


def rows_of(values: Shaped[Tensor, "n *shape"], rows: slice | Int64[Tensor, "m"]) -> Shaped[Tensor, "_ *shape"]:
    """Return the rows of a slice, without a copy, or those at these positions."""
    if isinstance(rows, slice) or values.device.type != "cpu":
        return values[rows]
    return torch.index_select(values, 0, rows, out=_room(values, len(rows)))


def joined(parts: Sequence[Shaped[Tensor, "_ *shape"]]) -> Shaped[Tensor, "n *shape"]:
    """Return all rows of some tensors (at least one) of a type and on a device, in this order."""
    if parts[0].device.type != "cpu":
        return torch.cat(list(parts))
    return torch.cat(list(parts), out=_room(parts[0], sum(map(len, parts))))


def _room(like: Shaped[Tensor, "_ *shape"], rows: int) -> Shaped[Tensor, "rows *shape"]:
    """Allocate memory for so many rows."""
    return torch.from_numpy(np.empty((rows, *like.shape[1:]), like.numpy().dtype))
