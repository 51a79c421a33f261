"""Operations that replace each value by another: tables of 256 entries, and one pass over the pixels for all of them.

A table that follows from the argument alone is computed on the host, with a few bytes an image to send; one that
depends on the image is computed where its pixels are. Formulas are those of Pillow's ImageOps and ImageEnhance.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64, UInt8
from PIL import Image
from timm.data import auto_augment as timm_operations
from torch import Tensor

from kdcache.views.pixels.kernels.binding import FixedTable, Kernels, MeasuredTable

#: Pillow's weights of red, green and blue in a grey value (ITU-R 601-2), in 1/65536.
_GREY_WEIGHTS = (19595, 38470, 7471)

#: int64 [256]: every value that a channel can have.
_VALUES = np.arange(256)


def grey(pixels: UInt8[Tensor, "n 3 s s"]) -> Int32[Tensor, "n s s"]:
    """Pillow's conversion to the mode "L": grey values in 0..255."""
    red, green, blue = pixels.to(torch.int32).unbind(1)
    red_weight, green_weight, blue_weight = _GREY_WEIGHTS
    return (red * red_weight + green * green_weight + blue * blue_weight + 0x8000) >> 16


def blend(
    low: Float32[Tensor, "*shape"], high: Float32[Tensor, "*shape"], factor: Float32[Tensor, "*#shape"]
) -> UInt8[Tensor, "*shape"]:
    """Blend as Pillow's Image.blend: low + factor (high - low) in single precision, clipped to 0..255 and cut off."""
    return (low + factor * (high - low)).clamp_(0, 255).to(torch.uint8)


def look_up(tables: UInt8[Tensor, "n 3 256"], pixels: UInt8[Tensor, "n 3 s s"]) -> UInt8[Tensor, "n 3 s s"]:
    """Replace each value by the entry of its image's and channel's table."""
    planes = len(pixels) * 3
    # Places of 32 bits: half the memory traffic of the 64-bit places that `gather` needs.
    starts = 256 * torch.arange(planes, device=pixels.device, dtype=torch.int32)
    places = pixels.to(torch.int32).view(planes, -1).add_(starts[:, None])
    return tables.view(-1).index_select(0, places.view(-1)).view_as(pixels)


def _whole(argument: Float32[np.ndarray, "n"]) -> Int64[np.ndarray, "n 1"]:
    return argument[:, None].astype(np.int64)


def _invert(argument: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 256"]:
    return np.broadcast_to(_VALUES[::-1], (len(argument), 256)).astype(np.uint8)


def _posterize(bits: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 256"]:
    dropped = 8 - np.clip(_whole(bits), 0, 8)
    return (_VALUES >> dropped << dropped).astype(np.uint8)


def _solarize(threshold: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 256"]:
    return np.where(_whole(threshold) > _VALUES, _VALUES, 255 - _VALUES).astype(np.uint8)


def _solarize_add(amount: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 256"]:
    return np.where(_VALUES < 128, np.clip(_VALUES + _whole(amount), 0, 255), _VALUES).astype(np.uint8)


def _brightness(factor: Float32[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 256"]:
    return np.clip(_VALUES.astype(np.float32) * factor[:, None], 0, 255).astype(np.uint8)


def _histogram(pixels: UInt8[Tensor, "n 3 s s"]) -> Int64[Tensor, "n 3 256"]:
    """Return how often each value stands in each channel."""
    planes = pixels.flatten(0, 1).flatten(1).to(torch.int64)
    starts = 256 * torch.arange(len(planes), device=pixels.device)
    counts = torch.zeros(256 * len(planes), dtype=torch.int64, device=pixels.device)
    places = planes.add_(starts[:, None]).flatten()
    return counts.scatter_add_(0, places, torch.ones_like(places)).view(-1, 3, 256)


def _values(like: Tensor) -> Int64[Tensor, "256"]:
    """Return the values 0..255 on the device of `like`."""
    return torch.arange(256, device=like.device)


def _auto_contrast(pixels: UInt8[Tensor, "n 3 s s"], argument: Float32[Tensor, "n"]) -> UInt8[Tensor, "n 3 256"]:
    histogram = _histogram(pixels)
    value = _values(histogram)
    low = torch.where(histogram > 0, value, 255).amin(-1, keepdim=True)
    high = torch.where(histogram > 0, value, 0).amax(-1, keepdim=True)
    width = (high - low).to(torch.float64)
    # A tensor divides a tensor: torch computes `255 / width` as 255 times a rounded reciprocal.
    scale = torch.full_like(width, 255.0) / width.clamp(min=1.0)
    stretched = value * scale + -low * scale
    return torch.where(high > low, stretched.clamp_(0, 255).to(torch.int64), value).to(torch.uint8)


def _equalize(pixels: UInt8[Tensor, "n 3 s s"], argument: Float32[Tensor, "n"]) -> UInt8[Tensor, "n 3 256"]:
    histogram = _histogram(pixels)
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


def _posterize_image(image: Image.Image, bits: float) -> Image.Image:
    # timm asks for 0 bits at the largest magnitude, which means black and which Pillow refuses since version 13.
    return timm_operations.posterize(image, int(bits)) if bits >= 1 else Image.new(image.mode, image.size)


def _with_whole_argument(
    operation: Callable[[Image.Image, int], Image.Image], image: Image.Image, argument: float
) -> Image.Image:
    return operation(image, int(argument))


def _without_argument(
    operation: Callable[[Image.Image], Image.Image], image: Image.Image, argument: float
) -> Image.Image:
    return operation(image)


#: Kernels by the name of their operation.
KERNELS = {
    "AUTO_CONTRAST": Kernels(
        pillow=partial(_without_argument, timm_operations.auto_contrast), batched=MeasuredTable(_auto_contrast)
    ),
    "EQUALIZE": Kernels(pillow=partial(_without_argument, timm_operations.equalize), batched=MeasuredTable(_equalize)),
    "INVERT": Kernels(pillow=partial(_without_argument, timm_operations.invert), batched=FixedTable(_invert)),
    "POSTERIZE": Kernels(pillow=_posterize_image, batched=FixedTable(_posterize)),
    "SOLARIZE": Kernels(pillow=partial(_with_whole_argument, timm_operations.solarize), batched=FixedTable(_solarize)),
    "SOLARIZE_ADD": Kernels(
        pillow=partial(_with_whole_argument, timm_operations.solarize_add), batched=FixedTable(_solarize_add)
    ),
    "CONTRAST": Kernels(pillow=timm_operations.contrast, batched=MeasuredTable(_contrast)),
    "BRIGHTNESS": Kernels(pillow=timm_operations.brightness, batched=FixedTable(_brightness)),
}
