"""The affine warp that takes the nearest pixel: Pillow's arithmetic for it, which differs from that of its filters.

Shears and rotations step through the source in 16.16 fixed point, translations in double precision: the results are
whole source coordinates, found on the host in a few numbers an image and copied from on the device.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from kdcache.runtime.transfer import array_to_device
from kdcache.views.operations import Colour

#: 1 in 16.16 fixed point.
_ONE = 1 << 16


def warp_nearest(
    pixels: UInt8[Tensor, "n 3 s s"], matrices: Float64[np.ndarray, "n 6"], fill: Colour
) -> UInt8[Tensor, "n 3 s s"]:
    """Move the pixels of each image by its own matrix: every pixel is a source pixel, or `fill` where there is none.

    Args:
        pixels: images.
        matrices: a..f of each image, as `AffineWarp` defines them.
        fill: colour of what is uncovered.
    """
    size = pixels.shape[-1]
    x, y = _sources(matrices, size, pixels.device)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    places = (y * size + x).clamp_(0, size * size - 1).flatten(1)[:, None].expand(-1, 3, -1)
    out = pixels.flatten(2).gather(2, places).view_as(pixels)
    for channel, shade in enumerate(fill):
        out[:, channel].masked_fill_(~inside, shade)
    return out


@dataclass(frozen=True)
class NearestSteps:
    """Where the pixels of n images come from.

    Attributes:
        fixed: a..f of each image in 16.16 fixed point, with c and f for the centre of the first pixel.
        straight: whether an image is neither sheared nor turned, so that `columns` and `rows` are obeyed instead.
        columns: source column of each column; it may lie outside.
        rows: source row of each row.
    """

    fixed: Int64[np.ndarray, "n 6"]
    straight: Bool[np.ndarray, "n"]
    columns: Int64[np.ndarray, "n s"]
    rows: Int64[np.ndarray, "n s"]


def steps_of_nearest(matrix: Float64[np.ndarray, "n 6"], size: int) -> NearestSteps:
    """Compute on the host where the pixels of images of `size` pixels a side come from."""
    a, b, c, d, e, f = matrix.T
    return NearestSteps(
        fixed=_fixed(np.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], axis=1)),
        straight=(b == 0) & (d == 0),
        columns=_accumulate(c + a * 0.5, a, size),
        rows=_accumulate(f + e * 0.5, e, size),
    )


def _sources(
    matrix: Float64[np.ndarray, "n 6"], size: int, device: torch.device
) -> tuple[Int64[Tensor, "n s s"], Int64[Tensor, "n s s"]]:
    """Return the column and the row of each pixel in the source, whole numbers that may lie outside."""
    steps = steps_of_nearest(matrix, size)
    across = torch.arange(size, device=device)
    down = across[:, None]
    a, b, c, d, e, f = array_to_device(steps.fixed, device)[:, :, None, None].unbind(1)
    x, y = (c + across * a + down * b) >> 16, (f + across * d + down * e) >> 16
    straight = array_to_device(steps.straight, device)[:, None, None]
    columns, rows = array_to_device(steps.columns, device), array_to_device(steps.rows, device)
    return torch.where(straight, columns[:, None, :], x), torch.where(straight, rows[:, :, None], y)


def _fixed(values: Float64[np.ndarray, "n 6"]) -> Int64[np.ndarray, "n 6"]:
    return np.floor(values * _ONE + 0.5).astype(np.int64)


def _accumulate(start: Float64[np.ndarray, "n"], step: Float64[np.ndarray, "n"], size: int) -> Int64[np.ndarray, "n s"]:
    """Whole coordinates from `start` on in steps of `step`, by repeated addition as in C; -1 for what lies below 0."""
    steps = np.repeat(step[:, None], size, axis=1)
    steps[:, 0] = start
    sums = np.add.accumulate(steps, axis=1)
    return np.where(sums < 0, -1, np.trunc(sums)).astype(np.int64)
