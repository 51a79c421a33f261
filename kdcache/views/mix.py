"""Mixing neighbours: batched torch, the same on every device.

Each step is one elementwise operation with one IEEE rounding, never a fused multiply-add, so that a row's values do
not depend on the batch it lies in.
"""

import torch
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from kdcache.views.scale import rescale


def mix(
    pixels: UInt8[Tensor, "b c s s"] | Float32[Tensor, "b c s s"],
    weight: Float32[Tensor, "pairs"],
    cut: Int32[Tensor, "pairs 4"],
    reference_size: int,
) -> Float32[Tensor, "b c s s"]:
    """Mix rows 2j and 2j+1 with each other as the plan says; values stay in 0..255.

    timm's `pair` mode: a' = w a + (1 - w) b and b' = w b + (1 - w) a (mixup, Zhang et al. 2018), or one box swapped
    (cutmix, Yun et al. 2019). A last row without a partner passes as it is.

    Args:
        pixels: as rendered, or as float32 where a plan erased; left as they are.
        weight, cut: of `Plan`; on the device of `pixels`.
        reference_size: what the coordinates of `cut` refer to; they are scaled to the rendered size and rounded.
    """
    out = pixels.to(torch.float32, copy=True)
    pairs = len(weight)
    size = pixels.shape[-1]
    first, second = out[0 : 2 * pairs : 2], out[1 : 2 * pairs : 2]
    cuts = cut[:, 2] > cut[:, 0]

    blend = torch.nonzero(~cuts & (weight < 1)).flatten()
    if len(blend):
        share = weight[blend].view(-1, 1, 1, 1)
        rest = 1 - share
        a, b = first[blend], second[blend]
        first[blend] = a * share + b * rest
        second[blend] = b * share + a * rest

    swap = torch.nonzero(cuts).flatten()
    if len(swap):
        box = rescale(cut[swap], size, reference_size)
        line = torch.arange(size, device=pixels.device)
        rows = (box[:, 0:1] <= line) & (line < box[:, 2:3])
        columns = (box[:, 1:2] <= line) & (line < box[:, 3:4])
        inside = (rows[:, :, None] & columns[:, None, :])[:, None]
        a, b = first[swap], second[swap]
        first[swap] = torch.where(inside, b, a)
        second[swap] = torch.where(inside, a, b)
    return out
