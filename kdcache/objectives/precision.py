"""The precision that losses are computed in."""

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return half-precision values as float32, others as they are: sums of exponentials overflow in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def without_autocast(values: Float[Tensor, "*shape"]) -> torch.autocast:
    """Return a context in which products of matrices keep the precision of their factors, autocast or not.

    Autocast would round them to half precision, and differences of products would be little but rounding.
    """
    return torch.autocast(values.device.type, enabled=False)
