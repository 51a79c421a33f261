"""Trials of PyTorch and DALI, on the CPU and on every GPU."""

import warnings
from typing import Any

_FULL = ("out of memory", "alloc_failed", "allocator_failure", "can't allocate", "cuda allocation failed")
"""Parts of the messages of CUDA, cuBLAS, cuDNN, nvJPEG and DALI if a GPU has no memory left; case is ignored."""


def compute() -> dict[str, Any]:
    """Compute with PyTorch on the CPU; return its versions, whether it finds GPUs, and the threads of a job."""
    import torch

    from kdcache.errors import UsageError
    from kdcache.runtime.device import cores

    _require_right("cpu")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    try:
        threads: int | str = cores()
    except UsageError as error:
        threads = str(error)
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "available": available,
        "warning": " ".join(str(caught[0].message).split()) if caught else None,
        "threads": threads,
    }


def compute_on_gpus() -> dict[str, Any]:
    """Compute with PyTorch on every GPU; return name, memory and state of each.

    The state is "right"; "full" if other processes use all memory; "old" if this PyTorch has no code for the GPU; or
    "broken", with a cause.
    """
    import torch

    from kdcache.errors import reason

    architectures = [int(name[3:]) for name in torch.cuda.get_arch_list() if name[3:].isdecimal()]
    gpus: list[dict[str, Any]] = []
    for number in range(torch.cuda.device_count()):
        gpu: dict[str, Any] = {"name": f"cuda:{number}", "memory": 0, "state": "right", "cause": ""}
        gpus.append(gpu)
        try:
            properties = torch.cuda.get_device_properties(number)
            gpu |= {"name": properties.name, "memory": properties.total_memory}
            if architectures and 10 * properties.major + properties.minor < min(architectures):
                oldest = f"{min(architectures) // 10}.{min(architectures) % 10}"
                has = f"it has compute capability {properties.major}.{properties.minor}"
                gpu |= {"state": "old", "cause": f"{has}, and PyTorch {torch.__version__} needs {oldest} or later"}
                continue
            _require_right(f"cuda:{number}")
        except Exception as error:  # whatever one GPU does, the others are tried
            if is_out_of_memory(error):
                gpu["state"] = "full"
            else:
                gpu |= {"state": "broken", "cause": f"{type(error).__name__}: {reason(error)}"}
    return {"gpus": gpus}


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of PyTorch, DALI or their libraries means that a GPU's memory is full.

    Where others have filled a GPU not even a context or a library's own buffers fit, and each says so in its own words.
    """
    import torch

    message = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(phrase in message for phrase in _FULL)


def _require_right(device: str) -> None:
    """Compute a product and a convolution of small whole numbers, which are exact in every precision."""
    import torch
    from torch.nn.functional import conv2d

    numbers = (torch.arange(64 * 64) % 5 - 2).float().reshape(64, 64)
    image, kernel = numbers.expand(1, 1, 64, 64), numbers[:3, :3].expand(1, 1, 3, 3)
    product = (numbers.to(device) @ numbers.to(device)).cpu()
    filtered = conv2d(image.to(device), kernel.to(device)).cpu()
    rows = numbers.long()
    expected = (rows[:, :, None] * rows[None]).sum(1)
    patches = rows.unfold(0, 3, 1).unfold(1, 3, 1)
    if not torch.equal(product.long(), expected) or not torch.equal(
        filtered[0, 0].long(), (patches * rows[:3, :3]).sum((2, 3))
    ):
        raise ArithmeticError(f"it computes wrong numbers on {device}")


def decode(where: str) -> dict[str, Any]:
    """Decode a JPEG with DALI on the "cpu" or the "gpu"; return the mean difference from Pillow, in levels of 255."""
    import numpy as np

    from kdcache.render.opening import open_renderer

    encoded, box = [photograph()], np.array([[10, 20, 90, 120]], np.int32)
    no = np.array([False])
    with open_renderer("pillow", size=64, max_batch=2, threads=1) as renderer:
        expected = renderer.render(encoded, box, cubic=no, flips=no)
    device = "cuda" if where == "gpu" else "cpu"
    try:
        with open_renderer("dali", size=64, max_batch=2, threads=1, device=device, decode=where) as renderer:
            pixels = renderer.render(encoded, box, cubic=no, flips=no).cpu()
            version = renderer.version
    except Exception as error:  # PyTorch's, DALI's or, around them, kdcache's
        if where == "gpu" and is_out_of_memory(error):
            return {"full": True}
        raise
    return {"full": False, "version": version, "difference": (pixels.float() - expected.float()).abs().mean().item()}


def photograph() -> bytes:
    """Return a JPEG of 160 x 120 pixels with smooth shapes in three colours."""
    import io

    import numpy as np
    from PIL import Image

    down, across = np.mgrid[:120, :160] / 40
    colours = np.stack([np.sin(down + across), np.cos(2 * down - across), np.sin(across) * np.cos(down)], axis=-1)
    file = io.BytesIO()
    Image.fromarray((127.5 + 120 * colours).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
