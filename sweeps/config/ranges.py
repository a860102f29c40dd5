"""The points of ranges, exact before they are rounded once: 0.3, not 0.30000000000000004.

A value of a range is then the same number as in a list of values, on every machine. Stored sweeps of earlier versions
keep the points that numpy computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CONTEXT = Context(prec=40)  # the error stays far below float64's after ten million multiplications
_EXACT = 2**53  # integers up to this are exact in float64


def linear(low: float, high: float, count: int) -> NDArray[np.float64]:
    """Return the float64 numbers nearest to low + i (high - low) / (count - 1), for the decimals low and high."""
    import numpy as np

    first, last = Fraction(repr(low)), Fraction(repr(high))
    unit, intervals = lcm(first.denominator, last.denominator), max(count - 1, 1)
    a, b = int(first * unit), int(last * unit)
    fits = max(abs(a), abs(b), unit) * intervals <= _EXACT
    i = np.arange(count, dtype=np.int64 if fits else object)  # else Python's integers
    return np.asarray((a * (intervals - i) + b * i) / (intervals * unit), dtype=np.float64)


def logarithmic(low: float, high: float, count: int) -> NDArray[np.float64]:
    """Return the float64 numbers nearest to low (high / low)^(i / (count - 1)), for the decimals low and high."""
    import numpy as np

    return np.fromiter(_powers(Decimal(repr(low)), Decimal(repr(high)), count), dtype=np.float64, count=count)


def _powers(point: Decimal, last: Decimal, count: int) -> Iterator[float]:
    exponent = _CONTEXT.divide(Decimal(1), Decimal(max(count - 1, 1)))
    ratio = _CONTEXT.power(_CONTEXT.divide(last, point), exponent)
    for _ in range(count):
        yield float(point)
        point = _CONTEXT.multiply(point, ratio)
