"""Decoding on the GPU against decoding on the CPU, by kind of image."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

from gpu.page import Line, Table, cause
from gpu.setting import Setting, spread
from kdcache.render.base import RenderRequest
from kdcache.render.opening import open_renderer
from kdcache.views.plan import make_plan
from kdcache.views.policy import Policy
from support.images import PHOTOGRAPHS, encode, photograph, png_of_16_bit_rgb

#: Mean difference, in levels of 0..255, up to which a teacher's targets for one decoding may be used with the other.
MOST = 0.5

KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 4:4:4": lambda photo: encode(photo, "JPEG", quality=90, subsampling=0),
    "JPEG 4:2:2": lambda photo: encode(photo, "JPEG", quality=90, subsampling=1),
    "JPEG 4:2:0": lambda photo: encode(photo, "JPEG", quality=90, subsampling=2),
    "JPEG 4:2:0, progressive": lambda photo: encode(photo, "JPEG", quality=90, progressive=True),
    "JPEG 4:2:0, quality 50": lambda photo: encode(photo, "JPEG", quality=50),
    "JPEG, grey": lambda photo: encode(photo.convert("L"), "JPEG", quality=90),
    "JPEG, CMYK": lambda photo: encode(photo.convert("CMYK"), "JPEG", quality=90),
    "PNG": lambda photo: encode(photo, "PNG"),
    "PNG, grey": lambda photo: encode(photo.convert("L"), "PNG"),
    "PNG, palette": lambda photo: encode(photo.quantize(200), "PNG"),
    "PNG, alpha": lambda photo: encode(_transparent(photo), "PNG"),
    "PNG, 16 bits": lambda photo: png_of_16_bit_rgb(np.asarray(photo).astype(np.uint16) * 257),
    "WebP": lambda photo: encode(photo, "WEBP"),
}


def _transparent(photo: Image.Image) -> Image.Image:
    photo = photo.copy()
    photo.putalpha(photo.convert("L"))
    return photo


def decoding(setting: Setting) -> Iterator[Table]:
    """Slices show decoding alone; crops are resized in the same place, with both filters."""
    here, there = ("the GPU", "the CPU") if setting.on_gpu else ("the CPU by DALI", "the CPU by Pillow")
    title = f"Decoded on {here} against decoded on {there}"
    header = (
        f"kind (limit: a mean of {MOST} levels)",
        "slices: mean / 99th percentile / largest",
        "crops: mean / 99th percentile / largest",
    )
    if setting.on_gpu and "gpu" not in setting.decodes:
        yield Table(title, header, (Line(("all", "left out: decoding on the GPU does not work here", ""), False),))
        return
    lines: list[Line] = []
    for kind, make in KINDS.items():
        encoded = [make(photograph(name)) for name in PHOTOGRAPHS]
        try:
            sliced, cropped = (difference(setting, one) for one in (slices(setting, encoded), crops(setting, encoded)))
        except Exception as error:
            lines.append(Line((kind, cause(error), ""), False))
        else:
            holds = bool(sliced.mean() <= MOST and cropped.mean() <= MOST)
            lines.append(Line((kind, spread(sliced), spread(cropped)), holds))
        yield Table(title, header, tuple(lines))


def slices(setting: Setting, encoded: list[bytes]) -> RenderRequest:
    """Return a request for parts of the photographs that need no resize."""
    draws = np.random.default_rng(0)
    boxes, files = [], []
    for name, file in zip(PHOTOGRAPHS, encoded, strict=True):
        photo = photograph(name)
        for _ in range(setting.crops):
            top = draws.integers(photo.height - setting.size + 1)
            left = draws.integers(photo.width - setting.size + 1)
            boxes.append((top, left, setting.size, setting.size))
            files.append(file)
    no = np.zeros(len(files), bool)
    return RenderRequest(files, np.array(boxes, np.int32), cubic=no, flips=no)


def crops(setting: Setting, encoded: list[bytes]) -> RenderRequest:
    """Random resized crops, flipped or not, with either filter."""
    count = len(encoded) * setting.crops
    keys = np.random.default_rng(1).integers(0, 1 << 63, count).astype(np.uint64)
    sides = np.array([photograph(name).size[::-1] for name in PHOTOGRAPHS]).repeat(setting.crops, axis=0)
    plan = make_plan(Policy(interpolation="random"), 0, 0, keys, *sides.T)
    files = [encoded[i // setting.crops] for i in range(count)]
    return RenderRequest(files, plan.box, cubic=plan.cubic, flips=plan.flip)


def difference(setting: Setting, one: RenderRequest) -> torch.Tensor:
    """Absolute differences between DALI where `setting` says and the CPU; DALI's own CPU where that is a GPU."""
    reference = "dali" if setting.device.type == "cuda" else "pillow"
    pixels = []
    for name, device in (("dali", setting.device), (reference, torch.device("cpu"))):
        with open_renderer(name, size=setting.size, max_batch=len(one), device=device) as renderer:
            pixels.append(
                renderer.render(one.encoded, one.boxes, cubic=one.cubic, flips=one.flips).cpu().to(torch.int16)
            )
    return (pixels[0] - pixels[1]).abs().float()
