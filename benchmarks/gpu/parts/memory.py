"""Memory over time, with batches of large images: it must not grow once it has been taken."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gpu.page import Line, Table
from gpu.setting import Setting
from kdcache.render.base import RenderRequest
from kdcache.render.opening import open_renderer
from support.images import photograph

#: How much more memory may be taken after the last batch than after half of them, in bytes.
MAX_GROWTH = 256 << 20
#: Batches, and images of a batch: each of 12 megapixels, which are 36 MB once decoded.
BATCHES, IMAGES = 24, 16
#: Memory is read after these shares of the batches.
_READINGS = 8


def memory(setting: Setting) -> Iterator[Table]:
    """What PyTorch, the whole GPU and the host hold, batch after batch, decoding there and here."""
    file = large_image(setting)
    batches, images = (4, 2) if setting.is_tiny else (BATCHES, IMAGES)
    for decode in setting.decodes:
        lines: list[Line] = []
        taken: list[tuple[int, int]] = []
        title = (
            f"Memory with images of {setting.large[0]} x {setting.large[1]}, {images} a batch, decoded on the {decode}"
        )
        with open_renderer(
            "dali", size=setting.size, max_batch=images, device=setting.device, decode=decode
        ) as renderer:
            stream = renderer.stream(request(file, setting, images, number) for number in range(batches))
            for number, pixels in enumerate(stream, start=1):
                del pixels
                if number % max(1, batches // _READINGS) == 0:
                    setting.synchronise()
                    taken.append((device_bytes(setting), host_bytes()))
                    lines.append(Line((f"after {number} batches", *described(setting, taken[-1]))))
                    yield Table(title, ("when", "GPU", "host"), tuple(lines))
        half = len(taken) // 2
        growth = [max(0, after - before) for before, after in zip(taken[half - 1], taken[-1], strict=True)]
        what = f"growth over the second half (limit {MAX_GROWTH >> 20} MiB)"
        cells = (what, *(f"{grown / (1 << 20):,.0f} MiB" for grown in growth))
        lines.append(Line(cells, setting.limited(max(growth) <= MAX_GROWTH)))
        yield Table(title, ("when", "GPU", "host"), tuple(lines))


def large_image(setting: Setting) -> bytes:
    """A JPEG as a camera makes them."""
    file = io.BytesIO()
    photograph().resize(setting.large, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def request(file: bytes, setting: Setting, images: int, number: int) -> RenderRequest:
    """A request for random halves of the image."""
    draws = np.random.default_rng(number)
    width, height = setting.large
    boxes = np.array(
        [(draws.integers(height // 2), draws.integers(width // 2), height // 2, width // 2) for _ in range(images)],
        np.int32,
    )
    no = np.zeros(images, bool)
    return RenderRequest([file] * images, boxes, cubic=no, flips=no)


def device_bytes(setting: Setting) -> int:
    """Bytes of the GPU that all processes hold, DALI's pool among them; 0 without one. No NVML is needed for it."""
    if not setting.on_gpu:
        return 0
    free, total = torch.cuda.mem_get_info(setting.device)
    return int(total - free)


def host_bytes() -> int:
    """Resident bytes of this process."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def described(setting: Setting, taken: tuple[int, int]) -> tuple[str, str]:
    """The cells of a reading."""
    device, host = taken
    if not setting.on_gpu:
        return "none", f"{host / 2**30:.2f} GiB"
    stats = torch.cuda.memory_stats(setting.device)
    tensors, reserved = stats["allocated_bytes.all.peak"], stats["reserved_bytes.all.current"]
    return (
        f"{device / 2**30:.2f} GiB in all; PyTorch reserves {reserved / 2**30:.2f}, tensors at most "
        f"{tensors / 2**30:.2f}",
        f"{host / 2**30:.2f} GiB",
    )
