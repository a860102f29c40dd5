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

from sweeps.config.base import Model
from sweeps.config.messages import shown
from sweeps.config.ranges import linear, logarithmic
from sweeps.config.types import (
    CUSTOM,
    AxisLength,
    Number,
    Value,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NumpyPowers = Literal["libm", "processor"]
"""Where numpy.geomspace takes its powers from: the C library, or the code for this processor's instruction set."""

Values = Annotated[tuple[Value, ...], Field(min_length=1)]


class Axis(Model):
    """The values of one parameter: ``value``, ``values``, or ``min``, ``max`` and ``count`` with a ``scale``."""

    value: Value | None = None
    """One value."""
    values: Values | None = None
    """A list of values."""
    min: Number | None = None
    """The first value of a range."""
    max: Number | None = None
    """The last value of a range."""
    count: AxisLength | None = None
    """The number of values of a range, both ends included."""
    scale: Literal["linear", "log"] | None = None
    """Whether the values of a range have equal differences (linear, the default) or equal ratios (log)."""

    _numpy_powers: NumpyPowers | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_form(self) -> Axis:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if given in ({"value"}, {"values"}):
            return self
        if not ({"min", "max", "count"} <= given <= {"min", "max", "count", "scale"}):
            raise PydanticCustomError(CUSTOM, "must have value, values, or min, max and count (scale is optional)")
        assert self.min is not None
        assert self.max is not None
        if self.min > self.max:
            raise PydanticCustomError(CUSTOM, "min must not exceed max")
        if self.scale == "log" and self.min <= 0:
            raise PydanticCustomError(CUSTOM, "a log scale requires min > 0")
        if not math.isfinite(self.max - self.min):
            raise PydanticCustomError(CUSTOM, "max - min must not overflow float64")
        return self

    def __len__(self) -> int:
        """Return the number of values."""
        return self.count or len(self.named())

    def named(self) -> tuple[bool | float | None, ...]:
        """Return the values written in the file: all of them, or both ends of a range."""
        if self.values is not None:
            return self.values
        if self.value is not None:
            return (self.value,)
        assert self.min is not None
        assert self.max is not None
        return (self.min, self.max)

    def points(self) -> NDArray[np.float64]:
        """Return all values in order, as a float64 array of length ``len(self)``; booleans as 0 and 1, null as inf."""
        import numpy as np

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
