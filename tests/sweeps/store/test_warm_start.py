"""Warm starts: rounds learn from an earlier sweep, whose settings are copied when the new sweep is created."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sweeps.config.loader import loads, parse
from sweeps.errors import ConfigError, InputError
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.report.refined_file import refined_file
from sweeps.results.results import load_results
from sweeps.store.next_stage import next_stage
from sweeps.store.reopen import reopen
from sweeps.store.store import Store, SweepFiles
from sweeps.store.warm_start import MOST_SETTINGS, WARM_START, read_warm_start, warm_start_of
from sweeps.verification.store_audit import stage_differences
from tests.support.documents import document
from tests.support.doubles import Silent, Untracked
from tests.support.stores import contents
from tests.sweeps.search.test_conformance import LEARNING, Killed

LR = {"min": 1e-3, "max": 2, "scale": "log"}
SPACE: dict[str, Any] = {"lr": LR, "momentum": {"min": 0, "max": 0.95}, "clip_grad_norm": {"values": [None, 1.0]}}
EARLIER = {"method": "random", "run_cap": 60, "parameters": SPACE, "seeds": [1, 2]}
NEW = {"method": "tpe", "run_cap": 24, "batch": 8, "parameters": SPACE, "warm_start": "ee"}


def prepared_of(**changes: Any) -> PreparedSweep:
    return prepare(parse(document(training={"epochs": 20}) | changes, "c.yaml"))


def created(store: Store, prepared: PreparedSweep, sweep_id: str) -> SweepFiles:
    return create(prepared, store, InlineExecutor(), Untracked(), fresh=True, sweep_id=sweep_id)


def swept(store: Store, prepared: PreparedSweep, sweep_id: str) -> SweepFiles:
    files = created(store, prepared, sweep_id)
    run(files, prepared, InlineExecutor(), Untracked(), Silent())
    return files


@pytest.fixture
def earlier(store: Store) -> SweepFiles:
    return swept(store, prepared_of(**EARLIER), "ee")


@pytest.mark.parametrize("method", LEARNING)
def test_rounds_learn_from_an_earlier_sweep_also_when_it_is_gone(
    method: str, store: Store, earlier: SweepFiles
) -> None:
    prepared = prepared_of(**NEW | {"method": method, "run_cap": 8, "batch": 4})
    whole, killed = swept(store, prepared, "aa"), created(store, prepared, "bb")
    store.remove(earlier)
    with pytest.raises(Interrupted):
        run(killed, prepared, Killed(1), Untracked(), Silent())
    resume(killed, InlineExecutor(), Untracked(), Silent())
    assert contents(whole) == contents(killed)
    again = reopen(whole)
    assert len(again.plan) == 8
    assert list(stage_differences(again, whole)) == []
    cold = next_stage(whole, replace(again, config=again.config.model_copy(update={"warm_start": None})), 1)
    assert cold is not None
    assert not set(cold.trials[0]["lr"]) & set(again.plan.stages[1].trials[0]["lr"])


def test_the_settings_are_means_over_seeds_the_best_first(store: Store, earlier: SweepFiles) -> None:
    start = read_warm_start(created(store, prepared_of(**NEW), "aa"))
    trials = load_results(earlier).trials
    trials["overflowed"] = trials["first_nonfinite_step"].notna()
    own = trials.groupby(["lr", "momentum", "clip_grad_norm"], as_index=False)
    expected = own.agg({"final_loss": "mean", "overflowed": "any", "first_nonfinite_step": "min"})
    found = start.settings.to_pandas()
    assert start.sweep_id == "ee"
    assert len(found) == len(expected) == 30
    merged = found.fillna({"clip_grad_norm": np.inf}).merge(expected, on=["lr", "momentum", "clip_grad_norm"])
    assert len(merged) == 30
    overflowed = merged["overflowed"].to_numpy()
    assert overflowed.any()
    assert merged["final_loss_x"].isna().equals(merged["overflowed"])
    np.testing.assert_allclose(merged["final_loss_x"][~overflowed], merged["final_loss_y"][~overflowed], rtol=1e-12)
    np.testing.assert_array_equal(merged["first_nonfinite_step_x"], merged["first_nonfinite_step_y"].astype(float))
    assert found["final_loss"].dropna().is_monotonic_increasing
    assert found["final_loss"].isna().is_monotonic_increasing


def test_only_settings_of_the_new_search_space_count(store: Store, earlier: SweepFiles) -> None:
    trials = load_results(earlier).trials
    inside = trials["lr"].between(0.01, 0.1) & np.isinf(trials["clip_grad_norm"])
    start = warm_start_of(
        store,
        prepared_of(**NEW | {"parameters": {"lr": LR | {"min": 0.01, "max": 0.1}, "momentum": SPACE["momentum"]}}),
    )
    assert start is not None
    assert sorted(start.settings["lr"].to_pylist()) == sorted(trials["lr"][inside].unique())
    assert start.settings.column_names == ["lr", "momentum", "final_loss", "first_nonfinite_step"]


def test_of_many_settings_the_best_and_some_of_the_others_are_copied(store: Store) -> None:
    files = swept(store, prepared_of(method="sobol", run_cap=1000, parameters={"lr": LR}, execution={}), "ee")
    start = warm_start_of(store, prepared_of(**NEW | {"parameters": {"lr": LR}}))
    assert start is not None
    trials = load_results(files).trials
    best = trials[trials["first_nonfinite_step"].isna()].sort_values("final_loss")["lr"].to_list()
    found = start.settings["lr"].to_pylist()
    assert len(found) == len(set(found)) == MOST_SETTINGS
    assert found[: MOST_SETTINGS // 2] == best[: MOST_SETTINGS // 2]
    assert start.settings["final_loss"].null_count > 0


def test_pruned_settings_follow_those_trained_to_the_end(store: Store) -> None:
    rule = {"type": "successive_halving", "min_epochs": 2}
    files = swept(store, prepared_of(**EARLIER | {"parameters": {"lr": LR}, "early_terminate": rule}), "ee")
    start = warm_start_of(store, prepared_of(**NEW | {"parameters": {"lr": LR}}))
    assert start is not None
    found = start.settings.to_pandas()
    finite = found[found["final_loss"].notna()]
    epochs = finite["stopped_epoch"].fillna(np.inf)
    assert epochs.is_monotonic_decreasing
    assert epochs.nunique() > 1
    for _, rung in finite.groupby(epochs):
        assert rung["final_loss"].is_monotonic_increasing
    trials = load_results(files).trials
    assert set(finite["lr"][np.isinf(epochs)]) == set(trials["lr"][~trials["pruned"]])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"warm_start": "abc"}, "warm_start: 'abc': no such sweep in the store"),
        (
            {"parameters": SPACE | {"clip_grad_value": {"values": [1.0, 2.0]}}},
            "has no axis clip_grad_value, which this",
        ),
        ({"parameters": {"lr": {"min": 5, "max": 6}}}, "has no setting in the search space of this sweep"),
        (
            {"task": {"dataset": {"kind": "line", "slope": 2}}},
            "has another task.dataset: its results cannot be compared",
        ),
        ({"task": {"dataset": {"kind": "line"}, "loss": "mae"}}, "has another task.loss"),
    ],
)
def test_a_sweep_that_does_not_fit_is_one_line_and_nothing_is_written(
    store: Store, earlier: SweepFiles, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as raised:
        created(store, prepared_of(**NEW | changes), "aa")
    assert "\n" not in str(raised.value)
    assert [files.sweep_id for files in store.sweeps()] == ["ee"]


def test_an_axis_or_a_metric_that_only_one_sweep_has_is_named(store: Store) -> None:
    schedule = {"epochs": 20, "schedule": {"kind": "exponential", "gamma": 0.9}}
    axes = {"lr": LR, "schedule.gamma": {"min": 0.5, "max": 1}}
    swept(store, prepared_of(method="random", run_cap=4, parameters=axes, training=schedule), "ee")
    with pytest.raises(InputError, match=r"has the axis schedule\.gamma, which this sweep does not have"):
        created(store, prepared_of(**NEW | {"parameters": {"lr": LR}}), "aa")
    created(store, prepared_of(method="random", run_cap=4, parameters={"lr": LR}), "ff")
    with pytest.raises(InputError, match="has no results yet"):
        created(store, prepared_of(**NEW | {"parameters": {"lr": LR}, "warm_start": "ff"}), "aa")


def test_methods_that_do_not_learn_reject_a_warm_start() -> None:
    with pytest.raises(ConfigError, match="warm_start: method random does not learn from results; tpe, cmaes, gp do"):
        prepared_of(**EARLIER | {"warm_start": "ee"})


@pytest.mark.parametrize("damage", ["{}", '{"sweep_id": "ee", "columns": {"lr": [1.0], "final_loss": []}}', None])
def test_a_damaged_copy_is_one_line(store: Store, earlier: SweepFiles, damage: str | None) -> None:
    files = created(store, prepared_of(**NEW), "aa")
    path = files.folder / WARM_START
    if damage is None:
        path.unlink()
    else:
        path.write_text(damage)
    with pytest.raises(InputError, match=WARM_START):
        read_warm_start(files)


def test_a_warm_start_finds_better_settings_in_as_many_trials(store: Store, earlier: SweepFiles) -> None:
    best = []
    for index, warm in enumerate((None, "ee")):
        prepared = prepared_of(
            **NEW | {"warm_start": warm, "run_cap": 16, "training": {"epochs": 20, "dtype": "float64"}}
        )
        trials = load_results(swept(store, prepared, f"a{index}")).trials
        best.append(trials["final_loss"][8:].median())
    assert best[1] < best[0]


def test_the_refined_file_of_a_method_that_learns_starts_warm(store: Store) -> None:
    files = swept(store, prepared_of(**NEW | {"warm_start": None}), "ab")
    text = refined_file(load_results(files))
    assert "warm_start: ab" in text.splitlines()
    again = prepare(loads(text, "next.yaml"))
    start = warm_start_of(store, again)
    assert start is not None
    assert 0 < len(start.settings) <= 24
    assert json.loads((created(store, again, "ac").folder / WARM_START).read_text())["sweep_id"] == "ab"


@pytest.mark.slow
def test_a_shared_store_holds_the_copy(s3_store: Store) -> None:
    swept(s3_store, prepared_of(**EARLIER | {"run_cap": 8}), "ee")
    files = created(s3_store, prepared_of(**NEW), "aa")
    assert read_warm_start(files).sweep_id == "ee"
    assert len(read_warm_start(files).settings) == 4
