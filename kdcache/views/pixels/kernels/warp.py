"""Operations that move pixels: one affine warp with Pillow's arithmetic (its Geometry.c), batched.

Everything is double precision and every step rounds once, as there, so that cutting off the fraction in the end
finds the same whole number.
"""

import math

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from timm.data import auto_augment as timm_operations
from torch import Tensor

from kdcache.runtime.transfer import array_to_device
from kdcache.views.operations import Colour
from kdcache.views.pixels.kernels.binding import AffineWarp, Kernels
from kdcache.views.pixels.kernels.slide import along_columns, along_rows, shear, translate


def warp(
    pixels: UInt8[Tensor, "n 3 s s"], matrices: Float64[np.ndarray, "n 6"], cubic: bool, fill: Colour
) -> UInt8[Tensor, "n 3 s s"]:
    """Move the pixels of each image by its own matrix, and interpolate all images alike.

    Args:
        pixels: images.
        matrices: a..f of each image, as `AffineWarp` defines them.
        cubic: whether to interpolate bicubically (with a = -1, not the -0.5 of Pillow's resize), else bilinearly.
        fill: colour of what is uncovered.
    """
    size = pixels.shape[-1]
    x, y = _sources(array_to_device(matrices, pixels.device), size)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    out = (_cubic if cubic else _linear)(pixels, x - 0.5, y - 0.5)
    for channel, shade in enumerate(fill):
        out[:, channel].masked_fill_(~inside, shade)
    return out


def _identity(count: int) -> Float64[np.ndarray, "n 6"]:
    return np.tile(np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), (count, 1))


def _shear_x(share: Float64[np.ndarray, "n"], size: int) -> Float64[np.ndarray, "n 6"]:
    matrices = _identity(len(share))
    matrices[:, 1] = share
    return matrices


def _shear_y(share: Float64[np.ndarray, "n"], size: int) -> Float64[np.ndarray, "n 6"]:
    matrices = _identity(len(share))
    matrices[:, 3] = share
    return matrices


def _translate_x(share: Float64[np.ndarray, "n"], size: int) -> Float64[np.ndarray, "n 6"]:
    matrices = _identity(len(share))
    matrices[:, 2] = share * size
    return matrices


def _translate_y(share: Float64[np.ndarray, "n"], size: int) -> Float64[np.ndarray, "n 6"]:
    matrices = _identity(len(share))
    matrices[:, 5] = share * size
    return matrices


def _rotate(degrees: Float64[np.ndarray, "n"], size: int) -> Float64[np.ndarray, "n 6"]:
    return np.array([_rotation(float(angle), size / 2.0) for angle in degrees])


def _rotation(degrees: float, centre: float) -> list[float]:
    """Return the matrix of Pillow's Image.rotate, step by step: its angle, its 15 decimals, its order of additions."""
    # A number at a time, with the C library: NumPy's cosine and rounding differ in the last bit for one angle in ten.
    angle = -math.radians(degrees % 360.0)
    cos, sin, minus_sin = (round(part, 15) for part in (math.cos(angle), math.sin(angle), -math.sin(angle)))
    shift_x = cos * -centre + sin * -centre + 0.0 + centre
    shift_y = minus_sin * -centre + cos * -centre + 0.0 + centre
    return [cos, sin, shift_x, minus_sin, cos, shift_y]


def _sources(matrix: Float64[Tensor, "n 6"], size: int) -> tuple[Float64[Tensor, "n s s"], Float64[Tensor, "n s s"]]:
    """Return the place in the source of each pixel's centre: x and y."""
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
        _interpolate_cubic([_take(pixels, row, column) for column in columns], dx)
        for row in _neighbours(top, -1, 4, pixels.shape[-1])
    ]
    return _interpolate_cubic(lines, dy).clamp_(0, 255).to(torch.uint8)


def _interpolate_cubic(values: list[Tensor], share: Tensor) -> Tensor:
    """Interpolate between the second and the third of four values with Pillow's cubic."""
    v1, v2, v3, v4 = values
    slope = v3 - v1
    bend = 2 * (v1 - v2) + v3 - v4
    twist = v2 - v1 - v3 + v4
    return v2 + share * (slope + share * (bend + share * twist))


def _neighbours(first: Float64[Tensor, "n s s"], start: int, count: int, size: int) -> list[Int64[Tensor, "n s s"]]:
    """`count` whole coordinates from `first + start` on; a coordinate past an edge becomes that edge."""
    whole = first.to(torch.int64)
    return [(whole + offset).clamp_(0, size - 1) for offset in range(start, start + count)]


def _take(
    pixels: UInt8[Tensor, "n 3 s s"], row: Int64[Tensor, "n s s"], column: Int64[Tensor, "n s s"]
) -> Float64[Tensor, "n 3 s s"]:
    """Return the values at whole coordinates, as numbers of double precision."""
    size = pixels.shape[-1]
    places = (row * size + column).flatten(1)[:, None].expand(-1, 3, -1)
    return pixels.flatten(2).gather(2, places).view_as(pixels).to(torch.float64)


#: Kernels by the name of their operation.
KERNELS = {
    "ROTATE": Kernels(pillow=timm_operations.rotate, batched=AffineWarp(_rotate)),
    "SHEAR_X": Kernels(pillow=along_rows(timm_operations.shear_x, shear), batched=AffineWarp(_shear_x)),
    "SHEAR_Y": Kernels(pillow=along_columns(timm_operations.shear_y, shear), batched=AffineWarp(_shear_y)),
    "TRANSLATE_X": Kernels(
        pillow=along_rows(timm_operations.translate_x_rel, translate), batched=AffineWarp(_translate_x)
    ),
    "TRANSLATE_Y": Kernels(
        pillow=along_columns(timm_operations.translate_y_rel, translate), batched=AffineWarp(_translate_y)
    ),
}
