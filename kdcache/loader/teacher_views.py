"""A teacher's answers to the rows of a view, in the one batching that both `dump-logits` and a live teacher use.

A teacher's answer can depend, in its last bits, on the batch it is computed in. So the batches are a function of the
view set alone: each block is cut into batches of one fixed size, and the last one of a block is padded.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from kdcache.models.teachers import Teacher
from kdcache.targets.base import TargetCodec, Targets
from kdcache.targets.error import coded, divergence
from kdcache.views.stream import Views
from kdcache.views.viewset import RowRange

DEFAULT_BATCH = 128
"""Rows of a teacher's batch, unless a block has fewer."""


def block_count(samples: int, block_rows: int) -> int:
    """Blocks of a view; the last one may hold fewer rows."""
    return -(-samples // block_rows)


def block_batches(view: int, block: int, *, samples: int, block_rows: int, batch_size: int) -> list[RowRange]:
    """The batches of one block, in row order; none crosses the block's end."""
    first = block * block_rows
    last = min(first + block_rows, samples)
    return [RowRange(view, start, min(start + batch_size, last)) for start in range(first, last, batch_size)]


def batches_covering(span: RowRange, *, samples: int, block_rows: int, batch_size: int) -> Iterator[RowRange]:
    """The batches, in row order, that hold the rows of `span`."""
    for block in range(span.start // block_rows, block_count(span.stop, block_rows)):
        for batch in block_batches(span.view, block, samples=samples, block_rows=block_rows, batch_size=batch_size):
            if batch.stop > span.start and batch.start < span.stop:
                yield batch


class Answered(NamedTuple):
    """What is kept of the answers to some rows, and the likeliest class of each.

    loss: of a codec, the mean KL divergence in nats of what comes back from it from what was said; where asked for.
    """

    targets: Targets
    first: Int64[Tensor, "b"]
    loss: Callable[[TargetCodec], float] | None = None


def answer(teacher: Teacher, codec: TargetCodec, views: Views, label_space: str, *, measure: bool = False) -> Answered:
    """The teacher's answers to one batch of views, as the cache keeps them.

    Args:
        label_space: "teacher" where labels are the teacher's classes, "none" where they are others.
        measure: whether to be able to tell later what a codec loses, for which the whole answers are held.
    """
    said = teacher.answer(views.pixels, features=codec.needs_features)
    labels = teacher_labels(views, label_space)

    def loss(codec: TargetCodec) -> float:
        rebuilt = coded(codec, said.log_probs, labels, said.features)
        return float(divergence(said.log_probs.cpu(), rebuilt).mean())

    kept = codec.select(said.log_probs, labels, said.features)
    return Answered(kept, said.log_probs.argmax(dim=1).cpu(), loss if measure else None)


def teacher_labels(views: Views, label_space: str) -> Int64[Tensor, "b 2"]:
    """Labels as a teacher's answers are stored with them: -1 throughout where they are other classes than its own."""
    labels = torch.from_numpy(views.rows.labels)
    return torch.full_like(labels, -1) if label_space == "none" else labels
