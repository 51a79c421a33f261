"""Normal random numbers from Philox, with the same bits on every device and in every batch.

They use only additions, multiplications, divisions, square roots and changes of exponent, one tensor operation each:
IEEE 754 fixes the results of these, while the libraries' logarithms and cosines differ between processors.
"""

import math

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

_MULTIPLIER_0, _MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LOW32 = 0xFFFFFFFF

#: Coefficients of the series, highest power first; the terms that are left out stay below 1e-10.
_ATANH_TERMS = tuple(1.0 / (2 * n + 1) for n in range(6, -1, -1))
_COS_TERMS = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(6, -1, -1))
_SIN_TERMS = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(6, -1, -1))


def philox(counter: Int64[Tensor, "n 4"], key: tuple[int, int]) -> Int64[Tensor, "n 4"]:
    """Philox4x32-10 of n counters of four 32-bit integers: the results of `kdcache.random.philox.philox4x32`."""
    c0, c1, c2, c3 = counter.unbind(1)
    k0, k1 = key
    for _ in range(_ROUNDS):
        high_0, low_0 = _product(_MULTIPLIER_0, c0)
        high_1, low_1 = _product(_MULTIPLIER_1, c2)
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + _WEYL_0) & _LOW32, (k1 + _WEYL_1) & _LOW32
    return torch.stack([c0, c1, c2, c3], 1)


def normals(bits: Int64[Tensor, "n 4"]) -> Float32[Tensor, "n 4"]:
    """Standard normal numbers from random 32-bit integers, two from each two (Box and Muller 1958)."""
    radius = (-2.0 * _log_of_unit(bits[:, 0::2])).sqrt()
    cos, sin = _cos_sin(bits[:, 1::2])
    return torch.stack([radius * cos, radius * sin], 2).flatten(1).to(torch.float32)


def _product(multiplier: int, factor: Int64[Tensor, "n"]) -> tuple[Int64[Tensor, "n"], Int64[Tensor, "n"]]:
    """Return the upper and the lower 32 bits of a 64-bit product, by halves, so that no signed integer overflows."""
    upper, lower = (multiplier >> 16) * factor, (multiplier & 0xFFFF) * factor
    high = (upper + (lower >> 16)) >> 16
    low = (((upper & 0xFFFF) << 16) + lower) & _LOW32
    return high, low


def _polynomial(x: Float64[Tensor, "*n"], coefficients: tuple[float, ...]) -> Float64[Tensor, "*n"]:
    """Evaluate a polynomial by Horner's scheme, in separate operations, so that none is fused."""
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x
        total = total + coefficient
    return total


def _log_of_unit(bits: Int64[Tensor, "*n"]) -> Float64[Tensor, "*n"]:
    """Return the logarithm of (w + 1/2) / 2**32, which is never 0.

    It is log(2**k m) = k log 2 + 2 atanh((m - 1) / (m + 1)), with m from 0.5 to 1.
    """
    mantissa, exponent = torch.frexp((bits.to(torch.float64) + 0.5) * 2.0**-32)
    # The mantissa moves from 0.5..1 to 0.7..1.4, because the series converges fast for a small argument.
    small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(small, mantissa * 2.0, mantissa)
    power = (exponent - small.to(exponent.dtype)).to(torch.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    return power * math.log(2.0) + 2.0 * ratio * _polynomial(ratio * ratio, _ATANH_TERMS)


def _cos_sin(bits: Int64[Tensor, "*n"]) -> tuple[Float64[Tensor, "*n"], Float64[Tensor, "*n"]]:
    """Return cosine and sine of w / 2**32 of a turn, from the nearest quarter and a rest of an eighth or less."""
    quarter = (bits + (1 << 29)) >> 30
    angle = (bits - (quarter << 30)).to(torch.float64) * (2.0 * math.pi * 2.0**-32)
    square = angle * angle
    cos, sin = _polynomial(square, _COS_TERMS), angle * _polynomial(square, _SIN_TERMS)
    odd = quarter & 1 == 1
    cos, sin = torch.where(odd, -sin, cos), torch.where(odd, cos, sin)
    opposite = quarter & 2 == 2
    return torch.where(opposite, -cos, cos), torch.where(opposite, -sin, sin)
