"""The axes of a sweep file: the values of one parameter each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sweeps.config import distributions
from sweeps.config.base import Model
from sweeps.config.distributions import KEYS, DistributionName
from sweeps.config.messages import listed, shown
from sweeps.config.portable_math import exp
from sweeps.config.ranges import linear, logarithmic
from sweeps.config.types import (
    CUSTOM,
    MAX_AXIS,
    AxisLength,
    NotNegative,
    Number,
    Positive,
    Share,
    Value,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


NumpyPowers = Literal["libm", "processor"]
"""Where numpy.geomspace takes its powers from: the C library, or the code for this processor's instruction set."""

Values = Annotated[tuple[Value, ...], Field(min_length=1)]


QUANTILES = 1_000  # of a distribution that stand for its values where all cannot be listed
SCAN_POINTS = 64  # of an axis with a tolerance, by default


class Axis(Model):
    """The values of one parameter: ``value``, ``values``, or ``min``, ``max`` and ``count`` with a ``scale``.

    Methods that draw values also take ``min`` and ``max`` without a count, or a ``distribution`` with its keys.
    """

    value: Value | None = None
    """One value."""
    values: Values | None = None
    """A list of values."""
    min: Number | None = None
    """The first value of a range, or the least value of a distribution (of log_uniform: the logarithm of it)."""
    max: Number | None = None
    """The last value of a range, or the largest value of a distribution (of log_uniform: the logarithm of it)."""
    count: AxisLength | None = None
    """The number of values of a range, both ends included."""
    scale: Literal["linear", "log"] | None = None
    """Whether the values of a range have equal differences (linear, the default) or equal ratios (log).

    Without a count, log is short for the distribution log_uniform_values.
    """
    distribution: DistributionName | None = None
    """The distribution of values that a method draws, as in W&B. By default uniform between min and max."""
    probabilities: Annotated[tuple[Share, ...], Field(min_length=1)] | None = None
    """The probability of each of the values; by default all are the same."""
    mu: Number | None = None
    """The mean of a normal distribution, or of the logarithm of a log-normal one; 0 by default."""
    sigma: NotNegative | None = None
    """The standard deviation that belongs to mu; 1 by default."""
    q: Positive | None = None
    """The step to whose multiples a distribution q_... rounds; 1 by default."""

    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The relative width to which method boundary narrows every edge of stability on this axis; with min and max.

    ``count`` is then the number of points of the scan, 64 by default.
    """

    _numpy_powers: NumpyPowers | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _scan_has_a_count(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("tolerance") is not None and given.get("count") is None:
            return {**given, "count": SCAN_POINTS}
        return given

    @model_validator(mode="after")
    def _one_form(self) -> Axis:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if self.distribution is not None:
            self._check_keys(given - {"distribution"})
        elif given not in ({"value"}, {"values"}, {"values", "probabilities"}) and not (
            {"min", "max"} <= given <= {"min", "max", "count", "scale", "tolerance"}
        ):
            problem = "must have value, values, or min, max and count (scale is optional), or a distribution"
            raise PydanticCustomError(CUSTOM, problem)
        if self.min is not None and self.max is not None:
            self._check_range(self.min, self.max)
        if self.probabilities is not None:
            self._check_probabilities(self.probabilities)
        return self

    def _check_keys(self, given: set[str]) -> None:
        needed, optional = KEYS[str(self.distribution)]
        name, known = f"distribution {self.distribution}", listed([*needed, *optional])
        if missing := [key for key in needed if key not in given]:
            raise PydanticCustomError(CUSTOM, f"{name} needs {' and '.join(missing)}")
        if unknown := sorted(given - {*needed, *optional}):
            raise PydanticCustomError(CUSTOM, f"{name} has no key {unknown[0]}; it has {known}")

    def _check_range(self, low: float, high: float) -> None:
        if low > high:
            raise PydanticCustomError(CUSTOM, "min must not exceed max")
        if self.distribution_name in ("log_uniform_values", "q_log_uniform_values") and low <= 0:
            raise PydanticCustomError(CUSTOM, f"{self.distribution_name} requires min > 0")
        if self.scale == "log" and low <= 0:
            raise PydanticCustomError(CUSTOM, "a log scale requires min > 0")
        if not math.isfinite(high - low):
            raise PydanticCustomError(CUSTOM, "max - min must not overflow float64")
        if self.distribution == "log_uniform" and max(abs(low), abs(high)) > distributions.MAX_EXPONENT:
            problem = f"log_uniform takes exponents of e between -{distributions.MAX_EXPONENT:g} and "
            raise PydanticCustomError(
                CUSTOM, problem + f"{distributions.MAX_EXPONENT:g}; use log_uniform_values to give the values"
            )
        if self.distribution == "int_uniform" and not (low.is_integer() and high.is_integer()):
            raise PydanticCustomError(CUSTOM, "int_uniform requires whole numbers as min and max")
        if self.distribution == "int_uniform" and max(abs(low), abs(high)) >= 2**52:
            raise PydanticCustomError(CUSTOM, "int_uniform requires whole numbers below 2^52")

    def _check_probabilities(self, probabilities: tuple[float, ...]) -> None:
        if len(probabilities) != len(self.values or ()):
            raise PydanticCustomError(CUSTOM, "probabilities must have one entry for each of the values")
        if abs(math.fsum(probabilities) - 1) > 1e-6:
            raise PydanticCustomError(CUSTOM, "probabilities must sum to 1")

    def __len__(self) -> int:
        """Return the number of values; of a distribution, those that stand for its values."""
        return self.count or len(self.points())

    @property
    def distribution_name(self) -> DistributionName:
        """The distribution of the values; listed values and ranges with a count are categorical."""
        if self.distribution is not None:
            return self.distribution
        if self.value is not None:
            return "constant"
        if self.values is not None or self.count is not None:
            return "categorical"
        return "log_uniform_values" if self.scale == "log" else "uniform"

    @property
    def is_listed(self) -> bool:
        """Whether the values are listed, singly or by a range with a count, and not those of a distribution."""
        return self.distribution_name in ("constant", "categorical")

    def named(self) -> tuple[bool | float | None, ...]:
        """Return the values written in the file: all of them, or both ends of a range; the extremes of quantiles."""
        if self.values is not None:
            return self.values
        if self.value is not None:
            return (self.value,)
        if self.count is None:
            return tuple(self.quantiles(self._levels[[0, -1]]).tolist())
        assert self.min is not None
        assert self.max is not None
        return (self.min, self.max)

    def points(self) -> NDArray[np.float64]:
        """Return all values in order, as a float64 array of length ``len(self)``; booleans as 0 and 1, null as inf.

        A distribution with more values is represented by a thousand quantiles.
        """
        import numpy as np

        if not self.is_listed:
            possible = self.possible()
            return self.quantiles(self._levels) if possible is None else possible
        if self.count is None:
            return np.array([np.inf if value is None else value for value in self.named()], dtype=np.float64)
        assert self.min is not None
        assert self.max is not None
        low, high = float(self.min), float(self.max)
        if self._numpy_powers is None:
            return (logarithmic if self.scale == "log" else linear)(low, high, self.count)
        if self.scale != "log":
            return np.linspace(low, high, self.count)
        if self._numpy_powers == "processor":
            return np.geomspace(low, high, self.count)
        from sgdcore.geometric import geometric

        return geometric(low, high, self.count)

    @property
    def _levels(self) -> NDArray[np.float64]:
        """The quantiles that represent a distribution, with both ends where it has ends."""
        import numpy as np

        margin = 1 / (2 * QUANTILES) if self.min is None else 0.0
        return np.linspace(margin, 1 - margin, QUANTILES)

    def possible(self) -> NDArray[np.float64] | None:
        """Return all values that can be drawn, if they can be listed."""
        import numpy as np

        if self.is_listed:
            return self.points()
        step = 1.0 if self.distribution == "int_uniform" else self.q or 1.0
        if self.distribution not in ("int_uniform", "q_uniform", "q_log_uniform_values"):
            return None
        low, high = self.named()
        assert low is not None
        assert high is not None
        if (high - low) / step > MAX_AXIS:
            return None
        times = np.arange(round(low / step), round(high / step) + 1, dtype=np.float64)
        return distributions.rounded(times * step, step)

    def quantiles(self, u: ArrayLike) -> NDArray[np.float64]:
        """Return the values of the distribution at the quantiles ``u`` in (0, 1)."""
        import numpy as np

        u = np.asarray(u, dtype=np.float64)
        name = self.distribution_name
        if self.is_listed:
            return distributions.choice(u, self.points(), self.probabilities)
        if name.endswith("normal"):
            mean, deviation = self.mu or 0.0, 1.0 if self.sigma is None else self.sigma
            values = (distributions.log_normal if "log" in name else distributions.normal)(u, mean, deviation)
        else:
            assert self.min is not None
            assert self.max is not None
            if name == "int_uniform":
                return distributions.whole(u, self.min, self.max)
            if name == "log_uniform":
                values = exp(distributions.uniform(u, self.min, self.max))
            elif "log" in name:
                values = distributions.log_uniform(u, self.min, self.max)
            else:
                values = distributions.uniform(u, self.min, self.max)
        return distributions.rounded(values, self.q or 1.0) if name.startswith("q_") else values

    def levels(self, given: ArrayLike) -> NDArray[np.float64]:
        """Return the levels in [0, 1] at which :meth:`quantiles` gives values, those of listed ones in the middle."""
        import numpy as np
        from scipy.special import ndtr

        values = np.asarray(given, dtype=np.float64)
        name = self.distribution_name
        if self.is_listed:
            points = np.nan_to_num(self.points())  # inf, for clipping that is off, is a large number
            nearest = np.argmin(np.abs(np.nan_to_num(values)[:, np.newaxis] - points), axis=1)
            return np.asarray((nearest + 0.5) / len(points))
        if "log" in name:
            values = np.log(np.maximum(values, np.finfo(np.float64).tiny))
        if name.endswith("normal"):
            deviation = (1.0 if self.sigma is None else self.sigma) or 1.0
            return np.asarray(ndtr((values - (self.mu or 0.0)) / deviation))
        assert self.min is not None
        assert self.max is not None
        low, high = self.min, self.max
        if name == "int_uniform":
            low, high = low - 0.5, high + 0.5
        elif name.endswith("log_uniform_values"):
            low, high = math.log(low), math.log(high)
        return np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(len(values), 0.5)

    def as_numpy(self, powers: NumpyPowers = "libm") -> Axis:
        """Return a copy whose range has the points of numpy.linspace or numpy.geomspace."""
        copy = self.model_copy()
        copy._numpy_powers = powers
        return copy


def _listed(given: Any) -> Any:
    """Return an axis for a bare list of values."""
    if isinstance(given, list | tuple):
        return {"values": given}
    if isinstance(given, bool | int | float):
        raise PydanticCustomError(
            CUSTOM, "must be a mapping such as {example}", {"example": f"{{value: {shown(given)}}}"}
        )
    return given


AxisOrList = Annotated[Axis, BeforeValidator(_listed, json_schema_input_type=Axis | Values)]
