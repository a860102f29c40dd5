"""exp, tanh, log cosh and the logistic function for SIMD vectors, accurate to a few ulps, and formulas built from them.

exp(x) = 2^n exp(r) with n = round(x / ln 2), so that |r| <= ln 2 / 2 and a short Taylor series is enough. All of it is
IEEE arithmetic element by element: the same bits on every CPU. NaN stays NaN.

Formulas are Python functions of Row values that run once at compile time: each operation adds its instruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from sgdcore.kernels.simd.lanes import by_vector, intrinsic


class Row:
    """A vector of floats in a function that is being compiled."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def is_single(self) -> bool:
        """Whether this is float32."""
        return isinstance(self.value.type.element, ir.FloatType)

    def constant(self, number: float) -> Row:
        """Return the number in every element."""
        vector = self.value.type
        return Row(self.builder, ir.Constant(vector, [number] * vector.count))

    def __add__(self, other: Row) -> Row:
        return Row(self.builder, self.builder.fadd(self.value, other.value))

    def __sub__(self, other: Row) -> Row:
        return Row(self.builder, self.builder.fsub(self.value, other.value))

    def __mul__(self, other: Row) -> Row:
        return Row(self.builder, self.builder.fmul(self.value, other.value))

    def __truediv__(self, other: Row) -> Row:
        return Row(self.builder, self.builder.fdiv(self.value, other.value))

    def square_root(self) -> Row:
        """Return the square root."""
        vector = self.value.type
        name = f"llvm.sqrt.v{vector.count}f{32 if self.is_single else 64}"
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(vector, [vector]), name)
        return Row(self.builder, self.builder.call(function, [self.value]))

    def times_plus(self, factor: Row, summand: Row) -> Row:
        """Return self * factor + summand, rounded once."""
        vector = self.value.type
        name = f"llvm.fma.v{vector.count}f{32 if self.is_single else 64}"
        module = self.builder.module
        function = module.globals.get(name) or ir.Function(module, ir.FunctionType(vector, [vector] * 3), name)
        return Row(self.builder, self.builder.call(function, [self.value, factor.value, summand.value]))

    def where_above(self, bound: Row, yes: Row, no: Row) -> Row:
        """Return ``yes`` where self > bound, else ``no``, also where either is NaN."""
        above = self.builder.fcmp_ordered(">", self.value, bound.value)
        return Row(self.builder, self.builder.select(above, yes.value, no.value))

    def where_zero(self, yes: Row, no: Row) -> Row:
        """Return ``yes`` where self is 0, else ``no``."""
        zero = self.builder.fcmp_ordered("==", self.value, self.constant(0).value)
        return Row(self.builder, self.builder.select(zero, yes.value, no.value))

    def clamped(self, limit: float) -> Row:
        """Return self limited to [-limit, limit]."""
        high, low = self.constant(limit), self.constant(-limit)
        below = self.where_above(high, high, self)
        return low.where_above(below, low, below)


def elementwise(formula: Callable[[Row], Row]) -> Any:
    """Turn a formula into a function of Lanes for compiled code."""

    @intrinsic
    def call(context: Any, x: Any) -> Any:
        return x(x), lambda context, builder, sig, values: by_vector(builder, sig, values, of_rows(builder))

    of_rows = _of_rows(formula)
    return call


def elementwise_of_two(formula: Callable[[Row, Row], Row]) -> Any:
    """Turn a formula of two values into a function of two Lanes for compiled code."""

    @intrinsic
    def call(context: Any, x: Any, y: Any) -> Any:
        return x(x, y), lambda context, builder, sig, values: by_vector(builder, sig, values, of_rows(builder))

    of_rows = _of_rows(formula)
    return call


def _of_rows(formula: Callable[..., Row]) -> Callable[[Any], Callable[..., Any]]:
    return lambda builder: lambda *rows: formula(*(Row(builder, row) for row in rows)).value


def sigmoid(x: Row) -> Row:
    """Return 1 / (1 + exp(-x))."""
    one = x.constant(1)
    return one / (one + exp(x * x.constant(-1)))


def tanh(x: Row) -> Row:
    """Return e / (e + 2) with e = exp(2 x) - 1, which does not cancel near 0."""
    n, p = _reduced(x.constant(2) * x.clamped(10 if x.is_single else 20))
    power = _power_of_two(n)
    e = power.times_plus(p, power - x.constant(1))
    return e / (e + x.constant(2))


def log_cosh(x: Row) -> Row:
    """Return log(cosh(x)) = |x| + log(1 + e) - log 2, with e = exp(-2 |x|) <= 1."""
    size = x.where_above(x.constant(0), x, x * x.constant(-1))
    e = exp(x.constant(-2) * size)
    # log(1 + e) = 2 artanh(z) with z = e / (2 + e) <= 1/3: its series falls by 9 from term to term.
    z = e / (x.constant(2) + e)
    square, terms = z * z, 9 if x.is_single else 18
    series = x.constant(1 / (2 * terms + 1))
    for k in range(terms - 1, -1, -1):
        series = series.times_plus(square, x.constant(1 / (2 * k + 1)))
    return size + (x.constant(2) * z * series - x.constant(math.log(2)))


def exp(x: Row) -> Row:
    """Return e to the power x."""
    n, p = _reduced(x.clamped(110 if x.is_single else 760))
    # 2^n in two factors: it can overflow or underflow although exp(x) does not.
    half = _rounded(n * x.constant(0.5))
    return (p + x.constant(1)) * _power_of_two(half) * _power_of_two(n - half)


def _reduced(x: Row) -> tuple[Row, Row]:
    """Return n and exp(r) - 1."""
    # ln 2 in two parts: n times the first part is exact.
    high, low = (
        (0.693359375, -2.12194440e-4) if x.is_single else (6.93147180369123816490e-01, 1.90821492927058770002e-10)
    )
    n = _rounded(x * x.constant(1 / math.log(2)))
    r = n.times_plus(x.constant(-low), n.times_plus(x.constant(-high), x))
    terms = 7 if x.is_single else 13  # of the Taylor series: the next term is below half an ulp
    series = x.constant(1 / math.factorial(terms))
    for k in range(terms - 1, 1, -1):
        series = series.times_plus(r, x.constant(1 / math.factorial(k)))
    return n, (r * r).times_plus(series, r)


def _rounded(x: Row) -> Row:
    """Return the nearest whole number; the numbers must not be large."""
    return x + _shift(x) - _shift(x)


def _shift(x: Row) -> Row:
    """Return a number that, added to x, leaves the integer part of x in the lowest bits of the sum."""
    return x.constant(1.5 * 2 ** (23 if x.is_single else 52))


def _power_of_two(n: Row) -> Row:
    """Return 2^n for a whole n within the exponent's range."""
    bits, mantissa, bias = (32, 23, 127) if n.is_single else (64, 52, 1023)
    count = n.value.type.count
    whole = ir.VectorType(ir.IntType(bits), count)
    builder = n.builder
    exponent = builder.add(builder.bitcast((n + _shift(n)).value, whole), ir.Constant(whole, [bias] * count))
    return Row(builder, builder.bitcast(builder.shl(exponent, ir.Constant(whole, [mantissa] * count)), n.value.type))
