"""A scheme: which operations an image may get, how they are chosen, and how strong they are.

RandAugment and AutoAugment are two ways of choosing among the same steps, so one function draws both.
"""

from dataclasses import dataclass
from math import isinf

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8, UInt32, UInt64

from kdcache.random.philox import Stream, below, normal, philox_uint32, unit
from kdcache.views.operations import WARPS, Operation
from kdcache.views.schemes.levels import Levels, compute_arguments

#: Philox draws for each layer, of four 32-bit words each. They decide: the step, whether it is applied, its level (two
#: words); its sign or its place between the bounds, its interpolation, and two that nothing uses.
_DRAWS_PER_LAYER = 2


@dataclass(frozen=True)
class Step:
    """One operation that an image may get, once it is chosen: timm's AugmentOp.

    Attributes:
        operation: operation that is applied.
        levels: argument that each level stands for.
        prob: probability that it is applied.
        level: strength, or the mean of the strengths.
    """

    operation: Operation
    levels: Levels
    prob: float
    level: float


@dataclass(frozen=True)
class Scheme:
    """How the operations of an image are drawn.

    Attributes:
        steps: steps that can be chosen.
        layers: number of steps that are chosen for an image.
        sequences: steps that are chosen together, each as `layers` positions in `steps`; one sequence is chosen with
            equal probability (AutoAugment). Empty where each layer is chosen by itself (RandAugment).
        weights: weight of each step, for steps that are drawn without replacement; empty for equal weights, and steps
            that are drawn with replacement.
        level_std: standard deviation of a normal distribution around each step's level; infinite for a uniform
            distribution from 0 to the level.
        max_level: highest level; what is drawn above it becomes it.
    """

    steps: tuple[Step, ...]
    layers: int
    sequences: tuple[tuple[int, ...], ...] = ()
    weights: tuple[int, ...] = ()
    level_std: float = 0.0
    max_level: float = 10.0


def draw_scheme(
    scheme: Scheme,
    interpolation: str,
    seed: int,
    view: int | Int64[np.ndarray, "b"],
    key_hash: UInt64[np.ndarray, "b"],
) -> tuple[UInt8[np.ndarray, "b k"], Float32[np.ndarray, "b k"], Bool[np.ndarray, "b k"]]:
    """Draw `Plan.op`, `Plan.magnitude` and `Plan.op_cubic` of k layers; a layer that is not applied is the identity."""
    draws = philox_uint32(seed, Stream.AUGMENT, key_hash, view, _DRAWS_PER_LAYER * scheme.layers)
    draws = draws.reshape(len(key_hash), scheme.layers, 4 * _DRAWS_PER_LAYER)
    chosen = _choose(scheme, draws[:, :, 0])
    prob = np.array([step.prob for step in scheme.steps])[chosen]
    applied = unit(draws[:, :, 1]) < prob
    level = _levels(scheme, np.array([step.level for step in scheme.steps])[chosen], draws[:, :, 2:4])
    magnitude = compute_arguments(tuple(step.levels for step in scheme.steps), chosen, level, unit(draws[:, :, 4]))
    op = np.array([step.operation for step in scheme.steps], np.uint8)[chosen]
    op = np.where(applied, op, np.uint8(Operation.IDENTITY))
    cubic = unit(draws[:, :, 5]) < 0.5 if interpolation == "random" else np.full(op.shape, interpolation == "bicubic")
    return op, np.where(applied, magnitude, np.float32(0)), cubic & np.isin(op, WARPS)


def _choose(scheme: Scheme, draws: UInt32[np.ndarray, "b k"]) -> Int64[np.ndarray, "b k"]:
    """Choose a step for each layer: positions in `scheme.steps`, from one 32-bit word each."""
    if scheme.sequences:
        rows = below(draws[:, 0], np.full(len(draws), len(scheme.sequences)))
        return np.array(scheme.sequences, np.int64)[rows]
    if not scheme.weights:
        return below(draws, np.full(draws.shape, len(scheme.steps)))
    chosen = np.empty(draws.shape, np.int64)
    # Without replacement: the weight of a step that has been chosen becomes 0 for this image.
    remaining = np.tile(np.array(scheme.weights, np.int64), (len(draws), 1))
    for layer in range(scheme.layers):
        upto = remaining.cumsum(axis=1)
        position = below(draws[:, layer], upto[:, -1])
        chosen[:, layer] = (position[:, None] >= upto).sum(axis=1)
        np.put_along_axis(remaining, chosen[:, layer, None], 0, axis=1)
    return chosen


def _levels(
    scheme: Scheme, level: Float64[np.ndarray, "b k"], draws: UInt32[np.ndarray, "b k 2"]
) -> Float64[np.ndarray, "b k"]:
    """Draw the levels of chosen steps around `level`, from two 32-bit words each, within 0..`max_level`."""
    if isinf(scheme.level_std):
        level = level * unit(draws[:, :, 0])
    elif scheme.level_std > 0:
        level = level + scheme.level_std * normal(draws)
    return np.clip(level, 0.0, scheme.max_level)
