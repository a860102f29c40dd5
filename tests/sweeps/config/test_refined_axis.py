"""Axes of the next sweep: they hold what they must, are no wider than they need be, and are valid."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.config.axis import Axis
from sweeps.config.refined_axis import refined

RANGES = [
    {"min": 0.001, "max": 0.1, "count": 21},
    {"min": 1e-5, "max": 10, "count": 50, "scale": "log"},
    {"min": -3.7, "max": 12.34567, "count": 9},
]
DISTRIBUTIONS: list[dict[str, Any]] = [
    {"min": 0.001, "max": 0.1},
    {"min": 1e-5, "max": 10, "scale": "log"},
    {"distribution": "log_uniform_values", "min": 1e-5, "max": 10},
    {"distribution": "log_uniform", "min": -12, "max": 2},
    {"distribution": "int_uniform", "min": 1, "max": 900},
    {"distribution": "q_uniform", "min": 0, "max": 10, "q": 0.25},
    {"distribution": "q_log_uniform_values", "min": 2, "max": 4096, "q": 2},
]


@pytest.mark.parametrize("spec", RANGES)
@given(st.data())
def test_a_range_goes_one_step_beyond_the_values(spec: dict[str, Any], data: st.DataObject) -> None:
    axis = Axis.model_validate(spec)
    points = axis.points()
    chosen = data.draw(st.lists(st.integers(0, len(points) - 1), min_size=1, max_size=4))
    new = refined("x", axis, points[chosen], 1.0)
    low, high = points[max(min(chosen) - 1, 0)], points[min(max(chosen) + 1, len(points) - 1)]
    assert (new.count, new.scale) == (axis.count, axis.scale)
    assert new.min is not None
    assert new.max is not None
    assert points[0] <= new.min <= low
    assert high <= new.max <= points[-1]
    assert new.max - new.min <= (high - low) * 1.03
    assert Axis.model_validate(new.model_dump(exclude_unset=True)) == new


@pytest.mark.parametrize("spec", DISTRIBUTIONS)
@given(st.data())
def test_a_distribution_keeps_its_kind_and_holds_the_values(spec: dict[str, Any], data: st.DataObject) -> None:
    axis = Axis.model_validate(spec)
    levels = np.array(data.draw(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4)))
    values = axis.quantiles(levels)
    new = refined("x", axis, values, 0.05)
    assert new.distribution_name == axis.distribution_name
    inside = new.quantiles([0.0, 1.0])
    assert inside[0] <= values.min()
    assert inside[1] >= values.max()
    if spec.get("distribution", "").startswith(("q_", "int_")):
        np.testing.assert_array_equal(new.quantiles(new.levels(values)), values)
    width = np.diff(axis.levels(inside))[0]
    step = 0 if axis.possible() is None else 2 * np.diff(axis.levels(axis.points())).max()
    assert width <= np.ptp(axis.levels(values)) + 0.1 + 0.05 + step


@pytest.mark.parametrize("kind", ["normal", "log_normal"])
def test_a_normal_distribution_is_centred_on_the_values_and_narrower(kind: str) -> None:
    axis = Axis.model_validate({"distribution": kind, "mu": 1, "sigma": 2})
    values = axis.quantiles(np.array([0.6, 0.7]))
    new = refined("init.bias", axis, values, 0.05)
    assert new.distribution == kind
    assert new.sigma is not None
    assert 0 < new.sigma < 2
    low, high = new.quantiles([0.02, 0.98])
    assert low < values.min() < values.max() < high


@pytest.mark.parametrize(
    ("name", "listed", "values", "end", "expected"),
    [
        ("momentum", [0, 0.5, 0.9, 0.99], [0.9], None, [0.5, 0.7, 0.9, 0.945, 0.99]),
        ("lr", [0.1, 0.01, 0.001], [0.01], None, [0.001, 0.003162, 0.01, 0.03162, 0.1]),
        ("lr", [0.001, 0.01, 0.1], [0.1], "largest", [0.01, 0.03162, 0.1, 0.3162, 1.0]),
        ("lr", [0.001, 0.01, 0.1], [0.001], "smallest", [0.0001, 0.0003162, 0.001, 0.003162, 0.01]),
        ("momentum", [0.5, 0.8, 0.9], [0.9], "largest", [0.8, 0.85, 0.9, 0.925, 0.95]),
        ("batch_size", [16, 64, 256], [16], None, [16, 32, 64]),
        ("batch_size", [1, 2, 3], [1], None, [1, 2]),
        ("weight_decay", [0, 0.1], [0.1], None, [0.1]),
        ("nesterov", [False, True], [1], None, [True]),
        ("clip_grad_norm", [None, 1.0, 2.0], [np.inf, 2.0], None, [None, 2.0]),
        ("lr", [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], None, [0.1, 0.2, 0.3]),
    ],
)
def test_listed_values(name: str, listed: list[Any], values: list[float], end: Any, expected: list[Any]) -> None:
    new = refined(name, Axis.model_validate({"values": listed}), np.array(values), 1.0, end)
    assert list(new.named()) == pytest.approx(expected, nan_ok=True) if None not in expected else expected
    assert [type(value) is bool for value in new.named()] == [type(value) is bool for value in expected]


def test_an_axis_is_extended_beyond_the_end_of_the_best_value() -> None:
    log = {"min": 1e-3, "max": 0.1, "scale": "log"}
    for spec in (log, log | {"count": 20}):
        axis = Axis.model_validate(spec)
        assert refined("lr", axis, np.array([0.1]), 0.1, "largest").max == pytest.approx(0.1 * 10**0.5, rel=0.01)
        assert refined("lr", axis, np.array([1e-3]), 0.1, "smallest").min == pytest.approx(1e-3 / 10**0.5, rel=0.01)
    linear = Axis.model_validate({"min": 0.1, "max": 0.9, "count": 9})
    assert refined("momentum", linear, np.array([0.9]), 1.0, "largest").max == pytest.approx(0.95)
    smallest = refined("lr", linear, np.array([0.1]), 1.0, "smallest").min
    assert smallest is not None
    assert 0 < smallest < 0.1


def test_probabilities_of_the_values_that_remain_sum_to_one() -> None:
    axis = Axis.model_validate({"values": [1.0, 2.0, 3.0], "probabilities": [0.5, 0.3, 0.2]})
    new = refined("lr", axis, np.array([2.0, 3.0]), 1.0)
    assert new.values == (2.0, 3.0)
    assert new.probabilities == pytest.approx((0.6, 0.4))
