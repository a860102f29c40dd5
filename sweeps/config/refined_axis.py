"""Axes of the next sweep: narrowed to the values that matter, and extended beyond an end where the best value is."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from sweeps.config.axis import Axis
from sweeps.config.schema import BATCH_SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

End = Literal["smallest", "largest"]
_RATIO = 3.0  # from which on listed values are spaced by factors instead of differences
_BEYOND = 0.25  # of an axis's length: how far it is extended
_DIGITS = 3  # of the ends of ranges, relative to the value and to the range
_TAIL = 0.001  # of a normal distribution
_DEVIATIONS = 4.0  # between the ends of the part to which a normal distribution is narrowed


def refined(name: str, axis: Axis, values: FloatArray, step: float = 0.0, end: End | None = None) -> Axis:
    """Return the axis narrowed to some of its values.

    A range keeps its count and scale, a distribution its kind. Between listed numbers there are new ones, so that their
    count stays about the same; of other listed values, those that occur remain.

    Args:
        name: the axis's name.
        axis: the axis.
        values: the values to keep.
        step: how far to go beyond them: of listed values and ranges, this many of their steps, rounded up; of a
            distribution, this share of it.
        end: the end at which the best value is, beyond which the axis is extended.
    """
    if len(axis.points()) < 2:
        return axis
    if not axis.is_listed:
        return _narrowed(name, axis, values, step, end)
    if axis.count is None:
        is_ordered = axis.probabilities is None and len(axis) > 2 and not any(_is_special(v) for v in axis.named())
        return _denser(name, axis, values, step, end) if is_ordered else _occurring(axis, values)
    low, high = (float(x) for x in _window(axis.points(), values, step))
    return _ranged(name, axis, low, high, end)


def _is_special(value: bool | float | None) -> bool:
    return value is None or isinstance(value, bool)


def _occurring(axis: Axis, values: FloatArray) -> Axis:
    """Return the axis with those of its values that occur, in their order."""
    import numpy as np

    points = np.nan_to_num(axis.points())
    kept = np.flatnonzero(np.isin(points, np.nan_to_num(values)))
    named = axis.named()
    if not len(kept):
        return axis
    found: dict[str, Any] = {"values": [named[i] for i in kept]}
    if axis.probabilities is not None and (total := math.fsum(axis.probabilities[i] for i in kept)) > 0:
        found["probabilities"] = [axis.probabilities[i] / total for i in kept]
    return Axis.model_validate(found)


def _denser(name: str, axis: Axis, values: FloatArray, step: float, end: End | None) -> Axis:
    """Return the listed numbers from one to another, with new ones between them."""
    import numpy as np

    whole = all(isinstance(value, int) for value in axis.named())
    points = np.unique(axis.points())
    low, high = _window(points, values, step)
    kept = points[(points >= low) & (points <= high)].tolist()
    if len(kept) == len(points) and np.isin(points, values).all() and end is None:
        return axis
    if end == "largest":
        kept.append(_next(name, kept[-2], kept[-1]) if len(kept) > 1 else kept[-1])
    elif end == "smallest":
        kept.insert(0, _next(name, kept[1], kept[0]) if len(kept) > 1 else kept[0])
    parts = max(2, round((len(points) - 1) / max(len(kept) - 1, 1)))
    found = [kept[0]]
    for a, b in pairwise(kept):
        inner = np.geomspace(a, b, parts + 1) if a > 0 and b / a >= _RATIO else np.linspace(a, b, parts + 1)
        found += [*(_significant(value) for value in inner[1:-1].tolist()), b]
    numbers = sorted({round(value) for value in found}) if whole else list(dict.fromkeys(found))
    return Axis.model_validate({"values": numbers})


def _next(name: str, inner: float, last: float) -> float:
    """Return the value that follows the last of listed ones, in steps like the one before it."""
    if name == "momentum" and last > inner:
        return _significant((1 + last) / 2) if last < 1 else last
    low, high = sorted((inner, last))
    if low > 0 and high / low >= _RATIO:
        return _significant(last * last / inner)
    beyond = 2 * last - inner
    return _significant(beyond if beyond > 0 else last / 2)


def _ranged(name: str, axis: Axis, low: float, high: float, end: End | None) -> Axis:
    """Return the range between two values, with the same count; whole numbers are listed."""
    import numpy as np

    low, high = _ends(name, axis, low, high, end, is_log=axis.scale == "log")
    given = axis.model_dump(exclude_unset=True) | {"min": low, "max": high}
    if name == BATCH_SIZE or name.startswith("schedule."):
        points = axis.points()
        if (points == np.rint(points)).all():
            return Axis.model_validate({"values": np.unique(np.rint(Axis(**given).points())).astype(int).tolist()})
    return Axis.model_validate(given)


def _narrowed(name: str, axis: Axis, values: FloatArray, step: float, end: End | None) -> Axis:
    """Return the part of a distribution that holds some values and a share of it on both sides."""
    import numpy as np

    kind = axis.distribution_name
    levels = axis.levels(values)
    first, last = float(levels.min()) - step, float(levels.max()) + step
    given = axis.model_dump(exclude_unset=True)
    if kind.endswith("normal"):
        ends = axis.quantiles(np.clip([first, last], _TAIL, 1 - _TAIL))
        low, high = (np.log(np.maximum(ends, np.finfo(np.float64).tiny)) if "log" in kind else ends).tolist()
        sigma = min((high - low) / _DEVIATIONS, 1.0 if axis.sigma is None else axis.sigma)
        return Axis.model_validate(given | {"mu": _significant((low + high) / 2), "sigma": _significant(sigma)})
    low, high = axis.quantiles(np.clip([first, last], 0, 1)).tolist()
    assert axis.min is not None
    assert axis.max is not None
    if kind == "log_uniform":  # its ends are exponents
        inner = Axis(distribution="log_uniform_values", min=math.exp(axis.min), max=math.exp(axis.max))
        low, high = _ends(name, inner, low, high, end, is_log=True)
        return Axis.model_validate(given | {"min": math.log(low), "max": math.log(high)})
    low, high = _ends(name, axis, low, high, end, is_log="log" in kind)
    if kind == "int_uniform" or name == BATCH_SIZE:
        low, high = math.floor(low), math.ceil(high)
    elif kind.startswith("q_"):
        unit = axis.q or 1.0
        low, high = max(axis.min, math.floor(low / unit) * unit), math.ceil(high / unit) * unit
    return Axis.model_validate(given | {"min": low, "max": high})


def _window(points: FloatArray, values: FloatArray, step: float) -> tuple[float, float]:
    """Return the points that are some steps below the least and above the largest of some values."""
    import numpy as np

    ordered, steps = np.sort(points), math.ceil(step)
    first, last = (int(np.argmin(np.abs(ordered - value))) for value in (values.min(), values.max()))
    return float(ordered[max(first - steps, 0)]), float(ordered[min(last + steps, len(ordered) - 1)])


def _ends(name: str, axis: Axis, low: float, high: float, end: End | None, *, is_log: bool) -> tuple[float, float]:
    """Return the ends of a range rounded outward to a few digits, one of them extended beyond that of the axis."""
    assert axis.min is not None
    assert axis.max is not None
    first, last = float(axis.min), float(axis.max)
    given = low, high
    if end == "largest":
        factor = (last / first) ** _BEYOND if is_log else 1.0
        high = last * factor if is_log else last + (last - first) * _BEYOND
        if name == "momentum":
            high = min(high, (1 + last) / 2) if last < 1 else last
    elif end == "smallest":
        low = first / (last / first) ** _BEYOND if is_log else first - (last - first) * _BEYOND
        low = low if low > 0 else first / 2
    low = low if low == first else _outward(low, high - low, ROUND_FLOOR)
    high = high if high == last else _outward(high, high - low, ROUND_CEILING)
    return (low, high) if low < high else given


def _outward(value: float, width: float, rounding: str) -> float:
    """Return a value rounded to a few digits of itself and of the width of its range."""
    smallest = min(x for x in (abs(value), width) if x > 0) if value or width > 0 else 1.0
    unit = Decimal(1).scaleb(math.floor(math.log10(smallest)) - _DIGITS + 1)
    return float((Decimal(repr(value)) / unit).to_integral_value(rounding) * unit)


def _significant(value: float) -> float:
    return float(f"{value:.4g}")
