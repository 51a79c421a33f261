"""Top-k targets: the likely classes, the mass of all others, and the labels, in a few bytes.

Kept are the most probable class and those with p > min_prob, at most k in all. What they leave is one number, the
tail, spread uniformly over the other classes when a row is rebuilt. A label that is not among the kept classes
is kept as an exception: its probability is stored beside the tail and taken out of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from torch import Tensor

from kdcache.errors import CorruptError, UsageError
from kdcache.runtime.python_words import in_python_words
from kdcache.runtime.transfer import to_device
from kdcache.targets.base import (
    Targets,
    check_classes,
    check_label_range,
    check_slice,
    check_temperature,
    concat_labels,
    require_labels,
)

#: Probabilities are read as at least this, the smallest normal float32: its logarithm, -87.3, is finite, and
#: the mass that it adds over all classes is lost in rounding, so no KL divergence is changed by it.
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class TopKTargets(Targets):
    """Kept classes as ragged rows, tail mass and labels.

    Row i keeps entries offset[i] to offset[i + 1] of `class_id` (no class twice) and `prob`. `label`
    holds its own label and its partner's (-1 = none), once they are known. `label_prob` is a label's probability
    where the label is an exception, and NaN where it is absent, a repeat of the first, or among the kept. prob,
    label_prob and tail of a row sum to 1.
    """

    num_classes: int
    class_id: Int32[Tensor, " n"]
    prob: Float32[Tensor, " n"]
    offset: Int64[Tensor, " ends"]
    tail: Float32[Tensor, " b"]
    label: Int64[Tensor, "b 2"] | None
    label_prob: Float32[Tensor, "b 2"]

    def __len__(self) -> int:
        return len(self.tail)

    def __getitem__(self, rows: slice) -> "TopKTargets":
        start, stop = check_slice(rows, len(self))
        first, last = int(self.offset[start]), int(self.offset[stop])
        return TopKTargets(
            self.num_classes,
            self.class_id[first:last],
            self.prob[first:last],
            self.offset[start : stop + 1] - first,
            self.tail[start:stop],
            None if self.label is None else self.label[start:stop],
            self.label_prob[start:stop],
        )

    def take(self, rows: Int64[Tensor, " n"]) -> "TopKTargets":
        """Return the rows at these positions: one gather for all of them."""
        starts = self.offset[:-1][rows]
        counts = self.offset[1:][rows] - starts
        offset = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        total = int(offset[-1])
        shift = (starts - offset[:-1]).repeat_interleave(counts, output_size=total)
        entries = torch.arange(total, device=shift.device) + shift
        return TopKTargets(
            self.num_classes,
            self.class_id[entries],
            self.prob[entries],
            offset,
            self.tail[rows],
            None if self.label is None else self.label[rows],
            self.label_prob[rows],
        )

    def with_labels(self, labels: Int64[Tensor, "b 2"]) -> "TopKTargets":
        """Return the same targets with labels: exactly those that are there and not kept must be the exceptions."""
        check_label_range(labels, self.num_classes)
        rows = self.rows()
        # A row keeps a class at most once, so that its hits are counted without a loop over rows or columns.
        hits = (self.class_id[:, None] == labels[rows]).to(torch.int32)
        expected = (labels >= 0) & (hits.new_zeros(labels.shape).index_add_(0, rows, hits) == 0)
        expected[:, 1] &= labels[:, 1] != labels[:, 0]
        unexpected = expected == self.label_prob.isnan()
        if bool(unexpected.any()):
            wrong = unexpected.any(1).nonzero()
            row = int(wrong[0])
            raise CorruptError(
                f"{len(wrong)} rows (the first is {row}) were stored with other labels than "
                f"{labels[row].tolist()}, which they have now."
            )
        return replace(self, label=labels)

    def to(self, device: torch.device | str) -> "TopKTargets":
        """Return the same targets on another device; the host does not wait for a GPU."""
        return TopKTargets(
            self.num_classes,
            to_device(self.class_id, device),
            to_device(self.prob, device),
            to_device(self.offset, device),
            to_device(self.tail, device),
            None if self.label is None else to_device(self.label, device),
            to_device(self.label_prob, device),
        )

    @classmethod
    def concat(cls, parts: Sequence["TopKTargets"]) -> "TopKTargets":
        """Concatenate targets (at least one), in this order."""
        if len(parts) == 1:
            return parts[0]
        counts = torch.cat([part.offset.diff() for part in parts])
        return cls(
            parts[0].num_classes,
            torch.cat([part.class_id for part in parts]),
            torch.cat([part.prob for part in parts]),
            torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            torch.cat([part.tail for part in parts]),
            concat_labels([part.label for part in parts]),
            torch.cat([part.label_prob for part in parts]),
        )

    def rows(self) -> Int64[Tensor, " n"]:
        """Return the row of each kept entry."""
        numbers = torch.arange(len(self), device=self.offset.device)
        return numbers.repeat_interleave(self.offset.diff(), output_size=len(self.class_id))

    @in_python_words()
    def log_probs(self, *, num_classes: int | None = None, temperature: float = 1.0) -> Float[Tensor, "b c"]:
        """Return the log-probabilities of kept classes and exceptions, and the tail in equal parts over all others.

        None is below log(TINY). Raises UsageError at another temperature than 1: the order within the tail, which a
        temperature would lift, is not stored.
        """
        check_classes(self.num_classes, num_classes)
        check_temperature(temperature)
        if temperature != 1.0:
            raise UsageError(
                f"Top-k targets cannot give probabilities at temperature {temperature:g}: the classes in the tail "
                "are not stored. Use temperature 1, or dump full targets (--targets full)."
            )
        label = require_labels(self.label)
        absent = self.label_prob.isnan()
        others = self.num_classes - 2 - self.offset.diff() + absent.sum(1)
        share = (self.tail / others.clamp(min=1)).clamp(min=TINY).log()
        out = share[:, None].repeat(1, self.num_classes)
        out[self.rows(), self.class_id.long()] = self.prob.clamp(min=TINY).log()
        log_prob = self.label_prob.clamp(min=TINY).log()
        columns = (values.split(1, dim=1) for values in (label.clamp(min=0), absent, log_prob))
        # One column after the other: both may point at one class, where the second changes nothing.
        for target, is_absent, prob in zip(*columns, strict=True):
            out.scatter_(1, target, torch.where(is_absent, out.gather(1, target), prob))
        return out

    def label_log_prob(self) -> Float[Tensor, "b 2"]:
        """Return log-probabilities of a row's own label and of its partner's; NaN where there is no such label."""
        label, rows = require_labels(self.label), self.rows()
        found = self.label_prob.clone()
        for column in (0, 1):
            hit = self.class_id == label[rows, column]
            # Every row is written at most once: its kept classes differ.
            found[rows[hit], column] = self.prob[hit]
        repeat = (label[:, 0] == label[:, 1]) & (label[:, 0] >= 0)
        found[:, 1] = torch.where(repeat, found[:, 0], found[:, 1])
        return found.clamp(min=TINY).log()


def keep_top(log_probs: Float[Tensor, "b c"], labels: Int64[Tensor, "b 2"], k: int, min_prob: float) -> TopKTargets:
    """Keep of every row the most probable class and those with p > `min_prob`, at most `k` in all and of equal ones
    the lower, the tail, and the labels.

    Runs on the device of `log_probs`, and the result lies there. Probabilities too small for float32 are not
    kept.
    """
    prob = log_probs.to(torch.float32).exp()
    kept = prob > max(min_prob, 0.0)
    kept.scatter_(1, prob.argmax(1, keepdim=True), True)
    crowded = kept.sum(1) > k
    if bool(crowded.any()):
        kept[crowded] &= _largest(prob[crowded], k)
    exception = _exceptions(kept, labels)
    label_prob = torch.where(exception, prob.gather(1, labels.clamp(min=0)), torch.nan)
    rest = prob.masked_fill(kept, 0)
    for column in (0, 1):
        taken = torch.where(exception[:, column], labels[:, column], 0)[:, None]
        value = torch.where(exception[:, column : column + 1], 0, rest.gather(1, taken))
        rest.scatter_(1, taken, value)
    counts = kept.sum(1)
    return TopKTargets(
        log_probs.shape[1],
        kept.nonzero()[:, 1].int(),
        prob[kept],
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        rest.sum(1),
        labels,
        label_prob,
    )


def _largest(prob: Float[Tensor, "b c"], k: int) -> Bool[Tensor, "b c"]:
    """Return where the k largest of each row are; `topk` would choose among equal ones as it likes."""
    ranked = prob.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(prob, dtype=torch.bool).scatter_(1, ranked, True)


def _exceptions(kept: Bool[Tensor, "b c"], labels: Int64[Tensor, "b 2"]) -> Bool[Tensor, "b 2"]:
    """Return which labels are there, are not kept, and are not named a second time."""
    exception = (labels >= 0) & ~kept.gather(1, labels.clamp(min=0))
    exception[:, 1] &= labels[:, 1] != labels[:, 0]
    return exception
