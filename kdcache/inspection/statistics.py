"""Statistics of a teacher's targets, row by row."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import singledispatch

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kdcache.targets.base import Targets
from kdcache.targets.topk import TopKTargets

#: Number of probabilities that are decoded together.
TOGETHER = 2**23


@dataclass(frozen=True)
class TargetStatistics:
    """Statistics of each target, computed without its label.

    Attributes:
        first, second: the likeliest class and the next (-1 if only one is kept).
        top: probability of the first.
        kept: number of classes with a probability of their own.
        covered: mass of these classes.
        entropy: entropy of the decoded target, in nats.
        hidden: upper bound of the KL divergence from the teacher's output that the tail can cause, in nats.
    """

    first: Int64[Tensor, "b"]
    second: Int64[Tensor, "b"]
    top: Float[Tensor, "b"]
    kept: Int64[Tensor, "b"]
    covered: Float[Tensor, "b"]
    entropy: Float[Tensor, "b"]
    hidden: Float[Tensor, "b"]

    @classmethod
    def room(cls, rows: int) -> "TargetStatistics":
        """Allocate statistics of `rows` targets, to be filled with `put`.

        One tensor holds all: many small tensors, allocated between large temporary ones, would fragment the memory.
        """
        whole, real = torch.int64, torch.float64
        types = {"first": whole, "second": whole, "kept": whole}
        return cls(**{field.name: torch.zeros(rows, dtype=types.get(field.name, real)) for field in fields(cls)})

    def put(self, at: int, part: "TargetStatistics") -> int:
        """Copy statistics in from row `at` on; return the row after them."""
        end = at + len(part.first)
        for field in fields(self):
            getattr(self, field.name)[at:end] = getattr(part, field.name)
        return end

    def until(self, row: int) -> "TargetStatistics":
        """Return the statistics before a row."""
        return TargetStatistics(**{field.name: getattr(self, field.name)[:row] for field in fields(self)})

    @classmethod
    def concat(cls, parts: Sequence["TargetStatistics"]) -> "TargetStatistics":
        """Concatenate several parts."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})


@singledispatch
def compute_statistics(targets: Targets) -> TargetStatistics:
    """Return statistics of each target; labels are not needed.

    Those of a kind that is not named below are computed from its log-probabilities of every class.
    """
    rows = max(1, TOGETHER // targets[:1].log_probs().shape[1])
    parts = (targets[start : start + rows].log_probs() for start in range(0, len(targets), rows))
    return TargetStatistics.concat([_of_every_class(log_prob) for log_prob in parts])


def _of_every_class(log_prob: Float[Tensor, "b c"]) -> TargetStatistics:
    prob = log_prob.double().exp()
    values, classes = prob.topk(min(2, prob.shape[1]), dim=1)
    count = torch.full((len(prob),), prob.shape[1])
    return TargetStatistics(
        first=classes[:, 0],
        second=classes[:, -1] if classes.shape[1] == 2 else torch.full_like(count, -1),
        top=values[:, 0],
        kept=count,
        covered=prob.sum(1),
        entropy=_surprise(prob).sum(1),
        hidden=torch.zeros(len(prob), dtype=torch.float64),
    )


@compute_statistics.register
def _(targets: TopKTargets) -> TargetStatistics:
    rows, counts, size = targets.rows(), targets.offset.diff(), len(targets)
    prob, tail = targets.prob.double(), targets.tail.double()
    exceptions = targets.label_prob.double().nan_to_num(0.0)
    known = counts + (~targets.label_prob.isnan()).sum(1)
    # By row, and within a row from the likeliest to the least likely.
    order = prob.argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    ranked = targets.class_id.long()[order]
    start = targets.offset[:-1]
    first = _at(ranked, start, counts > 0)
    second = _at(ranked, start + 1, counts > 1)
    sums = torch.zeros(size, dtype=torch.float64)
    others = (targets.num_classes - known).clamp(min=1).double()
    # No class of the tail is likelier than the least likely kept one; decoding gives all of them the same probability.
    least = torch.ones(size, dtype=torch.float64).scatter_reduce(0, rows, prob, "amin")
    most = torch.minimum(least, tail)
    hidden = tail * (most * others / tail.clamp(min=1e-30)).clamp(min=1).log()
    return TargetStatistics(
        first=first,
        second=second,
        top=torch.zeros(size, dtype=torch.float64).scatter_reduce(0, rows, prob, "amax"),
        kept=known,
        covered=1 - tail,
        entropy=sums.index_add(0, rows, _surprise(prob))
        + _surprise(exceptions).sum(1)
        + others * _surprise(tail / others),
        hidden=hidden,
    )


def _surprise(prob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.special.entr(prob)


def _at(values: Int64[Tensor, "n"], places: Int64[Tensor, "b"], exists: Tensor) -> Int64[Tensor, "b"]:
    """Return the values at places, -1 where `exists` is False."""
    found = torch.full_like(places, -1)
    found[exists] = values[places[exists]]
    return found
