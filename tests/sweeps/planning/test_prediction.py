"""forecast: the stable share and the best setting are those of all trials; an axis is named where its end is best."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sgdcore.stability import predict
from sweeps.planning.prediction import Edge, forecast, prediction
from sweeps.planning.prepared import PreparedSweep

MakePrepared = Callable[..., PreparedSweep]


def parameters(lr: Any, momentum: Any, **more: Any) -> dict[str, Any]:
    return {"lr": lr, "momentum": momentum, "init.weight": {"value": 0}, "init.bias": {"value": 0}, **more}


def growth(prepared: PreparedSweep) -> np.ndarray[Any, Any]:
    training, trials = prepared.config.training, prepared.plan.trials(0, len(prepared.plan))
    options = {"epochs": training.epochs, "batch_size": training.batch_size, "order": training.order}
    return predict(prepared.task, trials.hyperparams, seeds=trials.seed, **options).per_epoch


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_share_and_best_setting_are_those_of_all_trials(make_prepared: MakePrepared, order: str) -> None:
    space = parameters({"min": 0.01, "max": 0.09, "count": 9}, {"values": [0, 0.3, 0.6, 0.9]})
    prepared = make_prepared(parameters=space, training={"epochs": 5, "order": order})
    told, expected = forecast(prepared), growth(prepared)
    assert told is not None
    assert told.kind == prediction(prepared)
    assert told.trials == told.settings == told.settings_in_all == 36
    assert told.stable_share == (expected < 1).mean()
    best = prepared.plan.trials(int(expected.argmin()), int(expected.argmin()) + 1).hyperparams
    assert told.best["growth"] == expected.min()
    assert (told.best["lr"], told.best["momentum"]) == (best.lr[0], best.momentum[0])


LR_INSIDE = {"min": 0.01, "max": 0.09, "count": 9}
EDGES: dict[str, tuple[dict[str, Any], list[Edge]]] = {
    "the largest lr": (parameters({"values": [0.03, 0.02, 0.01]}, {"value": 0}), [Edge("lr", 0.03, "largest")]),
    "the smallest lr": (parameters({"values": [0.2, 0.3, 0.1]}, {"value": 0}), [Edge("lr", 0.1, "smallest")]),
    "two values are no axis": (parameters({"values": [0.01, 0.02]}, {"value": 0}), []),
    "no momentum is a bound": (parameters({"value": 0.05}, {"values": [0, 0.7, 0.9]}), []),
    "little momentum is not": (
        parameters({"value": 0.05}, {"values": [0.7, 0.8, 0.9]}),
        [Edge("momentum", 0.7, "smallest")],
    ),
    "more decay is always better": (parameters(LR_INSIDE, {"value": 0.6}, weight_decay={"values": [0, 0.1, 1]}), []),
    "both": (
        parameters({"values": [0.001, 0.002, 0.003]}, {"values": [0, 0.1, 0.2, 0.3]}),
        [Edge("lr", 0.003, "largest"), Edge("momentum", 0.3, "largest")],
    ),
    "over all mappings": (
        [parameters({"values": [0.01, 0.03]}, {"value": 0}), parameters({"values": [0.5]}, {"value": 0})],  # type: ignore[dict-item]
        [],
    ),
}


@pytest.mark.parametrize(("space", "edges"), EDGES.values(), ids=EDGES.keys())
def test_edges(make_prepared: MakePrepared, space: dict[str, Any], edges: list[Edge]) -> None:
    told = forecast(make_prepared(parameters=space))
    assert told is not None
    assert list(told.edges) == edges
    assert told.best["weight_decay"] == 0


def test_a_range_of_equally_good_values_is_no_edge(make_prepared: MakePrepared) -> None:
    """One eigenvalue under heavy ball: the radius is sqrt(momentum) over a whole range of lr."""
    data = {"kind": "linear", "n": 2, "d": 1, "noise": 0}
    task = {"dataset": data, "model": {"kind": "linear", "bias": False}}
    space = {"lr": {"values": [0.01, 0.02, 0.03, 0.04]}, "momentum": {"value": 0.99}, "init.weight": {"value": 0}}
    prepared = make_prepared(task=task, parameters=space, training={"epochs": 2, "batch_size": 2})
    np.testing.assert_allclose(growth(prepared), np.sqrt(0.99))
    told = forecast(prepared)
    assert told is not None
    assert told.edges == ()


def test_large_plans_are_thinned_but_not_at_their_ends(make_prepared: MakePrepared) -> None:
    momentum = {"min": 0, "max": 0.5, "count": 300}
    for top, edges in ((0.02, ["lr", "momentum"]), (0.2, [])):
        prepared = make_prepared(parameters=parameters({"min": 0.001, "max": top, "count": 300}, momentum))
        told = forecast(prepared)
        assert told is not None
        assert told.settings_in_all == 90_000
        assert 5_000 < told.settings <= 10_000
        assert 5_000 < told.trials <= 10_000
        assert [edge.axis for edge in told.edges] == edges
    assert "0.5, is the largest of its axis: extend it" in str(Edge("momentum", 0.5, "largest"))


def test_nothing_is_foretold_that_costs_too_much(make_prepared: MakePrepared) -> None:
    prepared = make_prepared(training={"epochs": 50_000, "order": "shuffled"})
    assert forecast(prepared) is None
    assert prediction(prepared).startswith("none: ")
    assert forecast(make_prepared(training={"epochs": 50_000})) is not None
