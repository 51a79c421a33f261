"""The operations on a GPU by Triton's kernels: a few launches a step, with the pixels of torch's kernels."""

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from torch import Tensor

from kdcache.runtime.transfer import array_to_device
from kdcache.views.operations import WARPS, Colour, Operation
from kdcache.views.pixels.fused.steps import Step, buffers_needed, steps_of
from kdcache.views.pixels.fused.values import Measure, Way, change_values, measure_tables
from kdcache.views.pixels.fused.warps import warp_images, warp_images_nearest
from kdcache.views.pixels.kernels import batched
from kdcache.views.pixels.kernels.binding import FixedTable
from kdcache.views.pixels.kernels.registry import KERNELS
from kdcache.views.plan import Plan

_FIXED_TABLES = {op: kernels.batched for op, kernels in KERNELS.items() if isinstance(kernels.batched, FixedTable)}
_MEASURED = {
    Operation.AUTO_CONTRAST: Measure.AUTO_CONTRAST,
    Operation.EQUALIZE: Measure.EQUALIZE,
    Operation.CONTRAST: Measure.CONTRAST,
}
_BLENDED = {Operation.COLOR: Way.COLOUR, Operation.SHARPNESS: Way.SHARPNESS, Operation.HUE: Way.HUE}
#: Operations that `change_values` serves; IDENTITY is a copy.
_OF_VALUES = (Operation.IDENTITY, *_FIXED_TABLES, *_MEASURED, *_BLENDED)


def operate(
    pixels: UInt8[Tensor, "b 3 s s"], plan: Plan, fill: Colour, nearest: bool = False
) -> UInt8[Tensor, "b 3 s s"]:
    """Apply the operations of each row of the plan in their order; `pixels` stays as it is.

    An operation without a kernel in Triton is computed by torch's, for the rows that have it.

    Args:
        pixels: images, in the order of the plan's rows.
        plan: plan whose `op`, `magnitude` and `op_cubic` are obeyed.
        fill: colour of what a warp uncovers.
        nearest: whether warps take the nearest pixel, whatever `plan.op_cubic` says.
    """
    rows = len(pixels)
    given = pixels.contiguous()
    buffers = given.new_empty((buffers_needed(plan) * rows, *given.shape[1:]))
    for step in steps_of(plan):
        source = given if step.number == 0 else buffers
        of_values = np.isin(step.op, _OF_VALUES)
        if of_values.any():
            _change_values(source, buffers, step.part(of_values))
        warped = np.isin(step.op, WARPS)
        if warped.any():
            _warp(source, buffers, step.part(warped), fill, nearest)
        for op in np.unique(step.op[~of_values & ~warped]):
            _by_torch(source, buffers, step.part(step.op == op))
    return buffers[:rows]


def _change_values(source: UInt8[Tensor, "_r 3 s s"], target: UInt8[Tensor, "_t 3 s s"], step: Step) -> None:
    """Apply tables, blends and turns of the hue, and copy the rows without an operation."""
    factor = step.magnitude.copy()
    turned = step.op == Operation.HUE
    factor[turned] = np.trunc(step.magnitude[turned].astype(np.float64) * 255)
    way = np.zeros(len(step.op), np.int32)
    for op, each in _BLENDED.items():
        way[step.op == op] = each
    rows = np.stack([step.source, step.target, way], axis=1)
    change_values(source, target, rows, factor, _tables(source, step))


def _tables(source: UInt8[Tensor, "_r 3 s s"], step: Step) -> UInt8[Tensor, "n 3 256"]:
    """Return the tables of the step's images: those that the argument decides from the host, the others measured."""
    fixed = np.broadcast_to(np.arange(256, dtype=np.uint8), (len(step.op), 256)).copy()
    for op, kernel in _FIXED_TABLES.items():
        chosen = step.op == op
        if chosen.any():
            fixed[chosen] = kernel.compute(step.magnitude[chosen])
    tables = array_to_device(np.repeat(fixed[:, None], 3, axis=1), source.device)
    measured = np.isin(step.op, tuple(_MEASURED))
    if measured.any():
        measure_tables(source, tables, _measured_items(step, measured), step.magnitude[measured])
    return tables


def _measured_items(step: Step, measured: Bool[np.ndarray, "n"]) -> Int32[np.ndarray, "m 3"]:
    measures = [_MEASURED[Operation(int(op))] for op in step.op[measured]]
    return np.stack([step.source[measured], np.flatnonzero(measured), measures], axis=1).astype(np.int32)


def _warp(
    source: UInt8[Tensor, "_r 3 s s"], target: UInt8[Tensor, "_t 3 s s"], step: Step, fill: Colour, nearest: bool
) -> None:
    matrices = batched.matrices_of(batched.Group(step.op, step.magnitude, fill), source.shape[-1])
    rows = np.stack([step.source, step.target, step.cubic.astype(np.int32)], axis=1)
    if nearest:
        warp_images_nearest(source, target, rows[:, :2], matrices, fill)
    else:
        warp_images(source, target, rows, matrices, fill)


def _by_torch(source: UInt8[Tensor, "_r 3 s s"], target: UInt8[Tensor, "_t 3 s s"], step: Step) -> None:
    """Apply one operation by torch's kernel."""
    Operation(int(step.op[0]))  # a code without an operation is an error, because its rows would never be written
    for kernel, rows in batched.group_rows(step.op, step.cubic, nearest=False):
        here = array_to_device(step.source[rows].astype(np.int64), source.device)
        there = array_to_device(step.target[rows].astype(np.int64), source.device)
        target[there] = kernel(source[here], batched.Group(step.op[rows], step.magnitude[rows], (0, 0, 0)))
