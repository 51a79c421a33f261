"""Tensors on their way to a device."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`, itself where it is there already; its way to a GPU runs behind the host, which goes on."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        # A copy from pageable memory would make the host wait for the device.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
