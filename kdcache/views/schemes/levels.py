"""timm's levels: the strength of an operation, 0 to 10 and beyond, and the argument that it stands for."""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from math import inf

import numpy as np
from jaxtyping import Float32, Float64, Int64


class Direction(IntEnum):
    """Where an argument lies from the argument at level 0: its sign."""

    #: The argument is start + distance.
    UP = 0
    #: The argument is start - distance.
    DOWN = 1
    #: The argument is one of the two, with equal probability.
    EITHER = 2
    #: The argument is uniform between the start and the distance itself.
    BETWEEN = 3


@dataclass(frozen=True)
class Levels:
    """The argument of an operation as a function of the level: it lies `span` x level / 10 away from `start`.

    Attributes:
        start: argument at level 0.
        span: distance from it at level 10.
        direction: side of the start on which the argument lies.
        whole: whether the distance is truncated to a whole number.
        most: largest distance.
        least: smallest argument.
    """

    start: float = 0.0
    span: float = 0.0
    direction: Direction = Direction.UP
    whole: bool = False
    most: float = inf
    least: float = -inf


def compute_arguments(
    levels: tuple[Levels, ...],
    chosen: Int64[np.ndarray, "b k"],
    level: Float64[np.ndarray, "b k"],
    spare: Float64[np.ndarray, "b k"],
) -> Float32[np.ndarray, "b k"]:
    """Compute the arguments of operations, as `Plan.magnitude` holds them.

    Args:
        levels: what levels mean to each operation that can be chosen.
        chosen: positions in `levels`.
        level: strengths, >= 0; 10 is timm's full strength.
        spare: numbers in (0, 1), which decide about the sign or about the place between the bounds.
    """
    start, span, direction, whole, most, least = (column[chosen] for column in _columns(levels))
    distance = level / 10.0 * span
    distance = np.minimum(np.where(whole, np.trunc(distance), distance), most)
    down = (direction == Direction.DOWN) | ((direction == Direction.EITHER) & (spare > 0.5))
    argument = start + np.where(down, -distance, distance)
    between = direction == Direction.BETWEEN
    argument = np.where(between, start + (distance - start) * spare, argument)
    return np.maximum(argument, least).astype(np.float32)


# A plan is made for each batch, and its policy has the same levels every time.
@lru_cache(maxsize=16)
def _columns(levels: tuple[Levels, ...]) -> tuple[np.ndarray, ...]:
    return (
        np.array([each.start for each in levels], np.float64),
        np.array([each.span for each in levels], np.float64),
        np.array([each.direction for each in levels], np.uint8),
        np.array([each.whole for each in levels], np.bool_),
        np.array([each.most for each in levels], np.float64),
        np.array([each.least for each in levels], np.float64),
    )
