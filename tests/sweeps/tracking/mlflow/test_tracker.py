"""Both writers against MLflow's own client as the oracle; what the bulk writer adds is in test_bulk.py."""

import http.server
import math
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeps.errors import TrackingError
from sweeps.pipeline.factories import tracker_for
from sweeps.planning.prepared import PreparedSweep
from sweeps.results.ranking import best_trials
from sweeps.store.store import Store, SweepFiles
from sweeps.text.redact import redact_uri
from sweeps.tracking.background import BackgroundTracking
from sweeps.tracking.base import TrackedSweep
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.tracking.policy import runs_wanted
from sweeps.verification.differences import Audit
from sweeps.verification.tracking_audit import tracking_differences
from tests.support.processes import free_port
from tests.support.serving import serving

Stored = Callable[[PreparedSweep], SweepFiles]
MakePrepared = Callable[..., PreparedSweep]


@pytest.fixture(params=["client", "bulk"])
def writer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sweep(make_prepared: MakePrepared, stored: Stored, writer: str) -> TrackedSweep:
    prepared = make_prepared(
        name="tracked",
        tracking={"writer": writer},
        description="what is <b>logged</b>",
        parameters={
            "lr": {"values": [0.01, 0.02, 10]},
            "momentum": {"values": [0, 0.9]},
            "init.weight": {"value": -0.5},
            "init.bias": {"value": 0.5},
        },
        training={"epochs": 20},
    )
    files = stored(prepared)
    return TrackedSweep.of(files, prepared)


@pytest.fixture
def tracker(store: Store) -> MlflowTracker:
    return MlflowTracker(store.tracking_uri, store.artifacts)


@pytest.fixture
def client(store: Store) -> MlflowClient:
    return MlflowClient(store.tracking_uri)


def log_all(tracker: MlflowTracker, sweep: TrackedSweep) -> list[dict[str, Any]]:
    rows = [row for table in sweep.files.shards.tables() for row in table.to_pylist()]
    tracker.start(sweep)
    for table in (
        *sweep.files.shards.tables(),
        next(sweep.files.shards.tables()),
    ):  # the first one twice: it is there once
        assert sum(tracker.log_trials(table, sweep.files.shards.metadata()["steps"])) == len(table)
    tracker.end_trials()
    tracker.finish(sweep, {"trials": float(len(rows))}, {"sweeps.trials": str(len(rows))})
    return rows


def runs_of(client: MlflowClient, kind: str) -> list[Run]:
    experiment = client.get_experiment_by_name("tracked")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    return [run for run in runs if ("mlflow.parentRunId" in run.data.tags) == (kind == "child")]


def test_every_trial_is_a_child_run_with_all_that_is_documented(
    tracker: MlflowTracker, sweep: TrackedSweep, client: MlflowClient
) -> None:
    rows = log_all(tracker, sweep)
    children = {run.data.tags["sweeps.trial_id"]: run for run in runs_of(client, "child")}
    [parent] = runs_of(client, "parent")
    assert len(children) == len(rows) == 6
    steps = sweep.files.shards.metadata()["steps"]
    for row in rows:
        run = children[row["trial_id"]]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["sweeps.verdict"] == row["verdict"]
        assert run.data.tags["sweeps.sweep_id"] == sweep.sweep_id
        for name in ("lr", "momentum", "weight_decay", "dampening", "init.weight", "init.bias"):
            assert float(run.data.params[name]) == row[name]
        assert (run.data.params["nesterov"], run.data.params["seed"]) == ("False", "0")
        for key, values in (("loss", row["loss"]), ("param/weight", row["param.weight"])):
            history = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
            assert history == [(s, v) for s, v in zip(steps, values, strict=True) if v is not None]
        for key in ("final_loss", "overshoot_percent", "first_nonfinite_step"):
            assert run.data.metrics.get(key) == row[key]
        assert run.data.metrics.get("final/bias") == row["final"][1]


def test_no_value_in_mlflow_is_nan_or_infinite(tracker: MlflowTracker, sweep: TrackedSweep, store: Store) -> None:
    rows = log_all(tracker, sweep)
    assert any(row["first_nonfinite_step"] for row in rows)
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database:
        values = database.execute("select value, is_nan from metrics").fetchall()
    assert values
    assert all(math.isfinite(value) and not is_nan for value, is_nan in values)


def test_the_parent_tells_what_the_sweep_was(tracker: MlflowTracker, sweep: TrackedSweep, client: MlflowClient) -> None:
    log_all(tracker, sweep)
    [parent] = runs_of(client, "parent")
    assert parent.info.status == "FINISHED"
    assert parent.data.params["training.epochs"] == "20"
    assert parent.data.params["parameters.lr.values"] == "[0.01, 0.02, 10]"
    assert parent.data.tags["mlflow.note.content"] == "what is <b>logged</b>"
    [dataset] = [entry.dataset for entry in parent.inputs.dataset_inputs]
    assert dataset.name == "line"
    assert sweep.manifest["data"]["digest"].startswith(dataset.digest)
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"config.yaml", "plan.json", "shards"}
    downloaded = client.download_artifacts(parent.info.run_id, "shards/00000.parquet")
    assert Path(downloaded).read_bytes() == (sweep.files.shards.folder / "00000.parquet").read_bytes()


def contents(store: Store) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(store.root / "mlflow.db")) as database:
        return {
            table: sorted(database.execute(f"select * from {table}").fetchall(), key=repr)
            for table in ("metrics", "latest_metrics", "params", "tags", "inputs", "datasets")
        }


def test_logging_again_writes_nothing_twice(tracker: MlflowTracker, sweep: TrackedSweep, store: Store) -> None:
    log_all(tracker, sweep)
    before = contents(store)
    log_all(MlflowTracker(store.tracking_uri, store.artifacts), sweep)
    assert contents(store) == before


@pytest.mark.parametrize("writer", ["client"], indirect=True)
def test_a_half_logged_trial_is_completed(
    tracker: MlflowTracker, sweep: TrackedSweep, client: MlflowClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = next(sweep.files.shards.tables()).slice(0, 1)
    tracker.start(sweep)
    with monkeypatch.context() as patch:

        def torn(*_: object, **__: object) -> None:
            raise ConnectionError("cut off")

        patch.setattr(tracker.client, "set_terminated", torn)
        with pytest.raises(ConnectionError):
            list(tracker.log_trials(row, sweep.files.shards.metadata()["steps"]))
    assert [run.info.status for run in runs_of(client, "child")] == ["RUNNING"]
    log_all(MlflowTracker(store.tracking_uri, store.artifacts), sweep)
    children = runs_of(client, "child")
    assert [run.info.status for run in children] == ["FINISHED"] * 6
    assert len({run.data.tags["sweeps.trial_id"] for run in children}) == 6
    history = client.get_metric_history(children[-1].info.run_id, "loss")
    assert len(history) == len({m.step for m in history})


def test_long_curves_and_many_parameters_are_logged_whole(
    make_prepared: MakePrepared, stored: Stored, tracker: MlflowTracker, client: MlflowClient, writer: str
) -> None:
    prepared = make_prepared(
        name="tracked",
        tracking={"writer": writer},
        task={"dataset": {"kind": "linear", "n": 120, "d": 110}},
        parameters={"lr": {"value": 0.001}},
        record={"spacing": "all"},
        training={"epochs": 10},
    )
    files = stored(prepared)
    log_all(tracker, TrackedSweep.of(files, prepared))
    [run] = runs_of(client, "child")
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 1201
    assert sum(key.startswith("init.") for key in run.data.params) == 111
    assert not any(key.startswith("final/") for key in run.data.metrics)  # 111 charts of one point
    client.log_metric(run.info.run_id, "final/bias", 0.5)  # as earlier versions logged
    audit = Audit(files.sweep_id)
    differences = [each.what for each in tracking_differences(prepared, files, tracker, audit)]
    assert (audit.logged, [what for what in differences if "final/" in what]) == (1, [])


def test_a_deleted_experiment_is_told(tracker: MlflowTracker, sweep: TrackedSweep, client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment("tracked"))
    with pytest.raises(TrackingError, match=r"the experiment 'tracked' is deleted; restore it, or name another"):
        tracker.start(sweep)


@contextmanager
def web_server_that_is_not_mlflow() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        yield address


def test_unreachable_tracking_uris_are_told_in_one_line(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_text("this is no database" * 100)
    uris = {
        f"http://127.0.0.1:{free_port()}": "the tracking server cannot be reached: .*refused",
        f"sqlite:///{tmp_path}/no/such/folder/x.db": "the database cannot be opened",
        "gopher://somewhere": "MLflow cannot be used there",
        "http://127.0.0.1:port": "the tracking server cannot be reached",
        "http://[::1": "the tracking server cannot be reached",
        f"sqlite:///{garbage}": "the database cannot be opened|MLflow cannot be used there",
        "sqlite://": "a database in memory",
        "sqlite:///:memory:": "a database in memory",
    }
    for uri, message in uris.items():
        with pytest.raises(TrackingError, match=message) as caught:
            MlflowTracker(uri).check()
        assert "\n" not in str(caught.value)


def test_a_server_that_is_not_mlflow_is_told() -> None:
    with web_server_that_is_not_mlflow() as uri, pytest.raises(TrackingError, match="MLflow cannot be used there"):
        MlflowTracker(uri).check()


def test_passwords_are_not_shown() -> None:
    assert redact_uri("postgresql://user:secret@host/db") == "postgresql://user:***@host/db"
    assert redact_uri("http://host:5000") == "http://host:5000"
    assert "secret" not in MlflowTracker("http://user:secret@host:1").uri


def test_a_uri_with_a_password_has_to_be_given_again(store: Store, sweep: TrackedSweep) -> None:
    sweep.files.tracking_record.write({"uri": redact_uri("postgresql://me:secret@host/db")})
    with pytest.raises(TrackingError, match=r"logged to postgresql://me:\*\*\*@host/db; pass this URI"):
        tracker_for(store, None, sweep.files)


@pytest.mark.parametrize(("chosen", "kept"), [(None, "true"), ("false", "false")])
def test_mlflows_usage_reports_are_off_unless_the_user_turned_them_on(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch, chosen: str | None, kept: str
) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    if chosen is not None:
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", chosen)
    tracker.check()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == kept


@pytest.mark.parametrize(("policy", "count"), [("all", 7), ("none", 0), ("top:3", 3), ("top:99", 7)])
def test_policies(policy: str, count: int) -> None:
    assert runs_wanted(policy, 7) == count


def test_the_best_trials_over_all_shards(sweep: TrackedSweep) -> None:
    rows = [row for table in sweep.files.shards.tables() for row in table.to_pylist()]
    fine = sorted((row for row in rows if row["verdict"] != "diverged"), key=lambda row: row["final_loss"])
    chosen = best_trials(sweep.files, sweep.files.config(), 2)
    assert sorted(t for trials in chosen.values() for t in trials) == sorted(row["trial"] for row in fine[:2])
    assert sum(map(len, best_trials(sweep.files, sweep.files.config(), 99).values())) == len(fine)


class Failing:
    """A tracker that breaks at its second trial."""

    uri = "nowhere"
    interrupted = ended = False

    def start(self, sweep: TrackedSweep) -> dict[str, str]:
        return {"run_id": "0"}

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        yield 1
        raise ConnectionError("gone")

    def end_trials(self) -> None:
        self.ended = True

    def interrupt(self) -> None:
        self.interrupted = True


def test_a_fault_stops_the_pipeline_and_nothing_else(sweep: TrackedSweep) -> None:
    logged: list[int] = []
    tracker = Failing()
    pipeline = BackgroundTracking(tracker, sweep, logged.append)  # type: ignore[arg-type]
    pipeline.start()
    for shard in (0, 1):
        pipeline.put(shard)
    pipeline.join()
    assert isinstance(pipeline.error, ConnectionError)
    assert logged == [1]
    assert tracker.ended


def test_an_interrupt_marks_the_parent_even_when_all_is_logged(
    tracker: MlflowTracker, sweep: TrackedSweep, client: MlflowClient
) -> None:
    pipeline = BackgroundTracking(tracker, sweep, lambda _: None)
    pipeline.start()
    pipeline.put(0)
    pipeline.join()
    pipeline.interrupt()
    assert pipeline.error is None
    [parent] = runs_of(client, "parent")
    assert parent.info.status == "KILLED"
