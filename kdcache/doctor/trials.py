"""What the doctor tries in a process of its own: `python -m kdcache.doctor.trials NAME ARGUMENTS...`.

Each trial loads only what it tries, and prints what it returns as JSON. An error is printed as a failure; what kills
the process speaks for itself.
"""

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


def compute() -> Answer:
    """PyTorch computes on the CPU; what it knows of GPUs, and with how many threads a job would compute."""
    import torch

    from kdcache.device import cores
    from kdcache.errors import UsageError

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


def compute_on_gpus() -> Answer:
    """PyTorch computes on every GPU: what they are, and which of them had no memory left."""
    import torch

    gpus, full = [], []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        gpus.append({"name": properties.name, "memory": properties.total_memory})
        try:
            _require_right(f"cuda:{number}")
        except torch.cuda.OutOfMemoryError:
            full.append(number)
    return {"gpus": gpus, "full": full}


def _require_right(device: str) -> None:
    """A product and a convolution of small whole numbers, which every precision computes exactly."""
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


def decode(where: str) -> Answer:
    """DALI decodes a JPEG on the "cpu" or the "gpu"; by how many of 255 levels it differs from Pillow, on average."""
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
    except RuntimeError as error:  # torch's and DALI's own words for a GPU that others have filled
        if "out of memory" not in str(error).lower():
            raise
        return {"full": True}
    return {"full": False, "version": version, "difference": (pixels.float() - expected.float()).abs().mean().item()}


def photograph() -> bytes:
    """A JPEG of 160 x 120 pixels with soft shapes in three colours."""
    import io

    import numpy as np
    from PIL import Image

    down, across = np.mgrid[:120, :160] / 40
    colours = np.stack([np.sin(down + across), np.cos(2 * down - across), np.sin(across) * np.cos(down)], axis=-1)
    file = io.BytesIO()
    Image.fromarray((127.5 + 120 * colours).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def folder(path: str) -> Answer:
    """Whether files can be made in a folder, or in the nearest one above it that exists, and the bytes free there."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0")
            file.flush()
        writable = True
    except OSError:
        writable = False
    disk = os.statvfs(place)
    return {"place": str(place), "writable": writable, "free": disk.f_bavail * disk.f_frsize}


def anything(path: str) -> Answer:
    """Whether there is anything at a path: a file, or a folder that is not empty."""
    return {"there": bool(os.listdir(path)) if os.path.isdir(path) else os.path.exists(path)}


def data(path: str) -> Answer:
    """How many shards DATA names, all of which exist; the first one can be read."""
    from kdcache.data.shards import expand_data, open_shard

    shards = expand_data(path)
    with open_shard(shards[0]) as file:
        file.read(512, 0)
    return {"shards": len(shards)}


def cache(path: str) -> Answer:
    """Which teachers' answers a cache holds; None where there is no cache yet, and "foreign" for what is there."""
    from kdcache.cache.store import Cache

    if Cache.exists(path):
        return {"teachers": sorted(Cache.open(path).teachers())}
    there = sorted(os.listdir(path)) if os.path.isdir(path) else []
    return {"teachers": None, "foreign": there[:1]}


def weights() -> Answer:
    """Where the Hugging Face hub's files are kept."""
    from huggingface_hub import constants

    return {"path": constants.HF_HUB_CACHE, "offline": bool(constants.HF_HUB_OFFLINE)}


TRIALS: dict[str, Callable[..., Answer]] = {
    trial.__name__: trial for trial in (compute, compute_on_gpus, decode, folder, anything, data, cache, weights)
}


def main(name: str, *arguments: str) -> None:
    """Print how a trial ended as one JSON object, and nothing else: stdout belongs to it alone."""
    from kdcache.errors import KdcacheError, reason

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        said: Answer = {"answer": TRIALS[name](*arguments), "failure": None}
    except KdcacheError as error:
        said = {"answer": {}, "failure": str(error)}
    except Exception as error:
        said = {"answer": {}, "failure": f"{type(error).__name__}: {reason(error)}"}
    with out:
        json.dump(said, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
