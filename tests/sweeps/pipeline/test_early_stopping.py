"""Sweeps with early stopping: columns, ids, MLflow, replay and audit; and best_epoch, which every trial has."""

import hashlib
import json
import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, run
from sweeps.planning.identity import identity
from sweeps.planning.prepared import PreparedSweep
from sweeps.report import figures
from sweeps.report.tables import report_tables
from sweeps.report.trial_tables import best_trials
from sweeps.results.provenance import settings
from sweeps.results.results import load_results
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from sweeps.verification.expected import check_expected
from sweeps.verification.replay import replay_trial
from sweeps.version import __version__
from tests.support.doubles import Silent
from tests.support.stores import computed_into

pytestmark = pytest.mark.usefixtures("no_figures")

MakePrepared = Callable[..., PreparedSweep]
Stored = Callable[[PreparedSweep], SweepFiles]
RULE = {"patience": 2, "min_delta": 0.001}
NOISY: dict[str, Any] = {
    "task": {"dataset": {"kind": "linear", "n": 30, "d": 3, "noise": 1.0, "validation": 0.3}},
    "training": {"epochs": 12, "batch_size": 4, "order": "shuffled", "early_stopping": RULE},
    "parameters": {"lr": {"min": 1e-3, "max": 1, "count": 6, "scale": "log"}, "momentum": {"values": [0, 0.9]}},
    "record": {"points": 11, "spacing": "linear"},
    "seeds": [0, 3],
    "execution": {"trials_per_shard": 10},
    "tracking": {"trials": "none", "model": "none"},
}
SWEPT: dict[str, dict[str, Any]] = {
    "linear": NOISY,
    "by training loss": NOISY | {"metric": {"name": "best_loss"}},
    "batch sizes": NOISY | {"parameters": {"lr": {"values": [0.01, 0.1]}, "batch_size": {"values": [3, 8]}}},
    "scheduled": NOISY | {"training": NOISY["training"] | {"schedule": {"kind": "step", "step_size": 2, "gamma": 0.5}}},
    "perceptron": NOISY | {"task": NOISY["task"] | {"model": {"kind": "mlp", "hidden": [4]}}, "seeds": [0]},
    "torch's kernel": NOISY
    | {"task": NOISY["task"] | {"model": {"kind": "mlp", "hidden": [4], "activation": "gelu"}}, "seeds": [0]},
}


def swept(store: Store, prepared: PreparedSweep) -> SweepFiles:
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    publish(outcome, tracker)
    assert outcome.tracking_error is None
    return files


def differences(files: SweepFiles) -> list[str]:
    tracker = MlflowTracker(Store.of(files).tracking_uri)
    return [str(difference) for difference in verify(files, tracker, sample=100).differences]


def rows(files: SweepFiles) -> list[dict[str, Any]]:
    return [row for table in files.shards.tables() for row in table.to_pylist()]


@pytest.mark.parametrize(
    "name", ["linear", *(pytest.param(name, marks=pytest.mark.slow) for name in SWEPT if name != "linear")]
)
def test_columns_follow_from_the_curves_and_torch_agrees(store: Store, make_prepared: MakePrepared, name: str) -> None:
    prepared = make_prepared(**SWEPT[name])
    files = swept(store, prepared)
    assert differences(files) == []
    stopped = 0
    for index in sorted(files.shards.done()):
        steps = np.array(files.shards.metadata(index)["steps"])
        per_epoch = steps[-1] / prepared.config.training.epochs
        for row in files.shards.read(index).to_pylist():
            curve = np.array(row["validation_loss"], dtype=float)
            best = int(np.nanargmin(curve))
            assert row["best_epoch"] == steps[best] / per_epoch
            assert row["best_validation_loss"] == curve[best]
            followed = row["loss"] if name == "by training loss" else row["validation_loss"]
            ends, restored = by_hand([math.nan if value is None else value for value in followed])
            if row["first_nonfinite_step"] is not None:
                assert row["stopped_epoch"] is None
                continue
            assert row["final_loss"] == row["loss"][restored]
            assert row["final_validation_loss"] == row["validation_loss"][restored]
            assert row["stopped_epoch"] == (None if ends is None else steps[ends] / per_epoch)
            stopped += ends is not None and ends < len(steps) - 1
            last = row["loss"][-1 if ends is None else ends]
            assert (row["verdict"] == "diverged") == (last is None or last > 1e6 * row["loss"][0])
            if "param.bias" in row:
                assert row["final"][-1] == row["param.bias"][restored]
    assert stopped > 2
    for number in range(0, len(prepared.plan), 5):
        replayed = replay_trial(files, str(number))
        assert replayed.agrees, replayed.conclusion
        assert replayed.facts["store_holds_the_same"]


def by_hand(curve: list[float]) -> tuple[int | None, int]:
    """The point at which the rule stops a trial with this curve, and the point of its best value."""
    best, point_of_best = math.inf, 0
    for point, value in enumerate(curve):
        if value + RULE["min_delta"] < best:
            best, point_of_best = value, point
        elif point - point_of_best >= RULE["patience"]:
            return point, point_of_best
    return None, point_of_best


def test_replay_ends_where_the_trial_stopped(make_prepared: MakePrepared, stored: Stored, store: Store) -> None:
    prepared = make_prepared(**NOISY)
    files = stored(prepared)
    row = next(row for row in rows(files) if 0 < row["best_epoch"] < (row["stopped_epoch"] or 0) < 12)
    last, best = round(row["stopped_epoch"] * 6), round(row["best_epoch"] * 6)
    replayed = replay_trial(files, str(row["trial"]))
    assert len(replayed.frame) == last
    assert (replayed.facts["stopped_early"], replayed.facts["restored_step"]) == (True, best)
    note = f"it stopped early and has the parameters of its best point, step {best}"
    assert note in replayed.conclusion
    assert note not in replay_trial(files, str(row["trial"]), 3).conclusion
    (files.shards.folder / f"{row['trial'] // 10:05}.parquet").unlink()
    again = replay_trial(files, str(row["trial"]))
    assert again.frame.equals(replayed.frame)


@pytest.mark.parametrize(
    ("column", "change", "told"),
    [
        ("stopped_epoch", lambda row: row["stopped_epoch"] + 1, "stopped_epoch (trial {trial}, by its curve)"),
        ("best_epoch", lambda row: row["best_epoch"] + 1, "best_epoch (trial {trial}, recomputed)"),
        ("final", lambda row: [row[f"param.{name}"][-1] or 9.0 for name in NAMES], "final[0] (trial {trial}, recomp"),
        ("loss", lambda row: [value or row["loss"][0] for value in row["loss"]], "loss["),
    ],
)
def test_what_does_not_follow_is_told(
    make_prepared: MakePrepared, store: Store, column: str, change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    files = swept(store, make_prepared(**NOISY))
    table = files.shards.read(0)
    place = next(i for i, row in enumerate(table.to_pylist()) if (row["stopped_epoch"] or 12) < 12)
    values = table[column].to_pylist()
    values[place] = change(table.to_pylist()[place])
    changed = pa.array(values, table.schema.field(column).type)
    files.shards.replace(0, table.set_column(table.column_names.index(column), column, changed))
    found = differences(files)
    assert any(told.format(trial=place) in line for line in found), found


NAMES = ("weight.0", "weight.1", "weight.2", "bias")


def test_mlflow_has_the_epochs_and_a_tag(make_prepared: MakePrepared, store: Store) -> None:
    files = swept(store, make_prepared(**NOISY | {"tracking": {"trials": "all", "model": "none"}}))
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    by_id = {
        run.data.tags["sweeps.trial_id"]: run.data
        for run in client.search_runs([experiment], "tags.`mlflow.parentRunId` != ''")
    }
    for row in rows(files):
        found = by_id[row["trial_id"]]
        assert found.metrics["best_epoch"] == row["best_epoch"]
        assert found.metrics.get("stopped_epoch") == row["stopped_epoch"]
        assert found.tags["sweeps.stopped_early"] == ("false" if row["stopped_epoch"] is None else "true")
    assert differences(files) == []
    plain = swept(store, make_prepared(name="plain"))
    runs = client.search_runs([client.get_experiment_by_name("plain").experiment_id], "tags.`mlflow.parentRunId` != ''")
    assert {run.data.metrics["best_epoch"] for run in runs} == {row["best_epoch"] for row in rows(plain)}
    assert not any("sweeps.stopped_early" in run.data.tags for run in runs)


@pytest.mark.slow
def test_the_logged_model_has_the_restored_parameters(make_prepared: MakePrepared, store: Store) -> None:
    prepared = make_prepared(**NOISY | {"tracking": {"trials": "none", "model": "best"}})
    files = swept(store, prepared)
    best = load_results(files).aggregate.best.table.to_pylist()[0]
    [row] = [row for row in rows(files) if row["trial"] == best["trial"]]
    assert row["stopped_epoch"] is not None
    assert row["final"] != [row[f"param.{name}"][-1] for name in NAMES]
    client = MlflowClient(store.tracking_uri)
    [model] = client.search_logged_models([client.get_experiment_by_name("small").experiment_id])
    loaded = mlflow.pyfunc.load_model(model.artifact_location)  # set_tracking_uri would apply to all later tests
    held_out = prepared.task.dataset.validation
    assert held_out is not None
    *weights, bias = row["final"]
    predicted = loaded.predict(pd.DataFrame(held_out.inputs, columns=["x0", "x1", "x2"]))
    np.testing.assert_allclose(predicted, held_out.inputs @ np.array(weights) + bias, rtol=1e-6)
    assert np.mean(np.square(predicted - held_out.targets)) == pytest.approx(row["final_validation_loss"], rel=1e-6)


def test_the_rule_is_part_of_a_trials_identity(make_prepared: MakePrepared) -> None:
    def first_id(**changes: Any) -> str:
        plan = make_prepared(**NOISY | changes).plan
        return plan.ids(plan.trials(0, 1))[0]

    training = NOISY["training"]
    plain = {key: value for key, value in training.items() if key != "early_stopping"}
    ids = [
        first_id(),
        first_id(training=plain),
        first_id(training=training | {"early_stopping": {"patience": 3, "min_delta": 0.001}}),
        first_id(training=training | {"early_stopping": {"patience": 2}}),
        first_id(metric={"name": "final_loss"}),
        first_id(record={"points": 12, "spacing": "linear"}),
        first_id(record={"points": 11, "spacing": "log"}),
    ]
    assert len(set(ids)) == len(ids)
    assert first_id(metric={"name": "best_validation_loss"}) == ids[0]
    prepared = make_prepared(**NOISY | {"training": plain})
    assert "early_stopping" not in str(identity(prepared.config, prepared.task))
    assert first_id(training=plain, record={"points": 12}) == ids[1]


def test_the_report_shows_where_trials_stopped(make_prepared: MakePrepared, stored: Stored, store: Store) -> None:
    results = load_results(stored(make_prepared(**NOISY)))
    table = best_trials(results)
    assert {"best_epoch", "stopped_epoch"} < set(table.columns)
    assert "best_step" not in table.columns
    shown = settings(results).set_index("setting")["value"]
    assert shown["early stopping"] == "patience 2 recorded points, min_delta 0.001, of the validation loss"
    curves = results.curves(results.trials["trial"].tolist()).pivot_table("loss", "trial", "step", dropna=False)
    [median] = [trace.y for trace in figures.loss_curves(results).data if " stalled, " in (trace.name or "")]
    stalled = curves.loc[results.trials["verdict"].to_numpy() == "stalled"]
    assert stalled.isna().any(axis=None)
    np.testing.assert_array_equal(median, np.quantile(stalled.ffill(axis=1), 0.5, axis=0, method="nearest"))
    plain = computed_into(store, "ab", make_prepared())
    assert "early stopping" not in settings(load_results(plain)).to_string()


def test_expected_trials_are_compared_up_to_their_stops(make_prepared: MakePrepared, stored: Stored) -> None:
    expected = [{"case": "torch", "where": {"momentum": 0}, "final": "torch.optim.SGD"}]
    prepared = make_prepared(**NOISY | {"expected": expected, "parameters": {"lr": [0.02, 0.1], "momentum": [0]}})
    outcomes = check_expected(prepared, load_results(stored(prepared)))
    assert len(outcomes) == 4
    assert all(outcome.matches for outcome in outcomes)


@pytest.mark.parametrize("earlier", [[0], [1, 2], [0, 1, 2]])
def test_shards_of_earlier_versions_have_no_best_epoch(
    make_prepared: MakePrepared, store: Store, earlier: list[int]
) -> None:
    prepared = make_prepared(tracking={"trials": "all"})
    files = swept(store, prepared)
    for index in earlier:
        path = files.shards.folder / f"{index:05}.parquet"
        pq.write_table(pq.read_table(path).drop_columns(["best_epoch"]), path)
    manifest = json.loads(files.plan_path.read_text())
    assert manifest.pop("added") == ["best_epoch"]
    assert "mlflow: metric best_epoch (trial " in " ".join(differences(files))
    files.plan_path.write_text(json.dumps(manifest))
    assert differences(files) == []
    results = load_results(files)
    assert len(results.trials) == 12
    assert ("best_epoch" in best_trials(results).columns) == (0 not in earlier)
    assert [table.key for table in report_tables(results)]
    known = pa.concat_tables(files.shards.tables(["trial", "best_epoch"]))
    missing = known.filter(pc.is_null(known["best_epoch"]))["trial"].to_pylist()
    assert missing == [trial for index in earlier for trial in range(4 * index, 4 * index + 4)]


def test_rows_without_the_column_are_not_reused(make_prepared: MakePrepared, store: Store) -> None:
    prepared = make_prepared()
    files = swept(store, prepared)
    for path in files.shards.folder.iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["best_epoch"]), path)
    document = {  # as it was before the column
        "context": prepared.plan.context,
        "record": prepared.config.record.model_dump(mode="json"),
        "verdict": prepared.config.verdict.model_dump(mode="json"),
        "starts": prepared.plan.starts,
        "versions": {"sweeps": __version__, **{name: version(name) for name in ("numpy", "numba", "torch")}},
    }
    key = hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=16).hexdigest()
    manifest = json.loads(files.plan_path.read_text())
    assert manifest["results"] != key
    files.plan_path.write_text(json.dumps(manifest | {"results": key}))
    again = swept(store, prepared)
    assert all(row["best_epoch"] is not None for row in rows(again))
