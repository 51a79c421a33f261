"""Mixing of the rows of a pair, and normalisation for a model, in one launch: each pixel is read and written once.

Each step is one operation with one IEEE rounding, as in `kdcache.views.pixels.mix` and in `Normaliser`.
"""

from enum import IntEnum

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from torch import Tensor

from kdcache.runtime.transfer import array_to_device
from kdcache.views.pixels.fused.launch import launch
from kdcache.views.pixels.normalisation import Normalisation

#: Pixels of both images of a pair that one program computes, in all channels.
_BLOCK = 1024


class Kind(IntEnum):
    """What happens to a pair."""

    KEEP = 0
    BLEND = 1
    CUT = 2


_BLEND = tl.constexpr(int(Kind.BLEND))
_CUT = tl.constexpr(int(Kind.CUT))


def mix_images(
    pixels: UInt8[Tensor, "b c s s"] | Float32[Tensor, "b c s s"],
    weight: Float32[np.ndarray, "pairs"],
    cuts: Bool[np.ndarray, "pairs"],
    box: Int32[np.ndarray, "pairs 4"],
    normalisation: Normalisation | None = None,
) -> Float[Tensor, "b c s s"]:
    """Mix rows 2j and 2j+1 with each other, and normalise the result if that is asked for.

    Args:
        pixels: images, which are not changed.
        weight: share of itself that each row of a pair keeps.
        cuts: whether a pair swaps its box; otherwise it is blended where its weight is below 1.
        box: top, left, bottom, right of the boxes, in pixels of the images.
        normalisation: what a model takes; None for float32 in 0..255, each channel a plane.
    """
    rows, channels, size = pixels.shape[0], pixels.shape[1], pixels.shape[-1]
    device = pixels.device
    kind = np.where(cuts, Kind.CUT, np.where(weight < 1, Kind.BLEND, Kind.KEEP)).astype(np.int32)
    items = np.concatenate([kind[:, None], box.astype(np.int32), weight[:, None].view(np.int32)], axis=1)
    items = np.pad(items, ((0, -(-rows // 2) - len(items)), (0, 0)))  # a last row without a partner is kept
    sent = array_to_device(np.ascontiguousarray(items), device)
    if normalisation is None:
        out = torch.empty_like(pixels, dtype=torch.float32, memory_format=torch.contiguous_format)
        scale, interleaved = torch.empty(0, device=device), False
    else:
        out = torch.empty_like(pixels, dtype=normalisation.dtype, memory_format=normalisation.memory_format)
        scale, interleaved = normalisation.on(device), normalisation.memory_format == torch.channels_last
    grid = (len(items), triton.cdiv(size * size, _BLOCK))
    launch(
        mix_kernel,
        grid,
        pixels.contiguous(),
        out,
        sent,
        scale,
        rows,
        size,
        channels=channels,
        normalised=normalisation is not None,
        interleaved=interleaved,
        block=_BLOCK,
    )
    return out


@triton.jit
def mix_kernel(
    source,
    target,
    items,
    scale,
    rows,
    size,
    channels: tl.constexpr,
    normalised: tl.constexpr,
    interleaved: tl.constexpr,
    block: tl.constexpr,
):
    pair = tl.program_id(0)
    area = size * size
    item = items + 6 * pair
    kind = tl.load(item)
    share = tl.load(item + 5).to(tl.float32, bitcast=True)
    rest = 1.0 - share
    place = tl.program_id(1) * block + tl.arange(0, block)
    row = place // size
    column = place % size
    inside = (row >= tl.load(item + 1)) & (column >= tl.load(item + 2))
    inside = inside & (row < tl.load(item + 3)) & (column < tl.load(item + 4)) & (kind == _CUT)
    valid = place < area
    both = valid & (2 * pair + 1 < rows)
    start = pair.to(tl.int64) * 2 * channels * area
    for channel in tl.static_range(channels):
        here = source + start + channel * area + place
        a = tl.load(here, mask=valid, other=0).to(tl.float32)
        b = tl.load(here + channels * area, mask=both, other=0).to(tl.float32)
        first = tl.where(kind == _BLEND, a * share + b * rest, tl.where(inside, b, a))
        second = tl.where(kind == _BLEND, b * share + a * rest, tl.where(inside, a, b))
        if normalised:
            mean = tl.load(scale + channel)
            deviation = tl.load(scale + channels + channel)
            first = tl.div_rn(first - mean, tl.zeros_like(first) + deviation)
            second = tl.div_rn(second - mean, tl.zeros_like(second) + deviation)
        there = target + start + (place * channels + channel if interleaved else channel * area + place)
        tl.store(there, first.to(target.dtype.element_ty), mask=valid)
        tl.store(there + channels * area, second.to(target.dtype.element_ty), mask=both)
