"""What users rename and delete in MLflow: found by the stored ids, logged once, and left deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, log, resume, run
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support.doubles import Silent

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]

Logged = tuple[SweepFiles, MlflowClient, Callable[[], MlflowTracker]]


@pytest.fixture(
    params=["sqlite bulk", "sqlite client", pytest.param("server bulk", marks=pytest.mark.slow), "server client"]
)
def logged(request: Any, store: Store, make_prepared: Callable[..., PreparedSweep]) -> Logged:
    """A sweep of 12 trials that is logged whole, its MLflow, and trackers of it."""
    where, writer = request.param.split()
    uri, database = store.tracking_uri, None
    if where == "server":
        server = request.getfixturevalue("tracking_server")
        uri, database = server.uri, f"sqlite:///{server.database}"
    name = f"renamed {request.node.name}"
    prepared = make_prepared(experiment=name, tracking={"trials": "all", "writer": writer})

    def tracker() -> MlflowTracker:
        return MlflowTracker(
            uri, store.artifacts if where == "sqlite" else None, database if writer == "bulk" else None
        )

    first = tracker()
    files = create(prepared, store, InlineExecutor(), first)
    publish(run(files, prepared, InlineExecutor(), first, Silent()), first)
    return files, MlflowClient(uri), tracker


def again(files: SweepFiles, tracker: Callable[[], MlflowTracker]) -> list[dict[str, Any]]:
    """Resume and log the sweep; return the tracking of both outcomes."""
    found = []
    for act in (lambda t: resume(files, InlineExecutor(), t, Silent()), lambda t: log(files, t, Silent())):
        made = tracker()
        outcome = act(made)
        publish(outcome, made)
        assert (outcome.tracking_error, outcome.unlogged_trials) == (None, 0)
        found.append(files.tracking_record.first())
    return found


def count(client: MlflowClient, files: SweepFiles) -> int:
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    return len(client.search_runs(everywhere, f"tags.`sweeps.sweep_id` = '{files.sweep_id}'"))


def test_a_renamed_experiment_is_found(logged: Logged) -> None:
    files, client, tracker = logged
    place = files.tracking_record.first()
    client.rename_experiment(place["experiment_id"], f"mine {place['run_id']}")
    experiments = len(client.search_experiments())
    for found in again(files, tracker):
        assert (found["run_id"], found["experiment_id"]) == (place["run_id"], place["experiment_id"])
    assert (count(client, files), len(client.search_experiments())) == (13, experiments)
    audit = verify(files, tracker(), sample=0)
    assert (audit.differences, audit.logged, audit.deleted) == ([], 12, 0)


def test_a_deleted_parent_stays_deleted(logged: Logged) -> None:
    files, client, tracker = logged
    run_id = files.tracking_record.first()["run_id"]
    client.delete_run(run_id)
    for found in again(files, tracker):
        assert found["deleted"] == f"the sweep's run {run_id} was deleted in MLflow; restore it to log again"
        assert found["complete"]
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    assert count(client, files) == 12
    audit = verify(files, tracker(), sample=0)
    assert (audit.differences, audit.logged, audit.deleted) == ([], 12, 1)
    client.restore_run(run_id)
    assert "deleted" not in again(files, tracker)[-1]
    assert verify(files, tracker(), sample=0).deleted == 0
    assert count(client, files) == 13


def test_deleted_trials_stay_deleted(logged: Logged) -> None:
    files, client, tracker = logged
    place = files.tracking_record.first()
    children = client.search_runs([place["experiment_id"]], f"tags.`mlflow.parentRunId` = '{place['run_id']}'")
    for child in children[:5]:
        client.delete_run(child.info.run_id)
    again(files, tracker)
    assert count(client, files) == 13 - 5
    audit = verify(files, tracker(), sample=0)
    assert (audit.differences, audit.logged, audit.deleted) == ([], 7, 5)


@pytest.mark.parametrize("logged", ["sqlite bulk", "sqlite client"], indirect=True)
def test_a_database_that_was_replaced_gets_all_runs(logged: Logged, store: Store, migrated_database: Path) -> None:
    files, _, _ = logged
    elsewhere = store.root / "other.db"
    elsewhere.write_bytes(migrated_database.read_bytes())
    files.tracking_record.relocate(store.tracking_uri, f"sqlite:///{elsewhere}")
    again(files, lambda: MlflowTracker(f"sqlite:///{elsewhere}", store.artifacts))
    assert count(MlflowClient(f"sqlite:///{elsewhere}"), files) == 13
