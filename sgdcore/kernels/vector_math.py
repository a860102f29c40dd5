"""exp, tanh and the logistic function of Lanes, to a few units in the last place.

exp(x) = 2^n exp(r) with n = round(x / ln 2), so that |r| <= ln 2 / 2 and Taylor's series ends soon. Everything is
IEEE arithmetic element by element: the same bits on every CPU. NaN stays NaN.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types

from sgdcore.kernels.vectors import Lanes, _literal, _whole, fma, intrinsic, select, splat


class Functions(NamedTuple):
    """Compiled functions of one Lanes value."""

    sigmoid: Any
    tanh: Any


@cache
def functions(dtype: str, width: int) -> Functions:
    """For rows of ``width`` elements."""
    number = np.dtype(dtype).type
    single = dtype == "float32"
    terms = 7 if single else 13  # of Taylor's series: the next is below half a unit in the last place
    per_ln2 = number(1 / math.log(2))
    # ln 2 in two parts; n times the first is exact.
    high = number(0.693359375 if single else 6.93147180369123816490e-01)
    low = number(-2.12194440e-4 if single else 1.90821492927058770002e-10)
    # Added and subtracted again, this rounds to whole numbers, which stand in the sum's lowest bits in between.
    shift = number(1.5 * 2 ** (23 if single else 52))
    exp_limit, tanh_limit = number(110 if single else 760), number(10 if single else 20)
    one, two, half = number(1), number(2), number(0.5)
    series = _series(tuple(number(1 / math.factorial(k)) for k in range(terms, 1, -1)), width)

    @njit(forceinline=True)
    def clamped(x, limit):  # type: ignore[no-untyped-def]
        x = select(x > splat(limit, width), splat(limit, width), x)
        return select(splat(-limit, width) > x, splat(-limit, width), x)

    @njit(forceinline=True)
    def reduced(x):  # type: ignore[no-untyped-def]
        """n, and exp(r) - 1."""
        n = fma(x, splat(per_ln2, width), splat(shift, width)) - splat(shift, width)
        r = fma(n, splat(-low, width), fma(n, splat(-high, width), x))
        return n, fma(r * r, series(r), r)

    @njit(forceinline=True)
    def exp(x):  # type: ignore[no-untyped-def]
        n, p = reduced(clamped(x, exp_limit))
        # 2^n in two factors: where it overflows or underflows, exp(x) need not.
        shifted = fma(n, splat(half, width), splat(shift, width))
        rest = n - (shifted - splat(shift, width))
        return (splat(one, width) + p) * power_of_two(shifted) * power_of_two(rest + splat(shift, width))

    @njit(forceinline=True)
    def sigmoid(x):  # type: ignore[no-untyped-def]
        return splat(one, width) / (splat(one, width) + exp(splat(-one, width) * x))

    @njit(forceinline=True)
    def tanh(x):  # type: ignore[no-untyped-def]
        """e / (e + 2), where e = exp(2 x) - 1 does not cancel near 0."""
        n, p = reduced(splat(two, width) * clamped(x, tanh_limit))
        power = power_of_two(n + splat(shift, width))
        e = fma(power, p, power - splat(one, width))
        return e / (e + splat(two, width))

    return Functions(sigmoid, tanh)


def _series(coefficients: tuple[Any, ...], width: int) -> Any:
    """The polynomial with these coefficients, that of the highest power first."""

    @njit(forceinline=True)
    def constant(x):  # type: ignore[no-untyped-def]
        return splat(first, width)

    first, polynomial = coefficients[0], constant
    for coefficient in coefficients[1:]:
        polynomial = _horner(polynomial, coefficient, width)
    return polynomial


def _horner(polynomial: Any, coefficient: Any, width: int) -> Any:
    @njit(forceinline=True)
    def next_power(x):  # type: ignore[no-untyped-def]
        return fma(polynomial(x), x, splat(coefficient, width))

    return next_power


@intrinsic
def power_of_two(context: Any, shifted: Any) -> Any:
    """2^n, where shifted = n + 1.5 * 2^(bits of the mantissa): n stands in the number's lowest bits."""
    bits, mantissa, bias = (32, 23, 127) if shifted.dtype == types.float32 else (64, 52, 1023)
    whole = ir.VectorType(ir.IntType(bits), shifted.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        def row(value: Any) -> Any:
            number = builder.bitcast(value, whole)
            number = builder.add(number, ir.Constant(whole, [bias] * shifted.width))
            number = builder.shl(number, ir.Constant(whole, [mantissa] * shifted.width))
            return builder.bitcast(number, shifted.vector)

        return _whole(builder, shifted, (row(builder.extract_value(values[0], r)) for r in range(shifted.rows)))

    return shifted(shifted), codegen
