"""Coordinates at a policy's reference size, scaled to the size that is rendered."""

from typing import TypeVar

import numpy as np
from torch import Tensor

Coordinates = TypeVar("Coordinates", Tensor, np.ndarray)


def rescale(coordinates: Coordinates, size: int, reference_size: int) -> Coordinates:
    """Multiply whole coordinates by size / reference_size, and round the results, halves up."""
    return (2 * coordinates * size + reference_size) // (2 * reference_size)
