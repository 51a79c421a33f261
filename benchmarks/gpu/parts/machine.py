"""What the machine has, and whether one image goes through DALI on it."""

import datetime
import importlib
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpu.page import Line, Table, cause

#: Modules whose versions stand on the page, in the order in which they are tried.
MODULES = ("torch", "torchvision", "timm", "numpy", "PIL", "triton", "nvidia.dali", "zarr", "numcodecs", "kdcache")
#: Mean difference from Pillow, in levels of 0..255, up to which an image is decoded as it should be.
MAX_DIFFERENCE = 0.5


def versions(device: str) -> Iterator[Table]:
    """Versions of everything, which are found one by one, so that one that is missing hides no other."""
    lines = [
        Line(("date", datetime.datetime.now(datetime.UTC).date().isoformat())),
        Line(("Python", platform.python_version())),
        Line(("system", f"{platform.platform()}, {os.cpu_count()} CPUs")),
        Line(("driver", driver())),
    ]
    found: list[tuple[str, Callable[[], str], bool]] = [(name, partial(version, name), True) for name in MODULES]
    if device != "cpu":
        found += [("CUDA of PyTorch", cuda, True), ("GPU", lambda: gpu(device), True)]
        found += [("a product on the GPU", lambda: product(device), True)]
    for what, find, is_checked in found:
        try:
            lines.append(Line((what, find()), True if is_checked else None))
        except Exception as error:
            lines.append(Line((what, cause(error)), False))
        yield Table("Versions", ("what", "found"), tuple(lines))


def version(name: str) -> str:
    """The version of a module, which is imported."""
    module = importlib.import_module(name)
    return str(getattr(module, "__version__", "imported"))


def driver() -> str:
    """The version of NVIDIA's driver."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown: nvidia-smi does not tell"


def cuda() -> str:
    """The CUDA of PyTorch and the architectures that it has code for."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU")
    return f"{torch.version.cuda}, {' '.join(torch.cuda.get_arch_list())}"


def gpu(device: str) -> str:
    """Name, compute capability and memory of the GPU."""
    import torch

    properties = torch.cuda.get_device_properties(torch.device(device))
    capability = f"{properties.major}.{properties.minor}"
    return f"{properties.name}, {capability}, {properties.total_memory / 2**30:.0f} GiB"


def product(device: str) -> str:
    """A product of whole numbers in bf16, which is exact."""
    import torch

    numbers = (torch.arange(64 * 64) % 3 - 1).float().reshape(64, 64)
    there = numbers.to(device, torch.bfloat16)
    if not torch.equal((there @ there).float().cpu(), numbers @ numbers):
        raise ArithmeticError("it is wrong")
    return "right"


def image(setting: Any) -> Iterator[Table]:
    """One photograph through DALI's whole graph, against Pillow."""
    import numpy as np
    import torch

    from kdcache.doctor.device_trials import photograph
    from kdcache.render.opening import open_renderer

    files, box, no = [photograph()], np.array([[10, 20, 90, 120]], np.int32), np.array([False])
    pixels = []
    version = ""
    for name, device, decode in (("dali", setting.device, setting.decode), ("pillow", torch.device("cpu"), "cpu")):
        with open_renderer(name, size=64, max_batch=2, threads=2, device=device, decode=decode) as renderer:
            pixels.append(renderer.render(files, box, cubic=no, flips=no).cpu().float())
            version = version or renderer.version
    difference = float((pixels[0] - pixels[1]).abs().mean())
    what = f"{version}, DALI_USE_VMM={os.environ.get('DALI_USE_VMM', 'not set')}"
    found = f"differs from Pillow by {difference:.2f} levels in the mean (limit {MAX_DIFFERENCE})"
    yield Table("One image", ("how", "result"), (Line((what, found), difference <= MAX_DIFFERENCE),))
