"""``sweeps log``: a computed sweep into any MLflow, whole or what is missing of it, once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.base import TrackedSweep
from sweeps.tracking.mlflow.database.sqlite import SqliteDatabase
from sweeps.tracking.mlflow.self_test import rows
from sweeps.tracking.mlflow.tracker import MlflowTracker
from tests.support.command_line import Cli
from tests.support.proxy import Proxy
from tests.support.tracking import TrackingServer

pytestmark = pytest.mark.slow


@pytest.fixture
def prepared(make_prepared: Callable[..., PreparedSweep], request: Any) -> PreparedSweep:
    return make_prepared(experiment=request.node.name, tracking={"trials": "all"})


@pytest.fixture
def files(prepared: PreparedSweep, stored: Callable[[PreparedSweep], SweepFiles]) -> SweepFiles:
    """A sweep of twelve trials, computed and logged nowhere."""
    return stored(prepared)


@pytest.fixture
def elsewhere(tmp_path: Path, migrated_database: Path) -> Path:
    """Another MLflow database."""
    return Path(shutil.copy(migrated_database, tmp_path / "elsewhere.db"))


def runs(client: MlflowClient, experiment: str, kind: str) -> list[Run]:
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], max_results=1000)
    return [run for run in found if ("mlflow.parentRunId" in run.data.tags) == (kind == "child")]


def logged(client: MlflowClient, experiment: str) -> list[Any]:
    """All that the trials' runs hold, but for ids and times."""
    found = []
    for run in runs(client, experiment, "child"):
        tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.parentRunId"}
        curve = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
        found.append((run.info.run_name, run.info.status, tags, run.data.params, run.data.metrics, curve))
    return sorted(found, key=lambda record: record[0])


def test_a_sweep_is_logged_to_another_database_beside_its_own(
    cli: Cli, store: Store, files: SweepFiles, prepared: PreparedSweep, elsewhere: Path
) -> None:
    cli("log", files.sweep_id)
    own = files.tracking_record.first()
    assert own["uri"] == store.tracking_uri
    assert own["complete"] is True
    out = cli("log", files.sweep_id, "--tracking-uri", f"sqlite:///{elsewhere}", "--writer", "client").stdout
    assert "logged 12 of 12" in out
    assert f"tracking: sqlite:///{elsewhere}" in out
    assert "writer:   client (as requested)" in out
    here, there = MlflowClient(store.tracking_uri), MlflowClient(f"sqlite:///{elsewhere}")
    name = prepared.config.experiment
    assert name is not None
    assert len(logged(there, name)) == 12
    assert logged(there, name) == logged(here, name)
    [parent] = runs(there, name, "parent")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["trials"] == 12
    assert [entry.dataset.name for entry in parent.inputs.dataset_inputs] == ["line"]
    kept = {artifact.path for artifact in there.list_artifacts(parent.info.run_id)}
    assert kept == {"config.yaml", "plan.json", "shards", "report", "figures", "best_trials.json"}
    assert files.tracking_record.first() == own
    assert [(place["uri"], place["complete"]) for place in files.tracking_record.places()] == [
        (store.tracking_uri, True),
        (f"sqlite:///{elsewhere}", True),
    ]
    shown = cli("show", files.sweep_id).stdout
    assert f"logged to {store.tracking_uri}\n" in shown
    assert f"logged to sqlite:///{elsewhere}\n" in shown
    before = [rows(SqliteDatabase(path)) for path in (elsewhere, store.root / "mlflow.db")]
    cli("log", files.sweep_id, "--tracking-uri", f"sqlite:///{elsewhere}")
    cli("log", files.sweep_id)
    assert [rows(SqliteDatabase(path)) for path in (elsewhere, store.root / "mlflow.db")] == before
    assert len(files.tracking_record.places()) == 2


def test_a_half_logged_sweep_is_completed_on_a_server(
    cli: Cli, files: SweepFiles, prepared: PreparedSweep, tracking_server: TrackingServer
) -> None:
    tracker = MlflowTracker(tracking_server.uri)
    tracker.start(TrackedSweep.of(files, prepared))
    assert sum(tracker.log_trials(files.shards.read(1), files.shards.metadata()["steps"])) == 4
    with_password = tracking_server.uri.replace("://", "://user:geheim@")
    for _ in range(2):
        out = cli("log", files.sweep_id, "--tracking-uri", with_password)
        assert "geheim" not in out.stdout + out.stderr
    assert "geheim" not in (files.folder / "tracking.json").read_text()
    client = MlflowClient(tracking_server.uri)
    name = prepared.config.experiment
    assert name is not None
    children = runs(client, name, "child")
    assert {run.info.status for run in children} == {"FINISHED"}
    ids = [row["trial_id"] for table in files.shards.tables(["trial_id"]) for row in table.to_pylist()]
    assert sorted(run.data.tags["sweeps.trial_id"] for run in children) == sorted(ids)
    [parent] = runs(client, name, "parent")
    assert parent.info.status == "FINISHED"
    assert "report" in {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}


def test_what_is_not_computed_is_told_and_logged_later(
    cli: Cli, store: Store, files: SweepFiles, prepared: PreparedSweep
) -> None:
    (files.shards.folder / "00001.parquet").unlink()
    [line] = cli("log", files.sweep_id, code=3).stderr.splitlines()
    again = f"sweeps resume {files.sweep_id}; then log them with: sweeps log {files.sweep_id}"
    assert line == f"error: 4 of 12 trials are neither computed nor logged; compute them with: {again}"
    client, name = MlflowClient(store.tracking_uri), prepared.config.experiment
    assert name is not None
    assert len(runs(client, name, "child")) == 8
    assert not files.tracking_record.first()["complete"]
    assert "missing: 4 of 12 trials; some runs in MLflow" in " ".join(cli("show", files.sweep_id).stdout.split())
    cli("resume", files.sweep_id, "--executor", "inline")
    assert len(runs(client, name, "child")) == 12
    [parent] = runs(client, name, "parent")
    assert parent.info.status == "FINISHED"


def test_the_best_trials_are_not_known_before_all_are_there(
    cli: Cli, make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared(tracking={"trials": "top:3"}))
    (files.shards.folder / "00001.parquet").unlink()
    [line] = cli("log", files.sweep_id, code=2).stderr.splitlines()
    assert "the best trials are not known until all trials are computed; compute them with: sweeps resume" in line
    assert files.tracking_record.places() == []


def test_what_cannot_be_logged_is_one_line(cli: Cli, store: Store, files: SweepFiles, faulty: Proxy) -> None:
    assert "no such sweep" in cli("log", "ffff", code=2).stderr
    [line] = cli("log", files.sweep_id, "--tracking-uri", "http://127.0.0.1:9", code=2).stderr.splitlines()
    assert "http://127.0.0.1:9: the tracking server cannot be reached" in line
    assert files.tracking_record.places() == []
    for shard in sorted(files.shards.done()):
        (files.shards.folder / f"{shard:05}.parquet").unlink()
    [line] = cli("log", files.sweep_id, code=2).stderr.splitlines()
    assert "nothing is computed yet; compute it with: sweeps resume" in line


def test_a_server_that_fails_between_is_told_without_passwords(cli: Cli, files: SweepFiles, faulty: Proxy) -> None:
    faulty.behave(lambda endpoint, count: "lost before" if endpoint == "runs/update" else "")
    uri = faulty.uri.replace("://", "://user:geheim@")
    failed = cli("log", files.sweep_id, "--tracking-uri", uri, code=5, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
    assert "12 trials are not in MLflow yet: " in failed.stderr
    assert f"log what is missing with: sweeps log {files.sweep_id} --tracking-uri 'http://user:***@" in failed.stderr
    kept = json.loads((files.folder / "tracking.json").read_text())
    assert "geheim" not in failed.stdout + failed.stderr + json.dumps(kept)
    assert kept["logged"] == 0
    faulty.behave(lambda endpoint, count: "")
    cli("log", files.sweep_id, "--tracking-uri", uri)
    assert files.tracking_record.first()["complete"] is True
