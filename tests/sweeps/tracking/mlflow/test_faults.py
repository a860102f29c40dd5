"""Tracking may fail at any moment: computing goes on, the report is written, and resume logs what is missing, once."""

import os
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from sweeps.config import strict_yaml
from sweeps.execution.executor import ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard
from sweeps.store.store import Store
from sweeps.tracking.mlflow.database import sqlite
from sweeps.tracking.mlflow.server.ui import serve
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support.command_line import Cli
from tests.support.documents import document
from tests.support.doubles import Silent
from tests.support.processes import until

pytestmark = pytest.mark.usefixtures("no_figures")

MakePrepared = Callable[..., PreparedSweep]


def logged(client: MlflowClient, name: str = "small") -> Counter[str]:
    """How many finished child runs each trial has."""
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` != ''", max_results=5000)
    assert {run.info.status for run in runs} <= {"FINISHED"}
    return Counter(run.data.tags["sweeps.trial_id"] for run in runs)


class Disturbed(InlineExecutor):
    """Lets something happen after the first shard."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self.happens = happens

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        for index, result in enumerate(super().run(prepared, shards)):
            yield result
            if index == 0:
                self.happens()


@pytest.mark.parametrize("policy", ["all", "top:7"])
@pytest.mark.parametrize("writer", ["bulk", "client"])
def test_an_experiment_that_is_deleted_meanwhile_stops_no_computing(
    store: Store, make_prepared: MakePrepared, policy: str, writer: str
) -> None:
    client = MlflowClient(store.tracking_uri)
    prepared = make_prepared(tracking={"trials": policy, "writer": writer})

    def delete() -> None:
        experiment = until(lambda: client.get_experiment_by_name("small"), seconds=60, pause=0.01)
        client.delete_experiment(experiment.experiment_id)

    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, Disturbed(delete), tracker, Silent())
    assert len(files.shards.done()) == 3
    assert outcome.tracking_error is not None
    count = 12 if policy == "all" else 7
    assert 0 < outcome.unlogged_trials <= count
    assert files.tracking_record.first()["logged"] == count - outcome.unlogged_trials
    assert files.tracking_record.first()["error"]
    assert files.state() == "computed"
    client.restore_experiment(client.get_experiment_by_name("small").experiment_id)
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    outcome = resume(files, InlineExecutor(), tracker, Silent())
    publish(outcome, tracker)
    assert outcome.tracking_error is None
    assert outcome.unlogged_trials == 0
    assert "error" not in files.tracking_record.first()
    assert sorted(logged(client).values()) == [1] * count


def test_a_database_that_is_locked_stops_no_computing(
    store: Store, make_prepared: MakePrepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.1)
    prepared = make_prepared()
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    # The parent run is there; then somebody takes the database for himself.
    started = tracker.start

    def start_and_lock(sweep: object) -> dict[str, str]:
        found = started(sweep)  # type: ignore[arg-type]
        locking.execute("BEGIN EXCLUSIVE")
        return found

    locking = sqlite3.connect(store.root / "mlflow.db", isolation_level=None, check_same_thread=False)
    monkeypatch.setattr(tracker, "start", start_and_lock)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    locking.execute("ROLLBACK")
    locking.close()
    assert len(files.shards.done()) == 3
    assert "locked" in str(outcome.tracking_error)
    assert outcome.unlogged_trials == 12
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    publish(resume(files, InlineExecutor(), tracker, Silent()), tracker)
    assert sorted(logged(MlflowClient(store.tracking_uri)).values()) == [1] * 12
    assert files.tracking_record.first()["complete"]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_a_repeated_call_made_twice_is_one_again(
    store: Store, make_prepared: MakePrepared, finished: bool
) -> None:
    """MLflow's client repeats a call whose answer was lost: then a trial has a run that nobody knows of."""
    prepared = make_prepared(tracking={"writer": "client"})
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    publish(run(files, prepared, InlineExecutor(), tracker, Silent()), tracker)
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    [first, *_] = client.search_runs([experiment], "tags.`mlflow.parentRunId` != ''")
    keys = ("mlflow.parentRunId", "sweeps.trial_id", "sweeps.sweep_id")
    again = client.create_run(experiment, tags={key: first.data.tags[key] for key in keys})
    if finished:
        client.set_terminated(again.info.run_id)
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    publish(resume(files, InlineExecutor(), tracker, Silent()), tracker)
    assert sorted(logged(client).values()) == [1] * 12
    deleted = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    assert len(deleted) == 1
    assert finished or deleted[0].info.run_id == again.info.run_id


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_sweep_and_started_again(cli: Cli, store: Store, tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    parameters = {"lr": {"min": 0.001, "max": 0.05, "count": 150}}
    config.write_text(strict_yaml.write(document(parameters=parameters, execution={"trials_per_shard": 10})))
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    with serve(store, 0) as (address, server):
        process = cli.start("run", config, "--executor", "inline", "--tracking-uri", address, **patience)
        client = MlflowClient(store.tracking_uri)

        def some_are_finished() -> bool | None:
            experiment = client.get_experiment_by_name("small")
            return experiment and len(client.search_runs([experiment.experiment_id], "status = 'FINISHED'")) > 10

        until(some_are_finished, seconds=120, pause=0.05)
        os.killpg(server.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 5, out + err
    assert "Traceback" not in err
    [files] = store.sweeps()
    assert len(files.shards.done()) == 15
    assert (files.report.folder / "report.html").exists()
    assert files.state() == "computed"
    told = re.search(
        r"all trials are computed and reported, but (\d+) trials are not in MLflow yet: .*"
        rf"log what is missing with: sweeps resume {files.sweep_id}\n",
        err,
    )
    assert told is not None, err
    assert 0 < int(told[1]) < 150
    refused = cli("resume", files.sweep_id, "--executor", "inline", code=2, **patience)
    assert f"{address}: the tracking server cannot be reached" in refused.stderr
    port = int(address.rpartition(":")[2])
    with serve(store, port):
        cli("resume", files.sweep_id, "--executor", "inline")
    assert files.state() == "reported"
    counts = logged(MlflowClient(store.tracking_uri))
    assert len(counts) == 150
    assert set(counts.values()) == {1}
    ids = {trial_id for table in files.shards.tables(["trial_id"]) for trial_id in table["trial_id"].to_pylist()}
    assert set(counts) == ids
    assert verify(files, MlflowTracker(store.tracking_uri), sample=5).differences == []
