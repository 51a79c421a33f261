"""Operations that read the pixel itself or those around it: tables, blends with grey and with a smoothed image, hue.

The arithmetic is that of torch's kernels in `kdcache.views.pixels.kernels`, which is Pillow's, one rounding after the
other; what lies between reading a byte and writing one stays in registers.
"""

from enum import IntEnum

import numpy as np
import triton
import triton.language as tl
from jaxtyping import Float32, Int32, UInt8
from torch import Tensor

from kdcache.runtime.transfer import array_to_device
from kdcache.views.pixels.fused.launch import launch

#: Pixels of an image that one program computes, in all three channels.
_BLOCK = 1024
#: Values that a program of `measure_kernel` counts at a time.
_COUNTED = 4096


class Way(IntEnum):
    """How an image is changed."""

    TABLE = 0
    COLOUR = 1
    SHARPNESS = 2
    HUE = 3


class Measure(IntEnum):
    """What a table is measured for."""

    AUTO_CONTRAST = 0
    EQUALIZE = 1
    CONTRAST = 2


_COLOUR = tl.constexpr(int(Way.COLOUR))
_SHARPNESS = tl.constexpr(int(Way.SHARPNESS))
_AUTO_CONTRAST = tl.constexpr(int(Measure.AUTO_CONTRAST))
_EQUALIZE = tl.constexpr(int(Measure.EQUALIZE))


def change_values(
    source: UInt8[Tensor, "_sources 3 s s"],
    target: UInt8[Tensor, "_targets 3 s s"],
    rows: Int32[np.ndarray, "n 3"],
    factor: Float32[np.ndarray, "n"],
    tables: UInt8[Tensor, "n 3 256"],
) -> None:
    """Change each image by its way, in one launch; images whose hue turns take a second.

    Args:
        source: images.
        target: images that are written; no row of it is a row that is read.
        rows: row of the source, row of the target and `Way` of each image.
        factor: factor of a blend, or whole steps of 1/255 of a turn of the hue.
        tables: tables of each image's channels, obeyed where its way is `TABLE`.
    """
    size = source.shape[-1]
    items = np.concatenate([rows, factor[:, None].view(np.int32)], axis=1)
    turned = rows[:, 2] == Way.HUE
    grid = triton.cdiv(size * size, _BLOCK)
    if not turned.all():
        chosen = array_to_device(np.ascontiguousarray(items[~turned]), source.device)
        kept = tables if not turned.any() else tables[array_to_device(np.flatnonzero(~turned), source.device)]
        launch(values_kernel, (len(chosen), grid), source, target, chosen, kept, size, block=_BLOCK)
    if turned.any():
        chosen = array_to_device(np.ascontiguousarray(items[turned]), source.device)
        launch(hue_kernel, (len(chosen), grid), source, target, chosen, size, block=_BLOCK)


def measure_tables(
    source: UInt8[Tensor, "_sources 3 s s"],
    tables: UInt8[Tensor, "n 3 256"],
    items: Int32[np.ndarray, "m 3"],
    factor: Float32[np.ndarray, "m"],
) -> None:
    """Write the tables that depend on the image, in one launch.

    Args:
        source: images.
        tables: tables of which some rows are written.
        items: row of the source, row of the tables and `Measure` of each image.
        factor: factor of contrast; without meaning for the others.
    """
    size = source.shape[-1]
    whole = np.concatenate([items, factor[:, None].view(np.int32)], axis=1)
    sent = array_to_device(whole, source.device)
    launch(measure_kernel, (len(items), 3), source, tables, sent, size * size, block=_COUNTED)


@triton.jit
def _grey(red, green, blue):
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


@triton.jit
def _blend(low, high, factor):
    mixed = low + factor * (high - low)
    return tl.minimum(tl.maximum(mixed, 0.0), 255.0).to(tl.int32).to(tl.uint8)


@triton.jit
def _smoothed(plane, place, valid, size):
    """Return the mean of nine with the centre counted five times; a border pixel stays."""
    row = place // size
    column = place % size
    inner = valid & (row > 0) & (row < size - 1) & (column > 0) & (column < size - 1)
    centre = tl.load(plane + place, mask=valid, other=0).to(tl.int32)
    total = 4 * centre
    for down in tl.static_range(-1, 2):
        for across in tl.static_range(-1, 2):
            total += tl.load(plane + place + down * size + across, mask=inner, other=0).to(tl.int32)
    return centre, tl.where(inner, (2 * total + 13) // 26, centre)


@triton.jit
def values_kernel(source, target, items, tables, size, block: tl.constexpr):
    item = tl.program_id(0)
    area = size * size
    here = source + tl.load(items + 4 * item).to(tl.int64) * 3 * area
    there = target + tl.load(items + 4 * item + 1).to(tl.int64) * 3 * area
    way = tl.load(items + 4 * item + 2)
    factor = tl.load(items + 4 * item + 3).to(tl.float32, bitcast=True)
    place = tl.program_id(1) * block + tl.arange(0, block)
    valid = place < area
    if way == _COLOUR:
        red = tl.load(here + place, mask=valid, other=0).to(tl.int32)
        green = tl.load(here + area + place, mask=valid, other=0).to(tl.int32)
        blue = tl.load(here + 2 * area + place, mask=valid, other=0).to(tl.int32)
        shade = _grey(red, green, blue).to(tl.float32)
        tl.store(there + place, _blend(shade, red.to(tl.float32), factor), mask=valid)
        tl.store(there + area + place, _blend(shade, green.to(tl.float32), factor), mask=valid)
        tl.store(there + 2 * area + place, _blend(shade, blue.to(tl.float32), factor), mask=valid)
    elif way == _SHARPNESS:
        for channel in tl.static_range(3):
            centre, smooth = _smoothed(here + channel * area, place, valid, size)
            sharp = _blend(smooth.to(tl.float32), centre.to(tl.float32), factor)
            tl.store(there + channel * area + place, sharp, mask=valid)
    else:
        for channel in tl.static_range(3):
            value = tl.load(here + channel * area + place, mask=valid, other=0).to(tl.int32)
            entry = tl.load(tables + (item * 3 + channel) * 256 + value, mask=valid, other=0)
            tl.store(there + channel * area + place, entry, mask=valid)


@triton.jit
def _histogram(plane, area, block: tl.constexpr):
    counts = tl.zeros([256], dtype=tl.int32)
    for start in range(0, area, block):
        place = start + tl.arange(0, block)
        value = tl.load(plane + place, mask=place < area, other=0).to(tl.int32)
        counts += tl.histogram(value, 256, mask=place < area)
    return counts


@triton.jit
def _auto_contrast(counts, value):
    low = tl.min(tl.where(counts > 0, value, 255), axis=0)
    high = tl.max(tl.where(counts > 0, value, 0), axis=0)
    width = tl.maximum(high - low, 1).to(tl.float64)
    scale = tl.full([], 255.0, tl.float64) / width
    stretched = value.to(tl.float64) * scale + (-low).to(tl.float64) * scale
    whole = tl.minimum(tl.maximum(stretched, 0.0), 255.0).to(tl.int32)
    return tl.where(high > low, whole, value)


@triton.jit
def _equalize(counts, value):
    highest = tl.max(tl.where(counts > 0, value, 0), axis=0)
    step = (tl.sum(counts, axis=0) - tl.sum(tl.where(value == highest, counts, 0), axis=0)) // 255
    below = tl.cumsum(counts, axis=0) - counts
    flat = (step // 2 + below) // tl.maximum(step, 1)
    return tl.where(step > 0, tl.minimum(flat, 255), value)


@triton.jit
def _mean_grey(image, area, block: tl.constexpr):
    total = tl.zeros([block], dtype=tl.int32)
    for start in range(0, area, block):
        place = start + tl.arange(0, block)
        valid = place < area
        red = tl.load(image + place, mask=valid, other=0).to(tl.int32)
        green = tl.load(image + area + place, mask=valid, other=0).to(tl.int32)
        blue = tl.load(image + 2 * area + place, mask=valid, other=0).to(tl.int32)
        total += _grey(red, green, blue)
    whole = tl.sum(total.to(tl.int64), axis=0)
    return (2 * whole + area) // (tl.full([], 2, tl.int64) * area)


@triton.jit
def measure_kernel(source, tables, items, area, block: tl.constexpr):
    item = tl.program_id(0)
    channel = tl.program_id(1)
    image = source + tl.load(items + 4 * item).to(tl.int64) * 3 * area
    table = tables + (tl.load(items + 4 * item + 1) * 3 + channel) * 256
    measure = tl.load(items + 4 * item + 2)
    value = tl.arange(0, 256)
    if measure == _AUTO_CONTRAST:
        counts = _histogram(image + channel * area, area, block)
        tl.store(table + value, _auto_contrast(counts, value).to(tl.uint8))
    elif measure == _EQUALIZE:
        counts = _histogram(image + channel * area, area, block)
        tl.store(table + value, _equalize(counts, value).to(tl.uint8))
    elif channel == 0:
        factor = tl.load(items + 4 * item + 3).to(tl.float32, bitcast=True)
        shade = _mean_grey(image, area, block).to(tl.float32)
        entry = _blend(shade, value.to(tl.float32), factor)
        for each in tl.static_range(3):
            tl.store(table + each * 256 + value, entry)


@triton.jit
def _shade(height, loss):
    """Rounded half away from zero, as C does."""
    return tl.minimum(tl.maximum(tl.floor(height * (1.0 - loss) + 0.5), 0.0), 255.0).to(tl.int32)


@triton.jit
def _to_hsv(red, green, blue):
    """Hue, saturation and value of each pixel, each in 0..255."""
    highest = tl.maximum(tl.maximum(red, green), blue)
    lowest = tl.minimum(tl.minimum(red, green), blue)
    spread = tl.maximum(highest - lowest, 1.0)  # 1 where grey: its hue and saturation come out as 0
    from_red = tl.div_rn(highest - red, spread)
    from_green = tl.div_rn(highest - green, spread)
    from_blue = tl.div_rn(highest - blue, spread)
    in_green = (from_red.to(tl.float64) + 2.0 - from_blue.to(tl.float64)).to(tl.float32)
    in_blue = (from_green.to(tl.float64) + 4.0 - from_red.to(tl.float64)).to(tl.float32)
    sixths = tl.where(red == highest, from_blue - from_green, tl.where(green == highest, in_green, in_blue))
    turns = sixths.to(tl.float64) / 6.0 + 1.0
    turns = (turns - tl.floor(turns)).to(tl.float32)
    saturation = tl.div_rn(highest - lowest, tl.maximum(highest, 1.0))
    hue = (turns.to(tl.float64) * 255.0).to(tl.int32)
    return hue, (saturation.to(tl.float64) * 255.0).to(tl.int32), highest.to(tl.int32)


@triton.jit
def _of_sector(sector, height, falling, low, rising):
    """Return what a sector shows as red; green and blue follow two and four sectors behind."""
    second = tl.where(sector == 1, falling, tl.where(sector == 4, rising, low))
    return tl.where((sector == 0) | (sector == 5), height, second)


@triton.jit
def hue_kernel(source, target, items, size, block: tl.constexpr):
    item = tl.program_id(0)
    area = size * size
    place = tl.program_id(1) * block + tl.arange(0, block)
    valid = place < area
    here = source + tl.load(items + 4 * item).to(tl.int64) * 3 * area + place
    there = target + tl.load(items + 4 * item + 1).to(tl.int64) * 3 * area + place
    steps = tl.load(items + 4 * item + 3).to(tl.float32, bitcast=True).to(tl.int32)
    red = tl.load(here, mask=valid, other=0).to(tl.float32)
    green = tl.load(here + area, mask=valid, other=0).to(tl.float32)
    blue = tl.load(here + 2 * area, mask=valid, other=0).to(tl.float32)
    hue, saturation, height = _to_hsv(red, green, blue)
    sixths = ((hue + steps) & 255).to(tl.float64) * 6.0 / 255.0
    whole = tl.floor(sixths)
    part = (sixths - whole).to(tl.float32)
    strength = (saturation.to(tl.float64) / 255.0).to(tl.float32)
    value = height.to(tl.float64)
    low = _shade(value, strength.to(tl.float64))
    falling = _shade(value, (strength * part).to(tl.float64))
    rising = _shade(value, strength.to(tl.float64) * (1.0 - part.to(tl.float64)))
    sector = whole.to(tl.int32) % 6
    for channel in tl.static_range(3):
        shown = _of_sector((sector + (6 - 2 * channel) % 6) % 6, height, falling, low, rising)
        tl.store(there + channel * area, shown.to(tl.uint8), mask=valid)
