"""A scheme: which operations a picture may get, how they are chosen, and how strong they are.

RandAugment and AutoAugment are two ways of choosing among the same steps, so one function draws both.
"""

from dataclasses import dataclass
from math import isinf

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8, UInt32, UInt64

from kdcache.random.philox import Stream, below, normal, philox_uint32, unit
from kdcache.views.operations import Operation
from kdcache.views.schemes.levels import Scale, arguments

_WARPS = (Operation.ROTATE, Operation.SHEAR_X, Operation.SHEAR_Y, Operation.TRANSLATE_X, Operation.TRANSLATE_Y)
# Of each layer: which step, whether, two for the level; sign or place, interpolation, two unused.
_DRAWS_A_LAYER = 2


@dataclass(frozen=True)
class Step:
    """One operation that a picture may get, once it is chosen: timm's AugmentOp.

    Attributes:
        scale: the operation and the meaning of its levels.
        prob: probability that it is applied.
        level: its strength, or the mean of it.
    """

    scale: Scale
    prob: float
    level: float


@dataclass(frozen=True)
class Scheme:
    """How the operations of a picture are drawn.

    Attributes:
        steps: what can be chosen.
        layers: how many are chosen.
        sequences: chosen together, one of these with equal probability, each `layers` positions in `steps`
            (AutoAugment); empty where each layer is chosen by itself (RandAugment).
        weights: of the steps, drawn without replacement; empty for equal ones, drawn with replacement.
        level_std: deviation of a normal distribution around each step's level; infinite for a uniform one from 0 to
            the level.
        max_level: what levels are cut to, after that.
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
    """`Plan.op`, `Plan.magnitude` and `Plan.op_cubic` of k layers; a layer that is not applied is the identity."""
    draws = philox_uint32(seed, Stream.AUGMENT, key_hash, view, _DRAWS_A_LAYER * scheme.layers)
    draws = draws.reshape(len(key_hash), scheme.layers, 4 * _DRAWS_A_LAYER)
    chosen = _choose(scheme, draws[:, :, 0])
    prob = np.array([step.prob for step in scheme.steps])[chosen]
    applied = unit(draws[:, :, 1]) < prob
    level = _levels(scheme, np.array([step.level for step in scheme.steps])[chosen], draws[:, :, 2:4])
    scales = tuple(step.scale for step in scheme.steps)
    op, magnitude = arguments(scales, chosen, level, unit(draws[:, :, 4]))
    op = np.where(applied, op, np.uint8(Operation.IDENTITY))
    cubic = unit(draws[:, :, 5]) < 0.5 if interpolation == "random" else np.full(op.shape, interpolation == "bicubic")
    return op, np.where(applied, magnitude, np.float32(0)), cubic & np.isin(op, _WARPS)


def _choose(scheme: Scheme, draws: UInt32[np.ndarray, "b k"]) -> Int64[np.ndarray, "b k"]:
    """Positions in `scheme.steps`."""
    if scheme.sequences:
        rows = below(draws[:, 0], np.full(len(draws), len(scheme.sequences)))
        return np.array(scheme.sequences, np.int64)[rows]
    if not scheme.weights:
        return below(draws, np.full(draws.shape, len(scheme.steps)))
    chosen = np.empty(draws.shape, np.int64)
    left = np.tile(np.array(scheme.weights, np.int64), (len(draws), 1))
    for layer in range(scheme.layers):
        upto = left.cumsum(axis=1)
        position = below(draws[:, layer], upto[:, -1])
        chosen[:, layer] = (position[:, None] >= upto).sum(axis=1)
        np.put_along_axis(left, chosen[:, layer, None], 0, axis=1)
    return chosen


def _levels(
    scheme: Scheme, level: Float64[np.ndarray, "b k"], draws: UInt32[np.ndarray, "b k 2"]
) -> Float64[np.ndarray, "b k"]:
    if isinf(scheme.level_std):
        level = level * unit(draws[:, :, 0])
    elif scheme.level_std > 0:
        level = level + scheme.level_std * normal(draws)
    return np.clip(level, 0.0, scheme.max_level)
