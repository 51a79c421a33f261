"""Shears and translations of one image on the CPU, with Pillow's arithmetic (its Geometry.c) for whole rows at a time.

Such a warp moves each row, or each column, by a distance of its own: the weights of the neighbours are the same for all
pixels of a row. Pillow computes place and weights of each pixel anew, and takes three times as long.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from kdcache.views.operations import Colour

#: A distance is a whole multiple of 1 / _UNIT pixel and at most _FARTHEST pixels: then its sum with a column, and the
#: weights that follow from it, have at most 53 bits, and no step of Pillow's rounds them.
_UNIT, _FARTHEST = 2.0**40, 4096

#: A warp of Pillow: image, argument, and the keywords `resample` and `fillcolor`.
PillowWarp = Callable[..., Image.Image]


def along_rows(of_pillow: PillowWarp, distances: Callable[[float, int, int], Float64[np.ndarray, "h"]]) -> PillowWarp:
    """Return a warp with the pixels of `of_pillow`, which moves each row by a distance of its own.

    Args:
        of_pillow: warp that is called where this one cannot give its pixels: for the nearest pixel, for distances that
            are no multiples of 2**-40 pixels, and for images of more than 4096 pixels a side.
        distances: function from argument, width and height to how far each row moves to the left, in pixels.
    """

    def warp(image: Image.Image, argument: float, *, resample: int, fillcolor: Colour) -> Image.Image:
        distance = distances(argument, image.width, image.height)
        if resample == Image.Resampling.NEAREST or not _is_exact(distance, image.width):
            return of_pillow(image, argument, resample=resample, fillcolor=fillcolor)
        return _slide(image, distance, resample == Image.Resampling.BICUBIC, fillcolor)

    return warp


def along_columns(
    of_pillow: PillowWarp, distances: Callable[[float, int, int], Float64[np.ndarray, "w"]]
) -> PillowWarp:
    """Return the same as `along_rows` for a warp that moves each column by a distance of its own, upwards."""

    def warp(image: Image.Image, argument: float, *, resample: int, fillcolor: Colour) -> Image.Image:
        distance = distances(argument, image.height, image.width)
        if resample == Image.Resampling.NEAREST or not _is_exact(distance, image.height):
            return of_pillow(image, argument, resample=resample, fillcolor=fillcolor)
        turned = image.transpose(Image.Transpose.TRANSPOSE)
        slid = _slide(turned, distance, resample == Image.Resampling.BICUBIC, fillcolor)
        return slid.transpose(Image.Transpose.TRANSPOSE)

    return warp


def shear(share: float, width: int, height: int) -> Float64[np.ndarray, "h"]:
    """Return the distance of each row of a shear: `share` pixels for each pixel downwards, at the rows' centres."""
    return share * (np.arange(height) + 0.5)


def translate(share: float, width: int, height: int) -> Float64[np.ndarray, "h"]:
    """Return the distance of each row of a translation: a share of the width."""
    return np.full(height, share * width)


def _is_exact(distance: Float64[np.ndarray, "h"], width: int) -> bool:
    return bool(
        width <= _FARTHEST and (np.abs(distance) <= _FARTHEST).all() and ((distance * _UNIT) % 1.0 == 0.0).all()
    )


def _slide(image: Image.Image, distance: Float64[np.ndarray, "h"], cubic: bool, fill: Colour) -> Image.Image:
    pixels = np.asarray(image)
    width = image.width
    whole = np.floor(distance)
    share = (distance - whole)[:, None]
    first = np.clip(whole, -width - 1, width + 1).astype(np.int64)
    taps, interpolate = (4, _interpolate_cubic) if cubic else (2, _interpolate_linear)
    lines = _neighbours(pixels, first - (taps // 2 - 1), width + taps - 1)
    out = interpolate(lines, share)
    _fill_uncovered(out, distance, width, fill)
    return Image.frombuffer("RGB", image.size, out, "raw", "RGB", 0, 1)


def _neighbours(
    pixels: UInt8[np.ndarray, "h w 3"], first: Int64[np.ndarray, "h"], count: int
) -> UInt8[np.ndarray, "h values"]:
    """`count` pixels of each row from column `first` on; up to three pixels past an edge are the pixel at the edge.

    Further out they are black: every pixel that is made of them alone is uncovered.
    """
    height, width, _ = pixels.shape
    margin = int(np.abs(first).max()) + 4
    wide = np.zeros((height, width + 2 * margin, 3), np.uint8)
    wide[:, margin : margin + width] = pixels
    for beyond in range(3):
        wide[:, margin - 1 - beyond] = pixels[:, 0]
        wide[:, margin + width + beyond] = pixels[:, -1]
    windows = sliding_window_view(wide.reshape(height, -1), 3 * count, axis=1)
    return windows[np.arange(height), 3 * (first + margin)]


def _fill_uncovered(
    out: UInt8[np.ndarray, "h values"], distance: Float64[np.ndarray, "h"], width: int, fill: Colour
) -> None:
    """Fill the pixels whose centre's place in the source lies outside the image."""
    column = np.repeat(np.arange(width, dtype=np.int16), 3)
    shades = np.tile(np.array(fill, np.uint8), width)
    first = np.clip(np.ceil(-distance - 0.5), 0, width).astype(np.int16)[:, None]
    if first.any():
        np.copyto(out, shades, where=column < first)
    end = np.clip(np.ceil(width - 0.5 - distance), 0, width).astype(np.int16)[:, None]
    if (end < width).any():
        np.copyto(out, shades, where=column >= end)


def _interpolate_linear(
    lines: UInt8[np.ndarray, "h taken"], share: Float64[np.ndarray, "h 1"]
) -> UInt8[np.ndarray, "h values"]:
    left, right = lines[:, :-3], lines[:, 3:]
    between = np.subtract(right, left, dtype=np.float64)
    between *= share
    between += left
    return between.astype(np.uint8)


def _interpolate_cubic(
    lines: UInt8[np.ndarray, "h taken"], share: Float64[np.ndarray, "h 1"]
) -> UInt8[np.ndarray, "h values"]:
    wide = lines.astype(np.int16)
    values = wide.shape[1] - 9
    v1, v2, v3, v4 = (wide[:, start : start + values] for start in (0, 3, 6, 9))
    near, far = v1 - v2, v3 - v4
    # v2 + share (slope + share (bend + share twist)), where twist is -(near + far) and bend is 2 near + far.
    result = (near + far) * -share
    near += near
    near += far
    result += near
    result *= share
    result += v3 - v1
    result *= share
    result += v2
    return np.clip(result, 0, 255, out=result).astype(np.uint8)
