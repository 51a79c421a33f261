"""Whether Triton's kernels run on a device, and how each of them is launched."""

import logging
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

_logger = logging.getLogger(__name__)

#: The oldest GPUs that Triton compiles for: Ampere.
_LEAST_CAPABILITY = (8, 0)


def runs_on(device: torch.device) -> bool:
    """Return whether Triton's kernels run on a device: an NVIDIA GPU from Ampere on, with Triton and a C compiler.

    The answer is found once for each device, by a launch. Where it is no, torch's kernels make the same pixels in more
    steps, and a warning says why if a GPU is there.
    """
    return device.type == "cuda" and torch.version.cuda is not None and _has_run(device)


@cache
def _has_run(device: torch.device) -> bool:
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY or find_spec("triton") is None:
        return False
    # Triton builds its launcher with a C compiler when it first launches, and images without one are common.
    try:
        from kdcache.views.pixels.fused.probe import increment

        held = increment(torch.zeros(1, dtype=torch.int32, device=device)).item() == 1
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        _logger.warning(
            "Triton cannot launch a kernel on %s (%s), so views are augmented by PyTorch's kernels: the same pixels, "
            "in more time. Triton needs a C compiler: install gcc, or set CC.",
            device,
            reason,
        )
        return False
    return held


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launch a kernel on the device of its first argument, a tensor, and return without waiting for it.

    No multiplication is fused with an addition: the result would be rounded once instead of twice, and differ in its
    last bit from that of torch's kernels and Pillow's.
    """
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants, enable_fp_fusion=False)
