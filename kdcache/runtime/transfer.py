"""The transfer of tensors and of arrays to a device."""

import numpy as np
import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return `tensor` on `device`; unchanged if it is there. The copy to a GPU is asynchronous."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        # A copy from pageable memory would make the host wait for the device.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def array_to_device(array: np.ndarray, device: torch.device | str) -> Tensor:
    """Return a tensor of `array` on `device`: on the CPU it shares the array's memory.

    The copy to a GPU is asynchronous.
    """
    return to_device(torch.from_numpy(array), device)
