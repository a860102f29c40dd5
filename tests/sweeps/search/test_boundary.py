"""Boundary search: every edge of stability, to the axis's tolerance, the same however often the sweep is killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sweeps.config.loader import parse
from sweeps.config.schema import SweepConfig
from sweeps.errors import ConfigError
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.run import resume, run
from sweeps.planning.prepared import PreparedSweep
from sweeps.results.measured_edges import measured_edges
from sweeps.results.results import load_results
from sweeps.search.base import SearchSpace
from sweeps.search.boundary import Bracket, brackets
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support.documents import document
from tests.support.doubles import Silent, Untracked
from tests.support.stores import contents
from tests.sweeps.search.test_stages import Killed, started, swept

X = np.arange(1.0, 6.0)
DESIGN = np.column_stack([X, np.ones(5)])
CURVATURES, DIRECTIONS = np.linalg.eigh(2 / 5 * DESIGN.T @ DESIGN)
LINE = {"dataset": {"kind": "line", "slope": 0.8, "intercept": 1.2, "x": X.tolist()}, "model": {"kind": "linear"}}
TOLERANCE = 1e-6


def boundary(**changes: Any) -> dict[str, Any]:
    start = np.array([0.8, 1.2]) + DIRECTIONS[:, -1]  # the error has the largest curvature alone: no transient
    parameters = {
        "lr": {"min": 1e-3, "max": 0.5, "count": 12, "tolerance": TOLERANCE},
        "init.weight": {"value": float(start[0])},
        "init.bias": {"value": float(start[1])},
    }
    training = {"epochs": 50, "batch_size": 5, "dtype": "float64"}
    changes = {"task": LINE, "training": training, "parameters": parameters} | changes
    return {"method": "boundary", "execution": {"trials_per_shard": 16}} | changes


def edges_of(files: SweepFiles, config: SweepConfig, starts: tuple[str, ...]) -> list[Bracket]:
    return list(brackets(SearchSpace.of(config, starts), pa.concat_tables(files.shards.tables())))


def test_the_edge_of_gradient_descent_is_two_over_the_largest_curvature(
    store: Store, make_prepared: Callable[..., PreparedSweep]
) -> None:
    prepared = make_prepared(**boundary(seeds=[0, 1]), tracking={"trials": "none"})
    files = swept(store, prepared)
    [edge] = edges_of(files, prepared.config, prepared.plan.starts)
    [row] = measured_edges(load_results(files)).to_dict("records")
    assert (row["edge"], row["lower"], row["upper"], row["stable"]) == (1, edge.lower, edge.upper, "below")
    assert row["radius_below"] <= 1 + 1e-5
    assert row["radius_above"] >= 1 - 1e-5
    assert edge.is_stable_below
    assert edge.width <= TOLERANCE
    assert edge.lower * (1 - TOLERANCE) <= 2 / CURVATURES[-1] <= edge.upper * (1 + TOLERANCE)
    assert files.planned().is_complete
    differences = verify(files, MlflowTracker(store.tracking_uri)).differences
    assert [found for found in differences if found.what == "stage"] == []


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_killed_sweep_resumes_to_the_same_trials(
    store: Store, make_prepared: Callable[..., PreparedSweep], shards: int
) -> None:
    prepared = make_prepared(**boundary())
    undisturbed, files = swept(store, prepared), started(store, prepared, "bb")
    with pytest.raises(Interrupted):
        run(files, prepared, Killed(shards), Untracked(), Silent())
    resume(files, InlineExecutor(), Untracked(), Silent())
    assert contents(files) == contents(undisturbed)


def test_edges_that_are_not_monotone_are_all_found(store: Store, make_prepared: Callable[..., PreparedSweep]) -> None:
    parameters = {
        "lr": {"min": 1e-3, "max": 0.1, "count": 100, "tolerance": 1e-4},
        "momentum": {"values": [0, 0.9]},
        "init.weight": {"value": 0},
        "init.bias": {"value": 0},
    }
    training = {"epochs": 2000, "batch_size": 1, "order": "sequential", "dtype": "float64"}
    prepared = make_prepared(**boundary(parameters=parameters, training=training))
    files = swept(store, prepared)
    found = edges_of(files, prepared.config, prepared.plan.starts)
    assert [edge.is_stable_below for edge in found if 0.9 in edge.setting] == [True, False, True]
    table = pa.concat_tables(files.shards.tables()).to_pandas()
    for edge in found:
        momentum = 0.9 if 0.9 in edge.setting else 0.0
        ends = table[table["lr"].isin([edge.lower, edge.upper]) & (table["momentum"] == momentum)]
        np.testing.assert_allclose(ends["predicted_radius"], 1, atol=5e-3)
        assert edge.width <= 1e-4


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "grid"}, "only method boundary has a tolerance"),
        ({"parameters": {"lr": {"values": [0.1]}}}, "method boundary needs one"),
        ({"parameters": {"init.bias": {"min": 1, "max": 2, "tolerance": 0.1}}}, "edges are found along lr"),
        ({"early_terminate": {"type": "median"}}, "early_terminate: method boundary needs the last losses"),
        ({"run_cap": 5}, "method boundary runs all combinations"),
    ],
)
def test_wrong_sweep_files(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(document(**boundary(**changes)), "c.yaml")
