"""The operations on a device: batched torch, whose pixels are Pillow's.

Rows are grouped once, on the host, where the plan is; each group is a handful of whole-batch steps, and the host
never waits for the device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from kdcache.views.operations import Colour, Operation
from kdcache.views.pixels.kernels.blur import gaussian_blur, smooth
from kdcache.views.pixels.kernels.hue import turn_hue
from kdcache.views.pixels.kernels.nearest import warp_nearest
from kdcache.views.pixels.kernels.tables import TABLED, blend, by_table, grey
from kdcache.views.pixels.kernels.warp import WARPS, warp
from kdcache.views.pixels.transfer import to_device
from kdcache.views.plan import Plan

# Intermediate results hold up to 8 bytes a value, several at a time: this bounds them to about half a gigabyte.
_VALUES_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class _Group:
    """Some rows of a column of the plan that one kernel serves."""

    op: UInt8[np.ndarray, "n"]
    magnitude: Float32[np.ndarray, "n"]
    fill: Colour

    def factor(self, device: torch.device) -> Float32[Tensor, "n 1 1 1"]:
        return to_device(self.magnitude, device)[:, None, None, None]


_Kernel = Callable[[Tensor, _Group], Tensor]


def operate(
    pixels: UInt8[Tensor, "b 3 s s"], plan: Plan, fill: Colour, nearest: bool = False
) -> UInt8[Tensor, "b 3 s s"]:
    """The images after the operations of their rows of the plan, one column after the other; `pixels` stays.

    Args:
        fill: what a warp uncovers, red, green and blue in 0..255.
        nearest: whether warps interpolate not at all, whatever `plan.op_cubic` says.
    """
    out = pixels.clone(memory_format=torch.contiguous_format)
    for column in range(plan.op.shape[1]):
        _operate(out, plan.op[:, column], plan.magnitude[:, column], plan.op_cubic[:, column], fill, nearest)
    return out


def _operate(
    pixels: UInt8[Tensor, "b 3 s s"],
    op: UInt8[np.ndarray, "b"],
    magnitude: Float32[np.ndarray, "b"],
    cubic: Bool[np.ndarray, "b"],
    fill: Colour,
    nearest: bool,
) -> None:
    """One operation of each image, in place."""
    at_once = max(1, _VALUES_AT_ONCE // pixels[0].numel())
    for kernel, rows in _groups(op, cubic, nearest):
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            where = to_device(part, pixels.device)
            pixels[where] = kernel(pixels[where], _Group(op[part], magnitude[part], fill))


def _groups(
    op: UInt8[np.ndarray, "b"], cubic: Bool[np.ndarray, "b"], nearest: bool
) -> Iterator[tuple[_Kernel, Int64[np.ndarray, "rows"]]]:
    """Kernels that are needed, each with its rows."""
    warped = np.isin(op, WARPS)
    for kernel, mask in (
        (_by_table, np.isin(op, TABLED)),
        (_nearest_warp, warped & nearest),
        (_linear_warp, warped & ~cubic & (not nearest)),
        (_cubic_warp, warped & cubic & (not nearest)),
        (_color, op == Operation.COLOR),
        (_sharpness, op == Operation.SHARPNESS),
        (_gaussian_blur, op == Operation.GAUSSIAN_BLUR),
        (_hue, op == Operation.HUE),
    ):
        rows = np.flatnonzero(mask)
        if len(rows):
            yield kernel, rows


def _by_table(pixels: Tensor, group: _Group) -> Tensor:
    return by_table(pixels, group.op, group.magnitude)


def _nearest_warp(pixels: Tensor, group: _Group) -> Tensor:
    return warp_nearest(pixels, group.op, group.magnitude, group.fill)


def _linear_warp(pixels: Tensor, group: _Group) -> Tensor:
    return warp(pixels, group.op, group.magnitude, False, group.fill)


def _cubic_warp(pixels: Tensor, group: _Group) -> Tensor:
    return warp(pixels, group.op, group.magnitude, True, group.fill)


def _color(pixels: Tensor, group: _Group) -> Tensor:
    colours = pixels.to(torch.float32)
    shades = grey(pixels)[:, None].to(torch.float32).expand_as(colours)
    return blend(shades, colours, group.factor(pixels.device))


def _sharpness(pixels: Tensor, group: _Group) -> Tensor:
    return blend(smooth(pixels).to(torch.float32), pixels.to(torch.float32), group.factor(pixels.device))


def _gaussian_blur(pixels: Tensor, group: _Group) -> Tensor:
    return gaussian_blur(pixels, group.magnitude)


def _hue(pixels: Tensor, group: _Group) -> Tensor:
    return turn_hue(pixels, group.magnitude)
