"""The distributions from which search methods draw values, by their names in W&B sweep files.

A value is the quantile of a number between 0 and 1, so that pseudorandom and quasirandom numbers serve alike. Values
have the same bits on every machine.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from sweeps.config.portable_math import exp, log, normal_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

DistributionName = Literal[
    "constant",
    "categorical",
    "uniform",
    "int_uniform",
    "q_uniform",
    "log_uniform",
    "log_uniform_values",
    "q_log_uniform_values",
    "normal",
    "q_normal",
    "log_normal",
    "q_log_normal",
]
KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # the keys that each needs, and those that it can have
    "constant": (("value",), ()),
    "categorical": (("values",), ("probabilities",)),
    "uniform": (("min", "max"), ()),
    "int_uniform": (("min", "max"), ()),
    "q_uniform": (("min", "max"), ("q",)),
    "log_uniform": (("min", "max"), ()),
    "log_uniform_values": (("min", "max"), ()),
    "q_log_uniform_values": (("min", "max"), ("q",)),
    "normal": ((), ("mu", "sigma")),
    "q_normal": ((), ("mu", "sigma", "q")),
    "log_normal": ((), ("mu", "sigma")),
    "q_log_normal": ((), ("mu", "sigma", "q")),
}
MAX_EXPONENT = 700.0  # of e; larger ones overflow
_EXACT = 2**53  # integers up to this are exact in float64


def uniform(u: FloatArray, low: float, high: float) -> FloatArray:
    """Return the quantiles of the uniform distribution between two values."""
    return _within(low + u * (high - low), low, high)


def whole(u: FloatArray, low: float, high: float) -> FloatArray:
    """Return the quantiles of the uniform distribution over the whole numbers from low to high."""
    import numpy as np

    return _within(low + np.floor(u * (high - low + 1)), low, high)


def log_uniform(u: FloatArray, low: float, high: float) -> FloatArray:
    """Return the quantiles of values whose logarithm is uniform between those of two values > 0."""
    import numpy as np

    first, last = log(np.array([low, high])).tolist()
    return _within(exp(first + u * (last - first)), low, high)


def normal(u: FloatArray, mean: float, deviation: float) -> FloatArray:
    """Return the quantiles of a normal distribution."""
    return mean + deviation * normal_quantile(u)


def log_normal(u: FloatArray, mean: float, deviation: float) -> FloatArray:
    """Return the quantiles of values whose logarithm has a normal distribution."""
    import numpy as np

    return exp(np.clip(normal(u, mean, deviation), -MAX_EXPONENT, MAX_EXPONENT))


def choice(u: FloatArray, values: FloatArray, probabilities: Sequence[float] | None) -> FloatArray:
    """Return listed values, each as often as its probability says; equally often by default."""
    import numpy as np

    if probabilities is None:
        index = np.floor(u * len(values)).astype(np.int64)
    else:
        index = np.searchsorted(np.array([math.fsum(probabilities[: i + 1]) for i in range(len(values))]), u, "right")
    last = max(i for i in range(len(values)) if probabilities is None or probabilities[i] > 0)
    return np.asarray(values[np.minimum(index, last)])


def rounded(values: FloatArray, step: float) -> FloatArray:
    """Return the multiples of a step that are nearest to values: 0.3, not 0.30000000000000004, for a step of 0.1."""
    import numpy as np

    times, unit = np.rint(values / step), Fraction(repr(step))
    if unit.denominator < _EXACT and (np.abs(times) * unit.numerator < _EXACT).all():
        return np.asarray(times * unit.numerator / unit.denominator, dtype=np.float64)
    return np.asarray(times * step, dtype=np.float64)


def _within(values: FloatArray, low: float, high: float) -> FloatArray:
    import numpy as np

    return np.clip(values, low, high)
