"""The precision that losses are computed in."""

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half-precision values as float32, others as they are: sums of exponentials overflow in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
