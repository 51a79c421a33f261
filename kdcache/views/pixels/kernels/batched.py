"""The operations on a device: batched torch, whose pixels are Pillow's.

Rows are grouped once, on the host, where the plan is; each group is a handful of whole-batch steps, and the host
never waits for the device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from kdcache.runtime.transfer import array_to_device
from kdcache.views.operations import WARPS, Colour, Operation
from kdcache.views.pixels.kernels.binding import AffineWarp, FixedTable, MeasuredTable, WholeImages
from kdcache.views.pixels.kernels.nearest import warp_nearest
from kdcache.views.pixels.kernels.registry import KERNELS
from kdcache.views.pixels.kernels.tables import look_up
from kdcache.views.pixels.kernels.warp import warp
from kdcache.views.plan import Plan

_FIXED_TABLES = {op: kernels.batched for op, kernels in KERNELS.items() if isinstance(kernels.batched, FixedTable)}
_MEASURED_TABLES = {
    op: kernels.batched for op, kernels in KERNELS.items() if isinstance(kernels.batched, MeasuredTable)
}
_WARPS = {op: kernels.batched for op, kernels in KERNELS.items() if isinstance(kernels.batched, AffineWarp)}
_WHOLE_IMAGES = {op: kernels.batched for op, kernels in KERNELS.items() if isinstance(kernels.batched, WholeImages)}

#: Operations that change each value by itself; one pass over the pixels serves them all.
TABLED: tuple[Operation, ...] = (*_FIXED_TABLES, *_MEASURED_TABLES)

#: Values of an image that a kernel gets in one call. Intermediate results hold up to 8 bytes a value, several at a
#: time, so this bounds them to about half a gigabyte.
_VALUES_PER_CALL = 1 << 23


@dataclass(frozen=True)
class Group:
    """Some rows of a column of the plan that one kernel serves: their operations, arguments and the colour of fill."""

    op: UInt8[np.ndarray, "n"]
    magnitude: Float32[np.ndarray, "n"]
    fill: Colour


_GroupKernel = Callable[[UInt8[Tensor, "n 3 s s"], Group], UInt8[Tensor, "n 3 s s"]]


def operate(
    pixels: UInt8[Tensor, "b 3 s s"], plan: Plan, fill: Colour, nearest: bool = False
) -> UInt8[Tensor, "b 3 s s"]:
    """Apply the operations of each row of the plan, one column after the other; `pixels` stays as it is.

    Args:
        pixels: images, in the order of the plan's rows.
        plan: plan whose `op`, `magnitude` and `op_cubic` are obeyed.
        fill: colour of what a warp uncovers.
        nearest: whether warps take the nearest pixel, whatever `plan.op_cubic` says.
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
    """Apply one operation to each image, in place."""
    rows_per_call = max(1, _VALUES_PER_CALL // pixels[0].numel())
    for kernel, rows in group_rows(op, cubic, nearest):
        for start in range(0, len(rows), rows_per_call):
            part = rows[start : start + rows_per_call]
            where = array_to_device(part, pixels.device)
            pixels[where] = kernel(pixels[where], Group(op[part], magnitude[part], fill))


def group_rows(
    op: UInt8[np.ndarray, "b"], cubic: Bool[np.ndarray, "b"], nearest: bool
) -> Iterator[tuple[_GroupKernel, Int64[np.ndarray, "rows"]]]:
    """Yield the kernels that a column needs, each with its rows; rows of the identity are in no group."""
    warped = np.isin(op, WARPS)
    for kernel, mask in (
        (_tables, np.isin(op, TABLED)),
        (_nearest_warp, warped & nearest),
        (_linear_warp, warped & ~cubic & (not nearest)),
        (_cubic_warp, warped & cubic & (not nearest)),
        *((_whole_images, op == code) for code in _WHOLE_IMAGES),
    ):
        rows = np.flatnonzero(mask)
        if len(rows):
            yield kernel, rows


def _tables(pixels: UInt8[Tensor, "n 3 s s"], group: Group) -> UInt8[Tensor, "n 3 s s"]:
    """Replace values by tables: each image by its own, fixed or measured, and all images in one pass."""
    fixed = np.empty((len(group.op), 256), np.uint8)
    for code, table in _FIXED_TABLES.items():
        rows = np.flatnonzero(group.op == code)
        if len(rows):
            fixed[rows] = table.compute(group.magnitude[rows])
    device = pixels.device
    tables = array_to_device(fixed, device)[:, None].repeat(1, 3, 1)
    for code, measured in _MEASURED_TABLES.items():
        rows = np.flatnonzero(group.op == code)
        if len(rows):
            where = array_to_device(rows, device)
            tables[where] = measured.compute(pixels[where], array_to_device(group.magnitude[rows], device))
    return look_up(tables, pixels)


def _nearest_warp(pixels: UInt8[Tensor, "n 3 s s"], group: Group) -> UInt8[Tensor, "n 3 s s"]:
    return warp_nearest(pixels, matrices_of(group, pixels.shape[-1]), group.fill)


def _linear_warp(pixels: UInt8[Tensor, "n 3 s s"], group: Group) -> UInt8[Tensor, "n 3 s s"]:
    return warp(pixels, matrices_of(group, pixels.shape[-1]), False, group.fill)


def _cubic_warp(pixels: UInt8[Tensor, "n 3 s s"], group: Group) -> UInt8[Tensor, "n 3 s s"]:
    return warp(pixels, matrices_of(group, pixels.shape[-1]), True, group.fill)


def matrices_of(group: Group, size: int) -> Float64[np.ndarray, "n 6"]:
    """Return the matrix of each image's own warp, as `AffineWarp` defines it."""
    matrices = np.empty((len(group.op), 6))
    for code, kernel in _WARPS.items():
        rows = np.flatnonzero(group.op == code)
        if len(rows):
            matrices[rows] = kernel.compute(group.magnitude[rows].astype(np.float64), size)
    return matrices


def _whole_images(pixels: UInt8[Tensor, "n 3 s s"], group: Group) -> UInt8[Tensor, "n 3 s s"]:
    """Apply the one operation of a group whose kernel is of the kind `WholeImages`."""
    return _WHOLE_IMAGES[Operation(int(group.op[0]))].compute(pixels, group.magnitude)
