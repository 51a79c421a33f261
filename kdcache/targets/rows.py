"""Rows of large tensors on the host, picked and joined: by NumPy, whose large arrays lie in huge pages on Linux.

torch's do not, so that it spends four fifths of the time of a join on page faults.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


def rows_of(values: Shaped[Tensor, "n *shape"], rows: slice | Int64[Tensor, "m"]) -> Shaped[Tensor, "_ *shape"]:
    """The rows of a slice, without a copy, or those at these positions."""
    if isinstance(rows, slice) or values.device.type != "cpu":
        return values[rows]
    return torch.from_numpy(np.take(values.numpy(), rows.numpy(), axis=0))


def joined(parts: Sequence[Shaped[Tensor, "_ *shape"]]) -> Shaped[Tensor, "n *shape"]:
    """All rows of some tensors (at least one) of a type and on a device, one after the other."""
    if parts[0].device.type != "cpu":
        return torch.cat(list(parts))
    return torch.from_numpy(np.concatenate([part.numpy() for part in parts]))
