"""A running teacher's answers together with what no cache, or no other kind of targets, holds of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.runtime.transfer import send
from kdcache.targets.base import Capabilities, Targets, check_slice

#: What a running teacher can give: all that there is.
LIVE_CAPABILITIES = Capabilities("the live teacher", every_class=True, features=True, maps=True)


@dataclass(frozen=True)
class LiveTargets(Targets):
    """Answers of any kind, with what entered the classifier and feature maps, each of them where it was asked for.

    Attributes:
        feature: None where it was not asked for.
        levels: feature maps from fine to coarse, in the precision they were computed in; none where not asked for.
    """

    answers: Targets
    feature: Float[Tensor, "b d"] | None = None
    levels: tuple[Float[Tensor, "b _c _h _w"], ...] = ()

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, rows: slice) -> "LiveTargets":
        start, stop = check_slice(rows, len(self))
        return self._with(self.answers[rows], slice(start, stop))

    def take(self, rows: Int64[Tensor, " n"]) -> "LiveTargets":
        """The rows at these positions."""
        return self._with(self.answers.take(rows), rows)

    def with_labels(self, labels: Int64[Tensor, "b 2"]) -> "LiveTargets":
        """The same answers with labels."""
        return LiveTargets(self.answers.with_labels(labels), self.feature, self.levels)

    def to(self, device: torch.device | str) -> "LiveTargets":
        """The same answers on another device."""
        return LiveTargets(
            self.answers.to(device),
            None if self.feature is None else send(self.feature, device),
            tuple(send(level, device) for level in self.levels),
        )

    @classmethod
    def concat(cls, parts: Sequence["LiveTargets"]) -> "LiveTargets":
        """Several answers (at least one) to which the same was asked for, one after the other."""
        if len(parts) == 1:
            return parts[0]
        features = [part.feature for part in parts if part.feature is not None]
        return cls(
            type(parts[0].answers).concat([part.answers for part in parts]),
            torch.cat(features) if features else None,
            tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)),
        )

    def log_probs(self, num_classes: int, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """As the answers have them."""
        return self.answers.log_probs(num_classes, temperature)

    def label_log_prob(self) -> Float[Tensor, "b 2"]:
        """As the answers have them."""
        return self.answers.label_log_prob()

    def features(self) -> Float[Tensor, "b d"]:
        """What entered the teacher's classifier. Raises UsageError where it was not asked for."""
        return super().features() if self.feature is None else self.feature

    def maps(self) -> list[Float[Tensor, "b _c _h _w"]]:
        """The teacher's feature maps, float32, from fine to coarse. Raises UsageError where they were not asked for."""
        return [level.float() for level in self.levels] or super().maps()

    def _with(self, answers: Targets, rows: slice | Int64[Tensor, " n"]) -> "LiveTargets":
        feature = None if self.feature is None else self.feature[rows]
        return LiveTargets(answers, feature, tuple(level[rows] for level in self.levels))
