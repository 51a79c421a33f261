"""The one batching of a view's rows for a teacher, which both `dump-logits` and a live teacher use.

A teacher's output can depend, in its last bits, on the batch it is computed in. So the batches are a function of the
view set alone: each block is cut into batches of one fixed size, and the last one of a block is padded.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from kdcache.views.stream import Views
from kdcache.views.viewset import RowRange

#: Rows of a teacher's batch, unless a block has fewer.
DEFAULT_BATCH = 128


def block_count(samples: int, block_rows: int) -> int:
    """Return the number of blocks of a view; the last one may hold fewer rows."""
    return -(-samples // block_rows)


def block_batches(view: int, block: int, *, samples: int, block_rows: int, batch_size: int) -> list[RowRange]:
    """Return the batches of one block, in row order; none crosses the block's end."""
    first = block * block_rows
    last = min(first + block_rows, samples)
    return [RowRange(view, start, min(start + batch_size, last)) for start in range(first, last, batch_size)]


def batches_covering(rows: RowRange, *, samples: int, block_rows: int, batch_size: int) -> Iterator[RowRange]:
    """Yield the batches, in row order, that hold one of the rows."""
    for block in range(rows.start // block_rows, block_count(rows.stop, block_rows)):
        for batch in block_batches(rows.view, block, samples=samples, block_rows=block_rows, batch_size=batch_size):
            if batch.stop > rows.start and batch.start < rows.stop:
                yield batch


def teacher_labels(views: Views, label_space: str) -> Int64[Tensor, "b 2"]:
    """Return the labels that targets are stored with: -1 throughout where they are not the teacher's own classes."""
    labels = torch.from_numpy(views.rows.labels)
    return torch.full_like(labels, -1) if label_space == "none" else labels
