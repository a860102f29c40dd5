"""Geometric sequences whose bits do not depend on the processor."""

from __future__ import annotations

from math import log10, pow

import numpy as np
from numpy.typing import NDArray


def geometric(low: float, high: float, count: int) -> NDArray[np.float64]:
    """Return the points of numpy.geomspace, on processors with AVX-512 as on those with AVX2.

    numpy takes log10 and pow from the C library, except with AVX-512: its own round some points otherwise.
    """
    exponents = np.linspace(log10(low), log10(high), count)[1:-1]
    return np.array([low, *(pow(10.0, exponent) for exponent in exponents.tolist()), high][:count])
