"""The setting to use, where the right answer is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from sweeps.planning.prepared import PreparedSweep
from sweeps.report.headline import advice
from sweeps.results.recommendation import Recommendation, recommendation
from sweeps.results.results import Results, load_results
from sweeps.store.store import SweepFiles
from tests.support.command_line import Cli

Prepare = Callable[..., PreparedSweep]
Compute = Callable[[PreparedSweep], SweepFiles]


def of(results: Results) -> Recommendation:
    found = recommendation(results)
    assert found is not None
    return found


@pytest.mark.parametrize("start", [(0, 0), (-0.66, 0.33), (3, -2)])
@pytest.mark.parametrize("x", [[1, 2, 3, 4, 5], [0.5, 1.5, 4]])
def test_full_batch_quadratics_are_trained_as_polyak_says(
    start: tuple[float, float], x: list[float], make_prepared: Prepare, stored: Compute
) -> None:
    """Polyak (1964): lr = 4 / (sqrt(L) + sqrt(mu))^2, momentum = ((sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)))^2."""
    design = np.column_stack([x, np.ones(len(x))])
    least, largest = np.sqrt(np.linalg.eigvalsh(2 / len(x) * design.T @ design))
    lr, momentum = 4 / (largest + least) ** 2, ((largest - least) / (largest + least)) ** 2
    prepared = make_prepared(
        task={"dataset": {"kind": "line", "x": x}, "model": {"kind": "linear"}},
        training={"epochs": 600, "batch_size": len(x), "dtype": "float64"},
        parameters={
            "lr": {"min": lr / 2, "max": lr * 2, "count": 61},
            "momentum": {"min": 0, "max": 0.95, "count": 39},
            "init.weight": {"value": start[0]},
            "init.bias": {"value": start[1]},
        },
        execution={},
    )
    results = load_results(stored(prepared))
    assert results.trials["final_loss"].nlargest(5).notna().all()
    found = of(results)
    assert abs(found.setting["lr"] - lr) <= 1.01 * 1.5 * lr / 60
    assert abs(found.setting["momentum"] - momentum) <= 0.025
    assert found.is_fastest_by_theory
    assert found.equals > 100
    assert found.trial != results.trials["final_loss"].idxmin()  # which rounding noise decides


@pytest.fixture
def noisy(make_prepared: Prepare, stored: Compute) -> Results:
    """Four settings of which two reach the same noise floor, one of them sooner; the others are too slow or noisy."""
    return load_results(
        stored(
            make_prepared(
                task={"dataset": {"kind": "linear", "n": 40, "d": 2, "noise": 0.3, "validation": 0.25}},
                training={"epochs": 40, "order": "shuffled", "batch_size": 5},
                parameters={"lr": {"values": [1e-4, 0.003, 0.01, 0.4]}},
                seeds=list(range(8)),
                verdict={"rtol": 0.01},
                execution={"trials_per_shard": 9},
            )
        )
    )


def test_of_settings_with_equal_metrics_the_faster_is_used(noisy: Results) -> None:
    trials = noisy.trials
    values = {lr: own.sort_values("seed")["final_validation_loss"] for lr, own in trials.groupby("lr")}
    best = min(values, key=lambda lr: values[lr].mean())
    tied = {
        lr
        for lr in values
        if lr == best or stats.ttest_rel(values[lr], values[best], alternative="greater").pvalue >= 0.05
    }
    assert tied == {0.003, 0.01}
    found = of(noisy)
    assert found.setting == {"lr": 0.01}
    assert (found.equals, found.repeats) == (2, 8)
    assert found.value == pytest.approx(values[0.01].mean())
    interval = stats.t.interval(0.95, 7, values[0.01].mean(), stats.sem(values[0.01]))
    assert found.interval == pytest.approx(interval)
    text = str(advice(noisy))
    assert text.startswith("Use lr 0.01: mean final validation loss ")
    assert "8 trials over seeds" in text
    assert "the fastest of 2 settings that cannot be told from the best" in text


def test_a_setting_close_to_the_edge_comes_with_a_warning_and_a_safer_one(
    make_prepared: Prepare, stored: Compute
) -> None:
    """A full batch without momentum diverges from lr 2 / L = 0.0845 on, and is the fastest at 2 / (L + mu) = 0.0833."""
    start = {"init.weight": {"value": 0}, "init.bias": {"value": 0}}
    training = {"epochs": 900, "batch_size": 5, "dtype": "float64"}
    close, far = [0.05, 0.0833, 0.086], [0.05, 0.0833, 0.1]
    for lr, safer in ((close, {"lr": 0.05}), (far, None)):
        results = load_results(stored(make_prepared(parameters={"lr": {"values": lr}} | start, training=training)))
        found = of(results)
        assert found.setting == {"lr": 0.0833}
        assert found.margin == pytest.approx(lr[-1] / 0.0833)
        assert (found.is_close_to_the_edge, found.safer) == (safer is not None, safer)
        assert ("a smaller lr is safer" in str(advice(results))) == (safer is not None)
        shutil.rmtree(results.files.folder)


def test_a_weight_decay_that_ends_above_the_best_loss_is_not_as_good(make_prepared: Prepare, stored: Compute) -> None:
    """Decay 0.1 reaches its ridge solution sooner; the loss there is within 0.1 % of the start's, but does not fall."""
    prepared = make_prepared(
        parameters={"lr": {"values": [0.01, 0.02, 0.03]}, "weight_decay": {"values": [0, 0.01, 0.1]}},
        training={"epochs": 2000, "dtype": "float64"},
        execution={},
    )
    results = load_results(stored(prepared))
    assert of(results).setting["weight_decay"] == 0
    assert of(results).equals == 3


def test_an_axis_that_ends_at_the_setting_is_to_be_extended(make_prepared: Prepare, stored: Compute) -> None:
    lr = {"min": 0.001, "max": 0.01, "count": 10}
    results = load_results(stored(make_prepared(parameters={"lr": lr}, training={"epochs": 200})))
    assert of(results).ends == {"lr": "largest"}
    assert "Lr is the largest of its axis: extend it." in str(advice(results))


def test_a_trial_that_has_not_converged_is_to_be_trained_longer(make_prepared: Prepare, stored: Compute) -> None:
    results = load_results(stored(make_prepared(parameters={"lr": {"values": [1e-4, 1e-3]}}, training={"epochs": 2})))
    assert "not within tolerance yet: train longer" in str(advice(results))


def test_without_a_settled_trial_nothing_is_recommended(make_prepared: Prepare, stored: Compute) -> None:
    results = load_results(stored(make_prepared(parameters={"lr": {"values": [9, 10]}}, training={"epochs": 50})))
    assert recommendation(results) is None
    assert advice(results) is None


def test_show_has_the_recommendation_as_json(cli: Cli, make_prepared: Prepare, stored: Compute) -> None:
    files = stored(make_prepared(parameters={"lr": {"values": [0.01, 0.02]}}, training={"epochs": 50}))
    found = json.loads(cli("show", files.sweep_id, "--json").stdout)["recommendation"]
    expected = of(load_results(files))
    assert found["setting"] == expected.setting
    assert (found["value"], found["low"], found["trial"]) == (expected.value, None, expected.trial)
