"""Targets of several teachers as one: the weighted mean of their probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.runtime.python_words import in_python_words
from kdcache.runtime.transfer import to_device
from kdcache.targets.base import Capabilities, Targets, check_temperature
from kdcache.targets.full import FullCodec


@dataclass(frozen=True)
class MixedTargets(Targets):
    """Targets of several teachers for the same rows, each with a share of the whole; the shares sum to 1."""

    parts: tuple[Targets, ...]
    shares: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: slice) -> "MixedTargets":
        return MixedTargets(tuple(part[rows] for part in self.parts), self.shares)

    def take(self, rows: Int64[Tensor, " n"]) -> "MixedTargets":
        """Return the rows at these positions, in this order."""
        return MixedTargets(tuple(part.take(rows) for part in self.parts), self.shares)

    def with_labels(self, labels: Int64[Tensor, "b 2"]) -> "MixedTargets":
        """Return the same targets with labels, which must be those of every part."""
        return MixedTargets(tuple(part.with_labels(labels) for part in self.parts), self.shares)

    def to(self, device: torch.device | str) -> "MixedTargets":
        """Return the same targets on another device."""
        return MixedTargets(tuple(part.to(device) for part in self.parts), self.shares)

    @classmethod
    def concat(cls, parts: Sequence["MixedTargets"]) -> "MixedTargets":
        """Concatenate mixtures of the same shares."""
        columns = zip(*(mixed.parts for mixed in parts), strict=True)
        return cls(tuple(type(column[0]).concat(column) for column in columns), parts[0].shares)

    def log_probs(self, *, num_classes: int | None = None, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Return the log of the weighted sum of probabilities; at another temperature, log_softmax(that / temperature).

        Raises UsageError where one of the parts cannot give them.
        """
        check_temperature(temperature)
        mixed = self._mix([part.log_probs(num_classes=num_classes) for part in self.parts])
        if temperature == 1.0:
            return mixed
        for part in self.parts:
            # Refuses where classes are not all stored.
            part[:1].log_probs(num_classes=num_classes, temperature=temperature)
        return torch.log_softmax(mixed / temperature, 1)

    def label_log_prob(self) -> Float[Tensor, "b 2"]:
        """Return log-probabilities of a row's own label and of its partner's; NaN where there is no such label."""
        return self._mix([part.label_log_prob() for part in self.parts])

    @in_python_words()
    def features(self) -> Float[Tensor, "b d"]:
        """Raise UsageError: the features of several teachers cannot be mixed."""
        raise UsageError(
            "These targets are mixed of several teachers, whose features cannot be mixed as they mean other things: "
            "choose one of the teachers with --teacher."
        )

    def _mix(self, log_probs: Sequence[Float[Tensor, "b n"]]) -> Float[Tensor, "b n"]:
        shares = to_device(torch.tensor(self.shares, dtype=log_probs[0].dtype), log_probs[0].device)
        return torch.logsumexp(torch.stack(list(log_probs)) + shares.log()[:, None, None], 0)


def mixed_capabilities(parts: Sequence[Capabilities]) -> Capabilities:
    """Return what a mixture of targets can give: every class where each of its parts has it, and no features.

    It is described as the weakest of its parts is, and as full targets where different kinds have every class.
    """
    limited = [part for part in parts if not part.every_class]
    weakest = parts[0] if len(set(parts)) == 1 else [*limited, FullCodec.capabilities][0]
    return Capabilities(weakest.description, every_class=not limited)
