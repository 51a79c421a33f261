"""The transfer of tensors to a device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return `tensor` on `device`; unchanged if it is there. The copy to a GPU is asynchronous."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        # A copy from pageable memory would make the host wait for the device.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
