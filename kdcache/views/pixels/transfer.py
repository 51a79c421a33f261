"""Small arrays of a plan on their way to a device."""

import numpy as np
import torch
from torch import Tensor

from kdcache.runtime.transfer import send


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """`array` on `device`, shared where that is the CPU; the host waits for no device (`runtime.transfer`)."""
    return send(torch.from_numpy(array), device)
