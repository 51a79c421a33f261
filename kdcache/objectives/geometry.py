"""Directions and distances whose gradients stay finite where vectors vanish or coincide."""

import torch
from jaxtyping import Float
from torch import Tensor

_NO_LENGTH = 1e-12


def unit(vectors: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*shape"]:
    """Scale vectors along a dimension to length 1; one no longer than 1e-12 becomes 0, and no gradient flows to it.

    `torch.nn.functional.normalize` gives such vectors gradients of up to 1e12.
    """
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    there = length > _NO_LENGTH
    return torch.where(there, vectors / torch.where(there, length, 1.0), 0.0)


def distances(rows: Float[Tensor, "b d"]) -> Float[Tensor, "b b"]:
    """Return Euclidean distances between rows, 0 on the diagonal and at least 1e-6 elsewhere.

    From products of the centred rows: memory for b * b numbers, and no digits lost to a mean far from 0. No gradient
    flows to rows that coincide.
    """
    rows = rows - rows.mean(dim=0)
    squares = rows.square().sum(dim=1)
    apart = (squares[:, None] + squares[None, :] - 2.0 * rows @ rows.T).clamp_min(1e-12).sqrt()
    return apart * (1.0 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
