"""Small arrays of a plan on their way to a device."""

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """`array` on `device`, shared where that is the CPU; a GPU's copy runs behind the host, which does not wait."""
    tensor = torch.from_numpy(array)
    # A copy from pageable memory would make the host wait for the device.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
