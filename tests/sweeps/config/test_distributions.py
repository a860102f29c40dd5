"""Distributions of axes: their quantiles against scipy's, and the errors of wrong ones."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtri

from sweeps.config.axis import Axis
from sweeps.config.loader import parse
from sweeps.config.portable_math import exp, log, normal_quantile
from sweeps.errors import ConfigError
from tests.support.documents import document

LEVELS = np.concatenate([(np.arange(4_000) + 0.5) / 4_000, 10.0 ** np.arange(-15, -3), 1 - 10.0 ** np.arange(-12, -3)])


def axis(**keys: object) -> Axis:
    return Axis.model_validate(keys)


QUANTILES: dict[str, tuple[dict[str, Any], Any]] = {
    "uniform": ({"min": -1, "max": 3}, stats.uniform(-1, 4)),
    "log_uniform_values": ({"min": 1e-4, "max": 10}, stats.loguniform(1e-4, 10)),
    "log_uniform": ({"min": -4, "max": 1}, stats.loguniform(math.exp(-4), math.e)),
    "int_uniform": ({"min": -2, "max": 4}, stats.randint(-2, 5)),
    "normal": ({"mu": 1, "sigma": 0.5}, stats.norm(1, 0.5)),
    "log_normal": ({"mu": -3, "sigma": 2}, stats.lognorm(2, scale=math.exp(-3))),
}


@pytest.mark.parametrize("name", QUANTILES)
def test_quantiles_are_scipys(name: str) -> None:
    keys, expected = QUANTILES[name]
    found = axis(distribution=name, **keys).quantiles(LEVELS)
    np.testing.assert_allclose(found, expected.ppf(LEVELS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("keys", "step"),
    [
        ({"distribution": "q_uniform", "min": 0, "max": 0.9, "q": 0.1}, 0.1),
        ({"distribution": "q_log_uniform_values", "min": 8, "max": 256, "q": 8}, 8),
        ({"distribution": "q_normal", "mu": 2, "sigma": 3}, 1),
        ({"distribution": "q_log_normal", "sigma": 1, "q": 0.25}, 0.25),
    ],
)
def test_quantised_values_are_the_nearest_multiples(keys: dict[str, Any], step: float) -> None:
    smooth = {name: value for name, value in keys.items() if name != "q"}
    exact = axis(**smooth | {"distribution": str(keys["distribution"]).removeprefix("q_")}).quantiles(LEVELS)
    found = axis(**keys).quantiles(LEVELS)
    assert (np.abs(found - exact) <= step / 2 * (1 + 1e-9)).all()
    assert all(value == float(f"{value:.9g}") for value in found.tolist())  # 0.3, not 0.30000000000000004


def test_probabilities_are_those_of_the_values() -> None:
    levels = (np.arange(1_000) + 0.5) / 1_000
    found = axis(values=[5, 6, 7, 8], probabilities=[0.1, 0, 0.6, 0.3]).quantiles(levels)
    assert dict(zip(*np.unique(found, return_counts=True), strict=True)) == {5: 100, 7: 600, 8: 300}
    assert axis(values=[5, 7], probabilities=[0.1, 0.9]).quantiles([np.nextafter(1, 0)]).tolist() == [7]


@given(st.sampled_from(sorted(QUANTILES)), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_values_stay_within_their_range(name: str, level: float) -> None:
    keys, _ = QUANTILES[name]
    [value] = axis(distribution=name, **keys).quantiles([level]).tolist()
    assert math.isfinite(value)
    if name in ("uniform", "log_uniform_values", "int_uniform"):
        assert keys["min"] <= value <= keys["max"]


def test_portable_functions_are_numpys_and_scipys() -> None:
    x = np.array([random.Random(1).uniform(-300, 300) for _ in range(20_000)])
    np.testing.assert_allclose(exp(x), np.exp(x), rtol=4e-16)
    np.testing.assert_allclose(log(np.exp(x)), np.log(np.exp(x)), rtol=5e-16)
    near_one = 1 + np.concatenate([10.0 ** -np.arange(1, 16), -(10.0 ** -np.arange(1, 16))])
    np.testing.assert_allclose(log(near_one), np.log(near_one), rtol=5e-16)
    np.testing.assert_allclose(normal_quantile(LEVELS), ndtri(LEVELS), rtol=4e-15)


WANDB = {
    "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 0.1},
    "momentum": {"values": [0, 0.9]},
    "weight_decay": {"value": 0.1},
    "dampening": {"distribution": "uniform", "min": 0.0, "max": 0.5},
    "nesterov": {"distribution": "constant", "value": False},
    "batch_size": {"distribution": "q_log_uniform_values", "min": 1, "max": 4, "q": 1},
}


def test_parameters_of_a_wandb_sweep_file_are_accepted() -> None:
    [mapping] = parse(document(parameters=WANDB, method="random", run_cap=10), "c.yaml").mappings()
    assert list(mapping) == list(WANDB)
    assert mapping["batch_size"].possible() is not None


def test_batch_sizes_are_whole_numbers() -> None:
    for size in ({"min": 1, "max": 5}, {"min": 1, "max": 5, "scale": "log"}):
        config = parse(document(parameters={"batch_size": size}, method="random", run_cap=10), "c.yaml")
        assert config.mappings()[0]["batch_size"].points().tolist() == [1, 2, 3, 4, 5]
        again = parse(config.model_dump(mode="json", exclude_unset=True), "c.yaml")
        assert again == config


def drawn(**changes: object) -> dict[str, object]:
    return document(method="random", run_cap=10) | changes


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "range without count": (
        document(parameters={"lr": {"min": 0, "max": 1}}),
        "parameters.lr: method grid needs value, values, or min, max and count; methods random and sobol draw",
    ),
    "no cap": (document(method="random"), "run_cap: missing; method random needs a number of trials"),
    "cap of a grid": (document(run_cap=3), "run_cap: method grid runs all combinations; use method random"),
    "cap below the seeds": (drawn(seeds=[1, 2, 3], run_cap=2), "run_cap: given 2; must be >= 3"),
    "union": (
        drawn(parameters=[{"lr": {"value": 1}}]),
        "parameters: given a list of mappings; method random takes one",
    ),
    "unknown distribution": (
        drawn(parameters={"lr": {"distribution": "beta", "min": 0, "max": 1}}),
        "parameters.lr.distribution: given 'beta'; allowed: constant, categorical, uniform",
    ),
    "missing key": (
        drawn(parameters={"lr": {"distribution": "uniform", "min": 0}}),
        "distribution uniform needs max",
    ),
    "foreign key": (
        drawn(parameters={"lr": {"distribution": "uniform", "min": 0, "max": 1, "mu": 0}}),
        "distribution uniform has no key mu; it has min, max",
    ),
    "logarithm of zero": (
        drawn(parameters={"lr": {"distribution": "log_uniform_values", "min": 0, "max": 1}}),
        "log_uniform_values requires min > 0",
    ),
    "values in place of exponents": (
        drawn(parameters={"lr": {"distribution": "log_uniform", "min": 1, "max": 1000}}),
        "log_uniform takes exponents of e between -700 and 700; use log_uniform_values",
    ),
    "exponent too large for float32": (
        drawn(parameters={"lr": {"distribution": "log_uniform", "min": 1, "max": 600}}),
        "exceeds the largest float32 number",
    ),
    "probabilities of other values": (
        drawn(parameters={"lr": {"values": [1, 2], "probabilities": [1]}}),
        "probabilities must have one entry for each of the values",
    ),
    "probabilities beside 1": (
        drawn(parameters={"lr": {"values": [1, 2], "probabilities": [0.5, 0.6]}}),
        "probabilities must sum to 1",
    ),
    "negative values": (
        drawn(parameters={"lr": {"distribution": "normal"}}),
        "a normal distribution has values below 0; use log_normal, or uniform for lr",
    ),
    "negative end": (
        drawn(parameters={"momentum": {"min": -1, "max": 1}}),
        "parameters.momentum.min: given -1.0; momentum must be >= 0",
    ),
    "batch size between whole numbers": (
        drawn(parameters={"batch_size": {"distribution": "uniform", "min": 1, "max": 4}}),
        "distribution uniform does not have whole numbers; use int_uniform",
    ),
    "batch size rounded to 0": (
        drawn(parameters={"batch_size": {"distribution": "q_uniform", "min": 1, "max": 64, "q": 8}}),
        "must be a whole number >= 1",
    ),
    "range of nesterov": (drawn(parameters={"nesterov": {"min": 0, "max": 1}}), "must have the values true and false"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_distribution_is_one_clear_line(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(ConfigError) as error:
        parse(given, "c.yaml")
    assert message in str(error.value)
    assert len(error.value.problems) == 1
