"""timm's levels: how strongly an operation is applied, 0 to 10 and beyond, as the argument that it is applied with."""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from math import inf

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from kdcache.views.operations import Operation


class Direction(IntEnum):
    """Where an argument lies from its start."""

    UP = 0
    """start + distance."""
    DOWN = 1
    """start - distance."""
    EITHER = 2
    """One of the two, with equal probability."""
    BETWEEN = 3
    """Uniform between the start and the distance itself."""


@dataclass(frozen=True)
class Scale:
    """The argument of an operation as a function of the level: `span` x level / 10 away from `start`.

    Attributes:
        operation: what is applied.
        start: the argument at level 0.
        span: the distance from it at level 10.
        direction: where from the start.
        whole: whether the distance is truncated to a whole number.
        most: the largest distance.
        least: the smallest argument.
    """

    operation: Operation
    start: float = 0.0
    span: float = 0.0
    direction: Direction = Direction.UP
    whole: bool = False
    most: float = inf
    least: float = -inf


def _enhanced(name: str, operation: Operation) -> dict[str, Scale]:
    """Factors 0.1 to 1.9, by level or, increasing, away from 1."""
    return {
        name: Scale(operation, start=0.1, span=1.8),
        f"{name}Increasing": Scale(operation, start=1.0, span=0.9, direction=Direction.EITHER, least=0.1),
    }


# timm.data.auto_augment.LEVEL_TO_ARG by timm's names, as far as its policies use them. Levels above 10 (mmax) would
# ask for fewer than 0 bits of "PosterizeIncreasing": there it stays at 0.
SCALES: dict[str, Scale] = {
    "AutoContrast": Scale(Operation.AUTO_CONTRAST),
    "Equalize": Scale(Operation.EQUALIZE),
    "Invert": Scale(Operation.INVERT),
    "Rotate": Scale(Operation.ROTATE, span=30.0, direction=Direction.EITHER),
    "Posterize": Scale(Operation.POSTERIZE, span=4.0, whole=True, most=8.0),
    "PosterizeIncreasing": Scale(
        Operation.POSTERIZE, start=4.0, span=4.0, direction=Direction.DOWN, whole=True, most=4.0
    ),
    "PosterizeOriginal": Scale(Operation.POSTERIZE, start=4.0, span=4.0, whole=True, most=4.0),
    "Solarize": Scale(Operation.SOLARIZE, span=256.0, whole=True, most=256.0),
    "SolarizeIncreasing": Scale(
        Operation.SOLARIZE, start=256.0, span=256.0, direction=Direction.DOWN, whole=True, most=256.0
    ),
    "SolarizeAdd": Scale(Operation.SOLARIZE_ADD, span=110.0, whole=True, most=128.0),
    **_enhanced("Color", Operation.COLOR),
    **_enhanced("Contrast", Operation.CONTRAST),
    **_enhanced("Brightness", Operation.BRIGHTNESS),
    **_enhanced("Sharpness", Operation.SHARPNESS),
    "ShearX": Scale(Operation.SHEAR_X, span=0.3, direction=Direction.EITHER),
    "ShearY": Scale(Operation.SHEAR_Y, span=0.3, direction=Direction.EITHER),
    "TranslateXRel": Scale(Operation.TRANSLATE_X, span=0.45, direction=Direction.EITHER),
    "TranslateYRel": Scale(Operation.TRANSLATE_Y, span=0.45, direction=Direction.EITHER),
    "Desaturate": Scale(Operation.COLOR, start=0.5, span=0.5, direction=Direction.DOWN, most=0.5),
    "GaussianBlur": Scale(Operation.GAUSSIAN_BLUR, start=0.1, span=1.9, most=1.9),
    "GaussianBlurRand": Scale(Operation.GAUSSIAN_BLUR, start=0.1, span=2.0, direction=Direction.BETWEEN, most=2.0),
}


def arguments(
    scales: tuple[Scale, ...],
    chosen: Int64[np.ndarray, "b k"],
    level: Float64[np.ndarray, "b k"],
    spare: Float64[np.ndarray, "b k"],
) -> tuple[UInt8[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
    """Operations and their arguments, `Plan.op` and `Plan.magnitude`.

    Args:
        chosen: positions in `scales`.
        level: >= 0; 10 is timm's full strength.
        spare: a number in (0, 1) for each: the sign, or the place between the bounds.
    """
    operation, start, span, direction, whole, most, least = (column[chosen] for column in _columns(scales))
    distance = level / 10.0 * span
    distance = np.minimum(np.where(whole, np.trunc(distance), distance), most)
    down = (direction == Direction.DOWN) | ((direction == Direction.EITHER) & (spare > 0.5))
    argument = start + np.where(down, -distance, distance)
    between = direction == Direction.BETWEEN
    argument = np.where(between, start + (distance - start) * spare, argument)
    return operation, np.maximum(argument, least).astype(np.float32)


@lru_cache(maxsize=16)
def _columns(scales: tuple[Scale, ...]) -> tuple[np.ndarray, ...]:
    return (
        np.array([scale.operation for scale in scales], np.uint8),
        np.array([scale.start for scale in scales], np.float64),
        np.array([scale.span for scale in scales], np.float64),
        np.array([scale.direction for scale in scales], np.uint8),
        np.array([scale.whole for scale in scales], np.bool_),
        np.array([scale.most for scale in scales], np.float64),
        np.array([scale.least for scale in scales], np.float64),
    )
