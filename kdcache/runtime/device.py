"""The choice of the device and the precision of a job, and the memory that it takes there."""

import contextlib
import platform
import re
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, get_args

import torch

from kdcache.errors import DeviceError, UsageError
from kdcache.runtime.cores import cores as cores  # which needs no torch
from kdcache.runtime.ranks import Ranks

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
#: Linux counts the resident memory of a process in units of 1,024 bytes.
_RSS_UNIT = 1024
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def gpu_arithmetic(device: torch.device, tf32: bool | None, cudnn_benchmark: bool) -> Iterator[None]:
    """Set how a GPU computes in fp32 within the context, and as it was afterwards; on a CPU nothing changes.

    Args:
        tf32: whether factors of products are rounded to TF32, in matrix products and convolutions; None: as it is.
        cudnn_benchmark: whether cuDNN chooses the fastest convolution by trying.
    """
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    if tf32 is not None:
        matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    cudnn.benchmark = cudnn_benchmark
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: "auto" (the GPU if there is one), "cpu", "cuda" or "cuda:N".

    Where a launcher started several processes on this machine, "cuda" is the GPU of this one's number.

    Raises:
        UsageError: the name means nothing.
        DeviceError: the requested GPU does not exist; the message has cause and remedy.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not number.isdecimal()):
        raise UsageError(f"There is no device called {name!r}: use auto, cpu, cuda or cuda:N.")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(f"No GPU can be used: {_why_no_cuda()} or use --device cpu.")
    ranks = Ranks.from_environment()
    if not number and ranks.local_world_size > 1:
        number = str(ranks.local_rank)
    if number and int(number) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = "cuda:0 alone is" if count == 1 else f"cuda:0 to cuda:{count - 1} are"
        raise DeviceError(
            f"There is no device cuda:{number}; {there} there: use one of these, and no more processes than GPUs."
        )
    return torch.device(f"cuda:{number}" if number else "cuda")


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return f"this PyTorch ({torch.__version__}) is a build for the CPU. Install a CUDA build,"
    return (
        f"PyTorch {torch.__version__} (CUDA {torch.version.cuda}) finds no device: the driver is missing, "
        "too old for that CUDA, or it is hidden from this process. Look at "
        "`nvidia-smi` and CUDA_VISIBLE_DEVICES,"
    )


def resolve_precision(precision: str, device: torch.device) -> Precision:
    """Return the precision that `precision` means on `device`: "fp32", "bf16" or "fp16".

    "auto" is mixed precision where it pays: bf16 on a GPU that computes in it, fp16 on an older one,
    fp32 on the CPU.

    Raises:
        UsageError: the name means nothing.
        DeviceError: fp16 on the CPU, where PyTorch lacks kernels for it.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision not in PRECISIONS:
        raise UsageError(f"There is no precision called {precision!r}: use auto, {', '.join(PRECISIONS)}.")
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("fp16 needs a GPU: on the CPU use --precision fp32 or bf16.")
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context of torch's mixed precision: weights stay float32; "fp32" changes nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_HALF[precision])


def share_of_cores() -> int:
    """Return the threads that decode and read: `cores`, divided among the launcher's processes on this machine.

    They change no bit of what is computed, unlike the threads of PyTorch, whose number stays the same.
    """
    return max(1, cores() // Ranks.from_environment().local_world_size)


def processor_name() -> str:
    """Return the model of this machine's processor, if the system reports it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def use_all_cores() -> None:
    """Set the number of PyTorch's threads to `cores`.

    The last bits of an output depend on the number of threads, and torchrun sets it to one. A job sets it itself, so
    that every process on this machine computes the same outputs.
    """
    torch.set_num_threads(cores())


def peak_memory(device: torch.device) -> int:
    """Return the most memory so far in bytes: what tensors took on a GPU, or what this process took of the host's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT
