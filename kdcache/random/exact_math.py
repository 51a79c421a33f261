"""The functions exp, log and cos with the same bits on every machine.

NumPy's own differ in the last bit between processors (they pick a vector instruction set at run time), and a last bit
decides now and then how a crop box rounds. The functions here use only additions, multiplications, divisions, square
roots and changes of exponent, each of which IEEE 754 fixes exactly. Errors stay below 3e-16 relative (exp, log away
from 1) or absolute (cos), which the tests hold against the C library.
"""

import math

import numpy as np
from jaxtyping import Float64

#: ln 2 in two parts: the first has 32 trailing zero bits, so that k * LN2_HIGH is exact for every exponent k.
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
#: Coefficients of the series of exp, atanh, cos and sin, highest power first.
_EXP_TERMS = tuple(1.0 / math.factorial(n) for n in range(14, -1, -1))
_ATANH_TERMS = tuple(1.0 / (2 * n + 1) for n in range(11, -1, -1))
_COS_TERMS = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(9, -1, -1))
_SIN_TERMS = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(9, -1, -1))


def _polynomial(x: Float64[np.ndarray, "*n"], coefficients: tuple[float, ...]) -> Float64[np.ndarray, "*n"]:
    """Evaluate a polynomial by Horner's scheme, with coefficients from the highest power down.

    Each step is a NumPy call of its own, so that no compiler makes a fused multiply-add of two.
    """
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def exp(x: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Compute e**x for -700 <= x <= 700; x beyond this range is clipped to it."""
    x = np.clip(x, -700.0, 700.0)
    exponent = np.floor(x * (1.0 / math.log(2.0)) + 0.5)
    rest = (x - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    return np.ldexp(_polynomial(rest, _EXP_TERMS), exponent.astype(np.int32))


def log(x: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Compute the natural logarithm of positive, normal numbers: log(2**k m) = k ln 2 + 2 atanh((m - 1) / (m + 1))."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    power = (exponent - small).astype(np.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    series = 2.0 * ratio * _polynomial(ratio * ratio, _ATANH_TERMS)
    return power * _LN2_HIGH + (power * _LN2_LOW + series)


def cos_turns(turns: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Compute cos(2 pi t) for 0 <= t <= 1, folded to an eighth of a turn."""
    folded = np.where(turns > 0.5, 1.0 - turns, turns)  # cos is even about half a turn
    negative = folded > 0.25
    folded = np.where(negative, 0.5 - folded, folded)  # cos(pi - a) = -cos(a)
    near = folded <= 0.125
    angle = np.where(near, folded, 0.25 - folded) * (2.0 * math.pi)
    square = angle * angle
    value = np.where(near, _polynomial(square, _COS_TERMS), angle * _polynomial(square, _SIN_TERMS))
    return np.where(negative, -value, value)
