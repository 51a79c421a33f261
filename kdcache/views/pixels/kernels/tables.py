"""Operations that change each value by itself, as tables of 256 entries: one pass over the pixels, whichever it is.

Five of them are known from the argument alone and are made on the host, with a few bytes an image to send; three
depend on the picture and are made where its pixels are. Formulas are those of Pillow's ImageOps and ImageEnhance.
"""

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64, UInt8
from torch import Tensor

from kdcache.views.operations import Operation
from kdcache.views.pixels.transfer import to_device

# Pillow's grey of a colour (ITU-R 601-2), in 1/65536.
_GREY_WEIGHTS = (19595, 38470, 7471)

TABLED = (
    Operation.AUTO_CONTRAST,
    Operation.EQUALIZE,
    Operation.INVERT,
    Operation.POSTERIZE,
    Operation.SOLARIZE,
    Operation.SOLARIZE_ADD,
    Operation.CONTRAST,
    Operation.BRIGHTNESS,
)
_MEASURED = (Operation.AUTO_CONTRAST, Operation.EQUALIZE, Operation.CONTRAST)


def by_table(
    pixels: UInt8[Tensor, "n 3 s s"], op: UInt8[np.ndarray, "n"], magnitude: Float32[np.ndarray, "n"]
) -> UInt8[Tensor, "n 3 s s"]:
    """Each image after its own operation, one of `TABLED`."""
    device = pixels.device
    tables = to_device(_known_tables(op, magnitude), device)[:, None].repeat(1, 3, 1)
    for code in _MEASURED:
        rows = np.flatnonzero(op == code)
        if len(rows):
            where = to_device(rows, device)
            tables[where] = _measured_tables(code, pixels[where], to_device(magnitude[rows], device))
    return _look_up(tables, pixels)


def grey(pixels: UInt8[Tensor, "n 3 s s"]) -> Int32[Tensor, "n s s"]:
    """Pillow's conversion to "L", in 0..255."""
    red, green, blue = pixels.to(torch.int32).unbind(1)
    red_weight, green_weight, blue_weight = _GREY_WEIGHTS
    return (red * red_weight + green * green_weight + blue * blue_weight + 0x8000) >> 16


def blend(
    low: Float32[Tensor, "*shape"], high: Float32[Tensor, "*shape"], factor: Float32[Tensor, "*#shape"]
) -> UInt8[Tensor, "*shape"]:
    """Pillow's Image.blend: low + factor (high - low) in single precision, clipped to 0..255, the fraction cut off."""
    return (low + factor * (high - low)).clamp_(0, 255).to(torch.uint8)


def _known_tables(op: UInt8[np.ndarray, "n"], magnitude: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 256"]:
    """The tables that need no picture; the values themselves where the operation is another."""
    value = np.arange(256, dtype=np.int64)
    tables = np.broadcast_to(value, (len(op), 256)).copy()

    tables[op == Operation.INVERT] = 255 - value

    rows = op == Operation.POSTERIZE
    dropped = 8 - np.clip(magnitude[rows, None].astype(np.int64), 0, 8)
    tables[rows] = value >> dropped << dropped

    rows = op == Operation.SOLARIZE
    tables[rows] = np.where(value < magnitude[rows, None].astype(np.int64), value, 255 - value)

    rows = op == Operation.SOLARIZE_ADD
    tables[rows] = np.where(value < 128, np.clip(value + magnitude[rows, None].astype(np.int64), 0, 255), value)

    rows = op == Operation.BRIGHTNESS
    tables[rows] = np.clip(value.astype(np.float32) * magnitude[rows, None], 0, 255)
    return tables.astype(np.uint8)


def _measured_tables(
    code: Operation, pixels: UInt8[Tensor, "n 3 s s"], magnitude: Float32[Tensor, "n"]
) -> UInt8[Tensor, "n #channels 256"]:
    if code == Operation.CONTRAST:
        return _contrast(pixels, magnitude)
    histogram = _histogram(pixels)
    return _equalize(histogram) if code == Operation.EQUALIZE else _auto_contrast(histogram)


def _histogram(pixels: UInt8[Tensor, "n 3 s s"]) -> Int64[Tensor, "n 3 256"]:
    planes = pixels.flatten(0, 1).flatten(1).to(torch.int64)
    starts = 256 * torch.arange(len(planes), device=pixels.device)
    counts = torch.zeros(256 * len(planes), dtype=torch.int64, device=pixels.device)
    places = planes.add_(starts[:, None]).flatten()
    return counts.scatter_add_(0, places, torch.ones_like(places)).view(-1, 3, 256)


def _values(like: Tensor) -> Int64[Tensor, "256"]:
    return torch.arange(256, device=like.device)


def _auto_contrast(histogram: Int64[Tensor, "n 3 256"]) -> UInt8[Tensor, "n 3 256"]:
    value = _values(histogram)
    low = torch.where(histogram > 0, value, 255).amin(-1, keepdim=True)
    high = torch.where(histogram > 0, value, 0).amax(-1, keepdim=True)
    width = (high - low).to(torch.float64)
    # Tensor by tensor: `255 / width` would be 255 times a rounded reciprocal.
    scale = torch.full_like(width, 255.0) / width.clamp(min=1.0)
    stretched = value * scale + -low * scale
    return torch.where(high > low, stretched.clamp_(0, 255).to(torch.int64), value).to(torch.uint8)


def _equalize(histogram: Int64[Tensor, "n 3 256"]) -> UInt8[Tensor, "n 3 256"]:
    value = _values(histogram)
    highest = torch.where(histogram > 0, value, 0).amax(-1, keepdim=True)
    step = (histogram.sum(-1, keepdim=True) - histogram.gather(-1, highest)) // 255
    below = histogram.cumsum(-1) - histogram
    flat = (step // 2 + below) // step.clamp(min=1)
    return torch.where(step > 0, flat.clamp_(max=255), value).to(torch.uint8)


def _contrast(pixels: UInt8[Tensor, "n 3 s s"], factor: Float32[Tensor, "n"]) -> UInt8[Tensor, "n 1 256"]:
    shades = grey(pixels).flatten(1)
    count = shades.shape[1]
    mean = (2 * shades.sum(1) + count) // (2 * count)
    value = _values(pixels).to(torch.float32).expand(len(pixels), 256)
    return blend(mean[:, None].to(torch.float32).expand_as(value), value, factor[:, None])[:, None]


def _look_up(tables: UInt8[Tensor, "n 3 256"], pixels: UInt8[Tensor, "n 3 s s"]) -> UInt8[Tensor, "n 3 s s"]:
    planes = len(pixels) * 3
    # 32-bit places: half the traffic of what `gather` asks for.
    starts = 256 * torch.arange(planes, device=pixels.device, dtype=torch.int32)
    places = pixels.to(torch.int32).view(planes, -1).add_(starts[:, None])
    return tables.view(-1).index_select(0, places.view(-1)).view_as(pixels)
