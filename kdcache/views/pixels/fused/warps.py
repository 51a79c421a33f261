"""Operations that move pixels: affine warps that read bytes, compute in registers and write bytes.

The arithmetic is that of `kdcache.views.pixels.kernels.warp` and `nearest`, which is Pillow's: double precision, with
one rounding after each operation, and 16.16 fixed point where the nearest pixel is taken.
"""

import numpy as np
import triton
import triton.language as tl
from jaxtyping import Float64, Int32, UInt8
from torch import Tensor

from kdcache.runtime.transfer import array_to_device
from kdcache.views.operations import Colour
from kdcache.views.pixels.fused.launch import launch
from kdcache.views.pixels.kernels.nearest import steps_of_nearest

#: Pixels of an image that one program computes, in all three channels. Fewer than elsewhere: a bicubic warp holds much
#: in registers.
_BLOCK = 256


def warp_images(
    source: UInt8[Tensor, "_sources 3 s s"],
    target: UInt8[Tensor, "_targets 3 s s"],
    rows: Int32[np.ndarray, "n 3"],
    matrices: Float64[np.ndarray, "n 6"],
    fill: Colour,
) -> None:
    """Move the pixels of each image by its own matrix, and interpolate bilinearly or bicubically, in one launch.

    Args:
        source: images.
        target: images that are written; no row of it is a row that is read.
        rows: row of the source, row of the target, and 1 for a bicubic filter of each image.
        matrices: a..f of each image, as `AffineWarp` defines them.
        fill: colour of what is uncovered.
    """
    size = source.shape[-1]
    items, sent = array_to_device(rows, source.device), array_to_device(matrices, source.device)
    grid = (len(rows), triton.cdiv(size * size, _BLOCK))
    launch(warp_kernel, grid, source, target, items, sent, _packed(fill), size, block=_BLOCK)


def warp_images_nearest(
    source: UInt8[Tensor, "_sources 3 s s"],
    target: UInt8[Tensor, "_targets 3 s s"],
    rows: Int32[np.ndarray, "n 2"],
    matrices: Float64[np.ndarray, "n 6"],
    fill: Colour,
) -> None:
    """Move the pixels of each image by its own matrix, each from the nearest one, in one launch.

    Args:
        source: images.
        target: images that are written; no row of it is a row that is read.
        rows: row of the source and row of the target of each image.
        matrices: a..f of each image, as `AffineWarp` defines them.
        fill: colour of what is uncovered.
    """
    size = source.shape[-1]
    steps = steps_of_nearest(matrices, size)
    items = np.concatenate([rows, steps.straight[:, None].astype(np.int32)], axis=1)
    lines = np.clip(np.stack([steps.columns, steps.rows], axis=1), -1, size).astype(np.int32)
    sent = [array_to_device(each, source.device) for each in (items, steps.fixed, lines)]
    grid = (len(rows), triton.cdiv(size * size, _BLOCK))
    launch(nearest_kernel, grid, source, target, *sent, _packed(fill), size, block=_BLOCK)


def _packed(fill: Colour) -> int:
    red, green, blue = fill
    return red | green << 8 | blue << 16


@triton.jit
def _clamped(place, size):
    """Return coordinates, those past an edge as that edge."""
    return tl.minimum(tl.maximum(place, 0), size - 1)


@triton.jit
def _take(line, column, valid):
    return tl.load(line + column, mask=valid, other=0).to(tl.float64)


@triton.jit
def _between(low, high, share):
    return low + (high - low) * share


@triton.jit
def _between_four(v1, v2, v3, v4, share):
    """Between the second and the third of four values, with Pillow's cubic."""
    slope = v3 - v1
    bend = 2.0 * (v1 - v2) + v3 - v4
    twist = v2 - v1 - v3 + v4
    return v2 + share * (slope + share * (bend + share * twist))


@triton.jit
def _linear_line(line, c1, c2, dx, valid):
    return _between(_take(line, c1, valid), _take(line, c2, valid), dx)


@triton.jit
def _cubic_line(line, c0, c1, c2, c3, dx, valid):
    left, right = _take(line, c1, valid), _take(line, c2, valid)
    return _between_four(_take(line, c0, valid), left, right, _take(line, c3, valid), dx)


@triton.jit
def warp_kernel(source, target, items, matrices, fill, size, block: tl.constexpr):
    item = tl.program_id(0)
    area = size * size
    here = source + tl.load(items + 3 * item).to(tl.int64) * 3 * area
    there = target + tl.load(items + 3 * item + 1).to(tl.int64) * 3 * area
    is_cubic = tl.load(items + 3 * item + 2)
    matrix = matrices + 6 * item
    place = tl.program_id(1) * block + tl.arange(0, block)
    valid = place < area
    across = (place % size).to(tl.float64) + 0.5
    down = (place // size).to(tl.float64) + 0.5
    x = tl.load(matrix) * across + tl.load(matrix + 1) * down + tl.load(matrix + 2)
    y = tl.load(matrix + 3) * across + tl.load(matrix + 4) * down + tl.load(matrix + 5)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    # What lies far outside is not shown, and its coordinates would not fit into 32 bits.
    x = tl.where(inside, x, 0.0) - 0.5
    y = tl.where(inside, y, 0.0) - 0.5
    left = tl.floor(x)
    top = tl.floor(y)
    dx = x - left
    dy = y - top
    column = left.to(tl.int32)
    row = top.to(tl.int32)
    c0, c1 = _clamped(column - 1, size), _clamped(column, size)
    c2, c3 = _clamped(column + 1, size), _clamped(column + 2, size)
    r0, r1 = _clamped(row - 1, size) * size, _clamped(row, size) * size
    r2, r3 = _clamped(row + 1, size) * size, _clamped(row + 2, size) * size
    shown_here = valid & inside
    for channel in tl.static_range(3):
        plane = here + channel * area
        if is_cubic != 0:
            v0 = _cubic_line(plane + r0, c0, c1, c2, c3, dx, shown_here)
            v1 = _cubic_line(plane + r1, c0, c1, c2, c3, dx, shown_here)
            v2 = _cubic_line(plane + r2, c0, c1, c2, c3, dx, shown_here)
            v3 = _cubic_line(plane + r3, c0, c1, c2, c3, dx, shown_here)
            value = tl.minimum(tl.maximum(_between_four(v0, v1, v2, v3, dy), 0.0), 255.0).to(tl.int32)
        else:
            upper = _linear_line(plane + r1, c1, c2, dx, shown_here)
            lower = _linear_line(plane + r2, c1, c2, dx, shown_here)
            value = _between(upper, lower, dy).to(tl.int32)
        shown = tl.where(inside, value, (fill >> (8 * channel)) & 255)
        tl.store(there + channel * area + place, shown.to(tl.uint8), mask=valid)


@triton.jit
def nearest_kernel(source, target, items, steps, lines, fill, size, block: tl.constexpr):
    item = tl.program_id(0)
    area = size * size
    here = source + tl.load(items + 3 * item).to(tl.int64) * 3 * area
    there = target + tl.load(items + 3 * item + 1).to(tl.int64) * 3 * area
    is_straight = tl.load(items + 3 * item + 2) != 0
    step = steps + 6 * item
    line = lines + 2 * item * size
    place = tl.program_id(1) * block + tl.arange(0, block)
    valid = place < area
    across = place % size
    down = place // size
    x = (tl.load(step + 2) + across.to(tl.int64) * tl.load(step) + down.to(tl.int64) * tl.load(step + 1)) >> 16
    y = (tl.load(step + 5) + across.to(tl.int64) * tl.load(step + 3) + down.to(tl.int64) * tl.load(step + 4)) >> 16
    x = tl.where(is_straight, tl.load(line + across, mask=valid, other=0).to(tl.int64), x)
    y = tl.where(is_straight, tl.load(line + size + down, mask=valid, other=0).to(tl.int64), y)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    for channel in tl.static_range(3):
        value = tl.load(here + channel * area + y * size + x, mask=valid & inside, other=0).to(tl.int32)
        shown = tl.where(inside, value, (fill >> (8 * channel)) & 255)
        tl.store(there + channel * area + place, shown.to(tl.uint8), mask=valid)
