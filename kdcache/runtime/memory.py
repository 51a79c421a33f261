"""The memory that a job takes."""

import resource

import torch

#: Linux counts the resident memory of a process in units of 1,024 bytes.
_RSS_UNIT = 1024


def peak_memory(device: torch.device) -> int:
    """Return the most memory so far in bytes: what tensors took on a GPU, or what this process took of the host's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
