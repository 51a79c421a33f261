"""Rows that do not vary, which have no place in a comparison that forgets scale."""

import torch
from jaxtyping import Float
from torch import Tensor


def constant_where_flat(values: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Return the same values; rows that vary by no more than rounding are constants, and have no gradient.

    Divided by its own spread such a row has a gradient without bound in no direction that means anything; a new head
    that gives zeros would begin with it.
    """
    spread = values.amax(dim=1) - values.amin(dim=1)
    rounding = 8 * torch.finfo(values.dtype).eps * values.abs().amax(dim=1)
    return torch.where((spread <= rounding)[:, None], values.detach(), values)
