"""Copies of a plan's small arrays on a device."""

import numpy as np
import torch
from torch import Tensor

from kdcache.runtime.transfer import send


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A tensor of `array` on `device`, which shares its memory on the CPU; the host does not wait for the device."""
    return send(torch.from_numpy(array), device)
