"""Operations that move pixels: one affine warp with Pillow's arithmetic (its Geometry.c), batched.

Everything is double precision and every step rounds once, as there, so that cutting off the fraction in the end
finds the same whole number.
"""

import math

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from kdcache.views.operations import Colour, Operation
from kdcache.views.pixels.transfer import to_device

WARPS = (
    Operation.ROTATE,
    Operation.SHEAR_X,
    Operation.SHEAR_Y,
    Operation.TRANSLATE_X,
    Operation.TRANSLATE_Y,
)


def warp(
    pixels: UInt8[Tensor, "n 3 s s"],
    op: UInt8[np.ndarray, "n"],
    magnitude: Float32[np.ndarray, "n"],
    cubic: bool,
    fill: Colour,
) -> UInt8[Tensor, "n 3 s s"]:
    """Each image after its own operation, one of `WARPS`; all interpolate alike.

    Args:
        cubic: bicubic (a = -1, not the -0.5 of Pillow's resize), else bilinear.
        fill: what is uncovered, red, green and blue in 0..255.
    """
    size = pixels.shape[-1]
    x, y = _sources(to_device(matrices(op, magnitude, size), pixels.device), size)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    out = (_cubic if cubic else _linear)(pixels, x - 0.5, y - 0.5)
    for channel, shade in enumerate(fill):
        out[:, channel].masked_fill_(~inside, shade)
    return out


def matrices(op: UInt8[np.ndarray, "n"], magnitude: Float32[np.ndarray, "n"], size: int) -> Float64[np.ndarray, "n 6"]:
    """a..f of each operation: the pixel at (x, y) shows what was at (a x + b y + c, d x + e y + f)."""
    amount = magnitude.astype(np.float64)
    out = np.tile(np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), (len(op), 1))
    for code, place, unit in (
        (Operation.SHEAR_X, 1, 1.0),
        (Operation.SHEAR_Y, 3, 1.0),
        (Operation.TRANSLATE_X, 2, float(size)),
        (Operation.TRANSLATE_Y, 5, float(size)),
    ):
        out[op == code, place] = amount[op == code] * unit
    for row in np.flatnonzero(op == Operation.ROTATE):
        out[row] = _rotation(float(amount[row]), size / 2.0)
    return out


def _rotation(degrees: float, centre: float) -> list[float]:
    """Pillow's Image.rotate, step by step: its angle, its 15 decimals, its order of additions."""
    # A number at a time, with the C library: NumPy's cosine and rounding differ in the last bit for one angle in ten.
    angle = -math.radians(degrees % 360.0)
    cos, sin, minus_sin = (round(part, 15) for part in (math.cos(angle), math.sin(angle), -math.sin(angle)))
    shift_x = cos * -centre + sin * -centre + 0.0 + centre
    shift_y = minus_sin * -centre + cos * -centre + 0.0 + centre
    return [cos, sin, shift_x, minus_sin, cos, shift_y]


def _sources(matrix: Float64[Tensor, "n 6"], size: int) -> tuple[Float64[Tensor, "n s s"], Float64[Tensor, "n s s"]]:
    """Where each pixel's centre comes from, x and y."""
    centres = torch.arange(size, device=matrix.device, dtype=torch.float64) + 0.5
    a, b, c, d, e, f = matrix[:, :, None, None].unbind(1)
    across, down = centres, centres[:, None]
    return a * across + b * down + c, d * across + e * down + f


def _linear(
    pixels: UInt8[Tensor, "n 3 s s"], x: Float64[Tensor, "n s s"], y: Float64[Tensor, "n s s"]
) -> UInt8[Tensor, "n 3 s s"]:
    left, top = x.floor(), y.floor()
    dx, dy = (x - left)[:, None], (y - top)[:, None]
    columns = _neighbours(left, 0, 2, pixels.shape[-1])

    def between(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
        return a + (b - a) * share

    upper, lower = (
        between(_take(pixels, row, columns[0]), _take(pixels, row, columns[1]), dx)
        for row in _neighbours(top, 0, 2, pixels.shape[-1])
    )
    return between(upper, lower, dy).to(torch.uint8)


def _cubic(
    pixels: UInt8[Tensor, "n 3 s s"], x: Float64[Tensor, "n s s"], y: Float64[Tensor, "n s s"]
) -> UInt8[Tensor, "n 3 s s"]:
    left, top = x.floor(), y.floor()
    dx, dy = (x - left)[:, None], (y - top)[:, None]
    columns = _neighbours(left, -1, 4, pixels.shape[-1])
    lines = [
        _through([_take(pixels, row, column) for column in columns], dx)
        for row in _neighbours(top, -1, 4, pixels.shape[-1])
    ]
    return _through(lines, dy).clamp_(0, 255).to(torch.uint8)


def _through(values: list[Tensor], share: Tensor) -> Tensor:
    """The cubic between the second and the third of four values."""
    v1, v2, v3, v4 = values
    slope = v3 - v1
    bend = 2 * (v1 - v2) + v3 - v4
    twist = v2 - v1 - v3 + v4
    return v2 + share * (slope + share * (bend + share * twist))


def _neighbours(first: Float64[Tensor, "n s s"], start: int, count: int, size: int) -> list[Int64[Tensor, "n s s"]]:
    """Whole coordinates from `first + start` on; past an edge, the edge."""
    whole = first.to(torch.int64)
    return [(whole + offset).clamp_(0, size - 1) for offset in range(start, start + count)]


def _take(
    pixels: UInt8[Tensor, "n 3 s s"], row: Int64[Tensor, "n s s"], column: Int64[Tensor, "n s s"]
) -> Float64[Tensor, "n 3 s s"]:
    size = pixels.shape[-1]
    places = (row * size + column).flatten(1)[:, None].expand(-1, 3, -1)
    return pixels.flatten(2).gather(2, places).view_as(pixels).to(torch.float64)
