"""Targets of a running teacher, with the features and feature maps that a cache, or another kind, does not hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.runtime.transfer import to_device
from kdcache.targets.base import Capabilities, Targets, check_slice

#: A running teacher can give everything that an objective may need.
LIVE_CAPABILITIES = Capabilities("the live teacher", every_class=True, features=True, maps=True)


@dataclass(frozen=True)
class LiveTargets(Targets):
    """Targets of any kind, with what entered the classifier and with feature maps, where they were asked for.

    Attributes:
        targets: what a cache would hold.
        feature: what entered the classifier; None where it was not asked for.
        levels: feature maps from fine to coarse, in the precision they were computed in; none where not asked for.
    """

    targets: Targets
    feature: Float[Tensor, "b d"] | None = None
    levels: tuple[Float[Tensor, "b _c _h _w"], ...] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: slice) -> "LiveTargets":
        start, stop = check_slice(rows, len(self))
        return self._with(self.targets[rows], slice(start, stop))

    def take(self, rows: Int64[Tensor, " n"]) -> "LiveTargets":
        """Return the rows at these positions."""
        return self._with(self.targets.take(rows), rows)

    def with_labels(self, labels: Int64[Tensor, "b 2"]) -> "LiveTargets":
        """Return the same targets with labels."""
        return LiveTargets(self.targets.with_labels(labels), self.feature, self.levels)

    def to(self, device: torch.device | str) -> "LiveTargets":
        """Return the same targets on another device."""
        return LiveTargets(
            self.targets.to(device),
            None if self.feature is None else to_device(self.feature, device),
            tuple(to_device(level, device) for level in self.levels),
        )

    @classmethod
    def concat(cls, parts: Sequence["LiveTargets"]) -> "LiveTargets":
        """Concatenate targets (at least one) for which the same was asked, in this order."""
        if len(parts) == 1:
            return parts[0]
        features = [part.feature for part in parts if part.feature is not None]
        return cls(
            type(parts[0].targets).concat([part.targets for part in parts]),
            torch.cat(features) if features else None,
            tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)),
        )

    def log_probs(self, *, num_classes: int | None = None, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Return the log-probabilities of `targets`."""
        return self.targets.log_probs(num_classes=num_classes, temperature=temperature)

    def label_log_prob(self) -> Float[Tensor, "b 2"]:
        """Return the log-probabilities of the labels, of `targets`."""
        return self.targets.label_log_prob()

    def features(self) -> Float[Tensor, "b d"]:
        """Return what entered the teacher's classifier. Raises UsageError where it was not asked for."""
        return super().features() if self.feature is None else self.feature

    def maps(self) -> list[Float[Tensor, "b _c _h _w"]]:
        """Return the feature maps, float32, from fine to coarse. Raises UsageError where they were not asked for."""
        return [level.float() for level in self.levels] or super().maps()

    def _with(self, targets: Targets, rows: slice | Int64[Tensor, " n"]) -> "LiveTargets":
        feature = None if self.feature is None else self.feature[rows]
        return LiveTargets(targets, feature, tuple(level[rows] for level in self.levels))
