"""The transfer of tensors and of arrays to a device, and of a device's results to the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, eq=False)
class HostCopies:
    """Tensors on the host, into which a device may still be copying; `wait` returns them when it has ended."""

    _tensors: tuple[Tensor, ...]
    _end: Any = None

    @property
    def are_there(self) -> bool:
        """Whether `wait` returns at once."""
        return self._end is None or bool(self._end.query())

    def wait(self) -> tuple[Tensor, ...]:
        """Return the tensors, after one wait for one event; without a wait if they were on the host before."""
        if self._end is not None:
            self._end.synchronize()
        return self._tensors


def copy_to_host(tensors: Sequence[Tensor]) -> HostCopies:
    """Begin to copy tensors of one device to the host, behind the work that has been launched; return at once.

    From a GPU they are copied into pinned memory. torch's allocator of pinned memory keeps what is given back for the
    next batch, and not before the copy has ended. Tensors on the host are not copied.
    """
    device = tensors[0].device
    if device.type != "cuda":
        return HostCopies(tuple(tensors))
    copies = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
    # Blocking: a thread that spins would take a core from decoding.
    end = torch.cuda.Event(blocking=True)
    end.record(torch.cuda.current_stream(device))
    return HostCopies(copies, end)
