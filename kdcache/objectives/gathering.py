"""Rows of all ranks, with gradients: a relation between samples is one of the whole batch, not of a rank's share."""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed


def gather_rows(rows: Shaped[Tensor, "b *shape"]) -> Shaped[Tensor, "all *shape"]:
    """Return the rows of all ranks in the order of ranks, so that rank r's are the r-th of equal shares;
    alone, the rows themselves.

    Backward, each rank is given the sum of all ranks' gradients of its own rows. A loss L that every rank computes
    from the gathered rows thereby reaches the parameters `world` times, and the mean over ranks that DDP takes makes
    it once: the gradient of L as one process would have it with the whole batch.

    Every rank has to call it, with as many rows of one shape and type; backward too.
    """
    if not _together():
        return rows
    return _GatherRows.apply(rows)


def mean_of_ranks(value: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Return the mean over ranks, without a gradient; alone, the tensor itself. Every rank has to call it."""
    value = value.detach()
    if not _together():
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def place_among_ranks() -> tuple[int, int]:
    """Return this process's rank and the number of ranks; 0 and 1 alone."""
    return (distributed.get_rank(), distributed.get_world_size()) if _together() else (0, 1)


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        everybody = [
            torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(distributed.get_world_size())
        ]
        distributed.all_gather(everybody, rows.contiguous())
        return torch.cat(everybody)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.rows
        return total[first : first + ctx.rows]
