"""Operations that smooth: Pillow's Gaussian blur (its BoxBlur.c), and the 3 x 3 filter of its sharpness, batched."""

import numpy as np
import torch
from jaxtyping import Float32, Int32, UInt8
from timm.data import auto_augment as timm_operations
from torch import Tensor

from kdcache.runtime.transfer import array_to_device
from kdcache.views.pixels.kernels.binding import Kernels, WholeImages
from kdcache.views.pixels.kernels.tables import blend

#: Box blurs along each axis.
_PASSES = 3
#: 1 as a weight of Pillow's box blur.
_ONE = 1 << 24


def gaussian_blur(pixels: UInt8[Tensor, "n 3 s s"], radius: Float32[np.ndarray, "n"]) -> UInt8[Tensor, "n 3 s s"]:
    """Apply Pillow's ImageFilter.GaussianBlur: three box blurs along each axis, rounded to 8 bits after each.

    P. Gwosdek et al., "Theoretical Foundations of Gaussian Convolution by Extended Box Filtering", SSVM 2011.

    Args:
        pixels: images.
        radius: standard deviation of each image's Gaussian, in pixels.
    """
    weights = _weights(radius)
    on_device = array_to_device(weights, pixels.device)
    for axis in (3, 2):
        for _ in range(_PASSES):
            pixels = _box_blur(pixels, on_device, axis)
    return pixels


def smooth(pixels: UInt8[Tensor, "n 3 s s"]) -> UInt8[Tensor, "n 3 s s"]:
    """Apply Pillow's ImageFilter.SMOOTH: the mean of nine with the centre counted five times; border pixels stay."""
    wide = pixels.to(torch.int32)
    size = pixels.shape[-1]
    out = pixels.clone()
    if size < 3:
        return out
    lines = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    nine = lines[..., :-2, :] + lines[..., 1:-1, :] + lines[..., 2:, :]
    total = nine + 4 * wide[..., 1:-1, 1:-1]
    # A thirteenth, rounded: no sum lies half-way, so single precision, which Pillow takes, rounds the same.
    out[..., 1:-1, 1:-1] = ((2 * total + 13) // 26).to(torch.uint8)
    return out


def _weights(radius: Float32[np.ndarray, "n"]) -> Int32[np.ndarray, "n taps"]:
    """Return the weights of the neighbours at distance 0, 1, ... in each image's box, in 1/2**24.

    The box has a fractional length: full weight inside, less at both ends. Types are those of the C code, where
    `float` rounds.
    """
    variance = radius * radius / np.float32(_PASSES)
    length = np.sqrt(12.0 * variance.astype(np.float64) + 1.0).astype(np.float32)
    whole = np.floor((length.astype(np.float64) - 1.0) / 2.0).astype(np.float32)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part = part / (6 * (variance - (whole + 1) * (whole + 1)))
    box = whole + part
    inside = box.astype(np.int64)
    inner = (np.float32(_ONE) / (box * 2 + 1)).astype(np.int64)
    outer = (_ONE - (inside * 2 + 1) * inner) // 2
    distance = np.arange(inside.max(initial=0) + 2)
    ends = np.where(distance == inside[:, None] + 1, outer[:, None], 0)
    return np.where(distance <= inside[:, None], inner[:, None], ends).astype(np.int32)


def _box_blur(
    pixels: UInt8[Tensor, "n 3 s s"], weights: Int32[Tensor, "n taps"], axis: int
) -> UInt8[Tensor, "n 3 s s"]:
    """Blur along one axis once; a pixel past an edge is the pixel at the edge."""
    size = pixels.shape[axis]
    # Values are taken from the middle of their range: so the sum stays within 32 bits with a sign.
    centred = pixels.to(torch.int32) - 128
    place = torch.arange(size, device=pixels.device)
    share = weights[:, :, None, None, None].unbind(1)
    total = centred * share[0]
    for distance in range(1, len(share)):
        before = centred.index_select(axis, (place - distance).clamp_(min=0))
        after = centred.index_select(axis, (place + distance).clamp_(max=size - 1))
        total += (before + after) * share[distance]
    # Weights may sum to one unit less than 2**24.
    missing = _ONE - (2 * weights.sum(1) - weights[:, 0])
    rounding = (1 << 23) - 128 * missing
    return (((total + rounding[:, None, None, None]) >> 24) + 128).to(torch.uint8)


def _sharpness(pixels: UInt8[Tensor, "n 3 s s"], factor: Float32[np.ndarray, "n"]) -> UInt8[Tensor, "n 3 s s"]:
    by_image = array_to_device(factor, pixels.device)[:, None, None, None]
    return blend(smooth(pixels).to(torch.float32), pixels.to(torch.float32), by_image)


#: Kernels by the name of their operation.
KERNELS = {
    "SHARPNESS": Kernels(pillow=timm_operations.sharpness, batched=WholeImages(_sharpness)),
    "GAUSSIAN_BLUR": Kernels(pillow=timm_operations.gaussian_blur, batched=WholeImages(gaussian_blur)),
}
