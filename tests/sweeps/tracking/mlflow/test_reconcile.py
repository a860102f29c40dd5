"""A sweep that was logged with shards missing, and then resumed: MLflow holds what the whole sweep says."""

from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from sweeps.config.loader import parse
from sweeps.execution.inline import InlineExecutor
from sweeps.execution.worker import run_shard
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import ShardResult
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support.documents import document
from tests.support.doubles import Silent, Without

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]

NETWORK: dict[str, Any] = {
    "task": {"dataset": {"kind": "sine", "n": 9}, "model": {"kind": "mlp", "hidden": [3]}},
    "training": {"epochs": 60, "batch_size": 3},
    "parameters": {"lr": {"min": 0.001, "max": 0.3, "count": 16, "scale": "log"}},
    "verdict": {"rtol": 0.2},
}
SWEEPS: dict[str, dict[str, Any]] = {
    "network": NETWORK,
    "best": {"tracking": {"trials": "top:5"}},
    "best of a network": NETWORK | {"tracking": {"trials": "top:5"}},
}


def tracker_of(store: Store) -> MlflowTracker:
    return MlflowTracker(store.tracking_uri, store.artifacts)


def best_shard(prepared: PreparedSweep) -> int:
    found = [run_shard(prepared, shard) for shard in prepared.plan.shards()]
    assert all(isinstance(result, ShardResult) for result in found)
    losses = [min(v for v in r.table["final_loss"].to_pylist() if v is not None) for r in found]  # type: ignore[union-attr]
    return losses.index(min(losses))


def logged_without(store: Store, name: str, writer: str) -> tuple[SweepFiles, int]:
    """A sweep that was logged without the shard of its best trial."""
    sweep = SWEEPS[name] | {"tracking": {"writer": writer, **SWEEPS[name].get("tracking", {})}}
    prepared = prepare(parse(document(**sweep), "test.yaml"))
    missing = best_shard(prepared)
    tracker, executor = tracker_of(store), Without({missing})
    files = create(prepared, store, executor, tracker)
    outcome = run(files, prepared, executor, tracker, Silent())
    publish(outcome, tracker)
    assert outcome.failed_trials == 4
    return files, missing


def resumed(files: SweepFiles, tracker: MlflowTracker) -> None:
    outcome = resume(files, InlineExecutor(), tracker, Silent())
    publish(outcome, tracker)
    assert outcome.tracking_error is None


def assert_clean(files: SweepFiles, trials: int) -> None:
    audit = verify(files, tracker_of(Store.of(files)), sample=2)
    assert [str(difference) for difference in audit.differences] == []
    assert audit.logged == trials


def children(store: Store, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("small")
    return list(client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` != ''", view))


@pytest.mark.parametrize("writer", ["bulk", "client"])
@pytest.mark.parametrize("name", SWEEPS)
def test_what_was_logged_too_early_is_brought_in_line(store: Store, name: str, writer: str) -> None:
    files, _ = logged_without(store, name, writer)
    before = {run.data.tags["sweeps.trial_id"]: run.data for run in children(store)}
    resumed(files, tracker_of(store))
    count = 5 if name.startswith("best") else 16
    assert_clean(files, count)
    after = {run.data.tags["sweeps.trial_id"]: run.data for run in children(store)}
    if name == "network":
        assert any(before[trial].tags["sweeps.verdict"] != after[trial].tags["sweeps.verdict"] for trial in before)
    else:
        assert before.keys() - after.keys()
        assert len(children(store, ViewType.DELETED_ONLY)) >= len(before.keys() - after.keys())
    runs = sorted(run.info.run_id for run in children(store))
    resumed(files, tracker_of(store))
    assert_clean(files, count)
    assert sorted(run.info.run_id for run in children(store)) == runs


@pytest.mark.parametrize("writer", ["bulk", "client"])
@pytest.mark.parametrize("call", ["create_run", "set_terminated", "delete_run", "set_tag"])
def test_a_fault_while_it_is_brought_in_line(
    store: Store, writer: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial has a run at any time; the next try ends what this one has begun."""
    files, missing = logged_without(store, "network", writer)
    tracker = tracker_of(store)
    with monkeypatch.context() as patch:
        patch.setattr(tracker.client, call, _fails_at(2, getattr(tracker.client, call)))
        outcome = resume(files, InlineExecutor(), tracker, Silent())
        if outcome.tracking_error is None:
            publish(outcome, tracker)
    logged = {run.data.tags["sweeps.trial_id"] for run in children(store)}
    first = {trial for table in _others(files, missing) for trial in table["trial_id"].to_pylist()}
    assert first <= logged
    resumed(files, tracker_of(store))
    assert_clean(files, 16)


def _others(files: SweepFiles, missing: int) -> list[Any]:
    return [files.shards.read(index, ["trial_id"]) for index in files.shards.done() - {missing}]


def _fails_at(last: int, call: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(last))

    def failing(*arguments: Any, **named: Any) -> Any:
        if next(calls, None) is None:
            raise ConnectionError("cut off")
        return call(*arguments, **named)

    return failing
