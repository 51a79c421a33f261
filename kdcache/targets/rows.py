"""Rows of large tensors on the host, picked and joined into memory of NumPy's, which lies in huge pages on Linux.

torch's own does not, and costs several times the copying itself in page faults. The copying is torch's, during which
other threads go on.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


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
