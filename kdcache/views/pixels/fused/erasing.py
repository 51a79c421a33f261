"""Erasing in one launch: Philox, its normal numbers and the colours stay in registers.

The arithmetic is that of `kdcache.views.pixels.noise` and `erase`: additions, multiplications, divisions and square
roots in the same order, each rounded once.
"""

import math

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32, UInt8, UInt64
from torch import Tensor

from kdcache.random.philox import Stream
from kdcache.runtime.transfer import array_to_device
from kdcache.views.pixels.fused.launch import launch
from kdcache.views.policy import Policy

#: Pixels of an image that one program computes, in all three channels.
_BLOCK = 512
_CONST, _RAND, _PIXEL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_MODES = {"const": 0, "rand": 1, "pixel": 2}

_KEY = tl.constexpr(int(Stream.NOISE))
_LOW32 = tl.constexpr(0xFFFFFFFF)
_MULTIPLIER_0, _MULTIPLIER_1 = tl.constexpr(0xD2511F53), tl.constexpr(0xCD9E8D57)
_WEYL_0, _WEYL_1 = tl.constexpr(0x9E3779B9), tl.constexpr(0xBB67AE85)
_LOG_2 = tl.constexpr(math.log(2.0))
_SQRT_HALF = tl.constexpr(math.sqrt(0.5))
_TURN = tl.constexpr(2.0 * math.pi * 2.0**-32)
_UNIT = tl.constexpr(2.0**-32)
#: Fields of a double: exponent, its bias for a mantissa from 0.5 to 1, and the bits of that mantissa.
_EXPONENT, _BIAS = tl.constexpr(0x7FF), tl.constexpr(1022)
_MANTISSA, _HALF = tl.constexpr(0x000FFFFFFFFFFFFF), tl.constexpr(0x3FE0000000000000)


def erase_boxes(
    pixels: UInt8[Tensor, "b 3 s s"],
    boxes: Int32[np.ndarray, "b boxes 4"],
    noise: UInt64[np.ndarray, "b"],
    policy: Policy,
) -> Float32[Tensor, "b 3 s s"]:
    """Return the images as float32 with their boxes filled by colours.

    Args:
        pixels: images, which are not changed.
        boxes: top, left, bottom, right in pixels of the images; a later box covers an earlier one.
        noise: random bits of each row, `Plan.noise`.
        policy: policy with the mode, the mean and the deviation of the colours.
    """
    size, device = pixels.shape[-1], pixels.device
    given = pixels.contiguous()
    out = torch.empty_like(given, dtype=torch.float32)
    halves = np.stack([noise & np.uint64(0xFFFFFFFF), noise >> np.uint64(32)], axis=1).astype(np.int64)
    colours = np.array([policy.fill, policy.erase_std], np.float64)
    sent = [array_to_device(each, device) for each in (np.ascontiguousarray(boxes), halves, colours)]
    grid = (len(pixels), triton.cdiv(size * size, _BLOCK))
    constants = {"boxes_a_row": boxes.shape[1], "mode": _MODES[policy.erase_mode], "block": _BLOCK}
    launch(erase_kernel, grid, given, out, *sent, size, **constants)
    return out


@triton.jit
def _philox(c0, c1, c2, c3):
    """Philox4x32-10 of counters in 64-bit integers, of which the lower half is used."""
    for number in tl.static_range(10):
        first = c0 * _MULTIPLIER_0
        second = c2 * _MULTIPLIER_1
        c0 = ((second >> 32) & _LOW32) ^ c1 ^ ((number * _WEYL_0) & _LOW32)
        c2 = ((first >> 32) & _LOW32) ^ c3 ^ ((_KEY + number * _WEYL_1) & _LOW32)
        c1 = second & _LOW32
        c3 = first & _LOW32
    return c0, c1, c2, c3


@triton.jit
def _polynomial(
    x,
    c0: tl.constexpr,
    c1: tl.constexpr,
    c2: tl.constexpr,
    c3: tl.constexpr,
    c4: tl.constexpr,
    c5: tl.constexpr,
    c6: tl.constexpr,
):
    total = x * c0 + c1
    total = total * x + c2
    total = total * x + c3
    total = total * x + c4
    total = total * x + c5
    return total * x + c6


@triton.jit
def _log_of_unit(bits):
    """Return the logarithm of (bits + 1/2) / 2**32."""
    number = ((bits.to(tl.float64) + 0.5) * _UNIT).to(tl.int64, bitcast=True)
    exponent = ((number >> 52) & _EXPONENT) - _BIAS
    mantissa = ((number & _MANTISSA) | _HALF).to(tl.float64, bitcast=True)
    # Triton would round a number that a tensor is compared with to single precision.
    small = mantissa < tl.full([], _SQRT_HALF, tl.float64)
    mantissa = tl.where(small, mantissa * 2.0, mantissa)
    power = (exponent - small.to(tl.int64)).to(tl.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    series = _polynomial(ratio * ratio, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3, 1.0)
    return power * _LOG_2 + 2.0 * ratio * series


@triton.jit
def _cos_sin(bits):
    """Return the cosine and the sine of bits / 2**32 of a turn."""
    quarter = (bits + (1 << 29)) >> 30
    angle = (bits - (quarter << 30)).to(tl.float64) * _TURN
    square = angle * angle
    cos = _polynomial(square, 1.0 / 479001600, -1.0 / 3628800, 1.0 / 40320, -1.0 / 720, 1.0 / 24, -1.0 / 2, 1.0)
    sin = angle * _polynomial(
        square, 1.0 / 6227020800, -1.0 / 39916800, 1.0 / 362880, -1.0 / 5040, 1.0 / 120, -1.0 / 6, 1.0
    )
    odd = (quarter & 1) == 1
    turned_cos = tl.where(odd, -sin, cos)
    turned_sin = tl.where(odd, cos, sin)
    opposite = (quarter & 2) == 2
    return tl.where(opposite, -turned_cos, turned_cos), tl.where(opposite, -turned_sin, turned_sin)


@triton.jit
def _three_normals(low, high, place, number: tl.constexpr):
    """Three standard normal numbers for each place, rounded to single precision."""
    zero = tl.zeros_like(place)
    w0, w1, w2, w3 = _philox(zero + low, zero + high, place, zero + number)
    radius = tl.sqrt(-2.0 * _log_of_unit(w0))
    cos, sin = _cos_sin(w1)
    other_radius = tl.sqrt(-2.0 * _log_of_unit(w2))
    other_cos, _other_sin = _cos_sin(w3)
    return (radius * cos).to(tl.float32), (radius * sin).to(tl.float32), (other_radius * other_cos).to(tl.float32)


@triton.jit
def _colour(colours, channel: tl.constexpr, normal):
    mean = tl.load(colours + channel)
    deviation = tl.load(colours + 3 + channel)
    return (mean + deviation * normal.to(tl.float64)).to(tl.float32)


@triton.jit
def erase_kernel(
    source,
    target,
    boxes,
    noise,
    colours,
    size,
    boxes_a_row: tl.constexpr,
    mode: tl.constexpr,
    block: tl.constexpr,
):
    item = tl.program_id(0)
    area = size * size
    start = item.to(tl.int64) * 3 * area
    place = tl.program_id(1) * block + tl.arange(0, block)
    valid = place < area
    row = place // size
    column = place % size
    red = tl.load(source + start + place, mask=valid, other=0).to(tl.float32)
    green = tl.load(source + start + area + place, mask=valid, other=0).to(tl.float32)
    blue = tl.load(source + start + 2 * area + place, mask=valid, other=0).to(tl.float32)
    for number in tl.static_range(boxes_a_row):
        box = boxes + (item * boxes_a_row + number) * 4
        inside = (row >= tl.load(box)) & (column >= tl.load(box + 1)) & valid
        inside = inside & (row < tl.load(box + 2)) & (column < tl.load(box + 3))
        # Most programs have no pixel in a box, and need no random numbers.
        if tl.max(inside.to(tl.int32), axis=0) > 0:
            one = tl.zeros_like(red)
            two = tl.zeros_like(red)
            three = tl.zeros_like(red)
            if mode != _CONST:
                where = place.to(tl.int64) if mode == _PIXEL else tl.zeros_like(place).to(tl.int64)
                one, two, three = _three_normals(
                    tl.load(noise + 2 * item), tl.load(noise + 2 * item + 1), where, number
                )
            red = tl.where(inside, _colour(colours, 0, one), red)
            green = tl.where(inside, _colour(colours, 1, two), green)
            blue = tl.where(inside, _colour(colours, 2, three), blue)
    tl.store(target + start + place, red, mask=valid)
    tl.store(target + start + area + place, green, mask=valid)
    tl.store(target + start + 2 * area + place, blue, mask=valid)
