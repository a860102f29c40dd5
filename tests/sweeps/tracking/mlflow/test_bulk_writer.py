"""The bulk writer: nobody can tell its runs from the public client's; all or nothing, once."""

import json
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, LoggedModelOutput, Run, ViewType

from sweeps.errors import TrackingError
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SweepFiles
from sweeps.tracking.base import TrackedSweep
from sweeps.tracking.mlflow.database.connect import opened
from sweeps.tracking.mlflow.database.rows import TABLES
from sweeps.tracking.mlflow.self_test import STEPS, Content, rows, sample
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.tracking.trial_runs import trial_runs
from tests.support.forked import Forked
from tests.support.postgres import Cluster
from tests.support.tracking import Files


@dataclass
class Side:
    """A database, and a way to log the sweep into it with a writer."""

    uri: str
    databases: Files | Cluster
    sweep: TrackedSweep

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def rows(self) -> Content:
        return rows(opened(self.uri))

    def tracker(self, writer: str) -> MlflowTracker:
        """A tracker that has started."""
        sweep = self.sweep
        tracking = sweep.config.tracking.model_copy(update={"writer": writer})
        config = sweep.config.model_copy(update={"tracking": tracking})
        tracker = MlflowTracker(self.uri, self.sweep.files.folder / "artifacts")
        tracker.start(TrackedSweep(sweep.files, config, sweep.manifest, sweep.parameter_names))
        return tracker

    def tables(self) -> list[tuple[pa.Table, list[int]]]:
        """The sweep's shards, and after them a pack of oddities."""
        steps = self.sweep.files.shards.metadata()["steps"]
        return [*((table, steps) for table in self.sweep.files.shards.tables()), (sample(), [0, 1, 10])]

    def log(self, writer: str, packs: slice = slice(None)) -> "Side":
        tracker = self.tracker(writer)
        for table, steps in self.tables()[packs]:
            assert sum(tracker.log_trials(table, steps)) == len(table)
        tracker.end_trials()
        return self

    def copy(self) -> "Side":
        return Side(self.databases.copy(self.uri), self.databases, self.sweep)

    def experiment_id(self) -> str:
        return str(self.client.get_experiment_by_name("bulk").experiment_id)

    def children(self) -> list[Run]:
        """By trial id."""
        order = ["tags.`sweeps.trial_id`"]
        runs = self.client.search_runs([self.experiment_id()], "", ViewType.ALL, 1000, order)
        return [run for run in runs if "sweeps.trial_id" in run.data.tags]


@pytest.fixture
def side(
    make_prepared: Callable[..., PreparedSweep],
    stored: Callable[[PreparedSweep], SweepFiles],
    databases: Files | Cluster,
) -> Side:
    """A database with the experiment and the parent run; the sweep holds trials that diverge, some at once."""
    prepared = make_prepared(
        name="bulk",
        parameters={
            "lr": {"values": [0.01, 0.02, 10, 1e200]},
            "momentum": {"values": [0, 0.9]},
            "init.weight": {"values": [-0.5, 1e300]},
            "init.bias": {"value": 0.5},
        },
        training={"epochs": 20, "dtype": "float64"},
    )
    files = stored(prepared)
    sweep = TrackedSweep.of(files, prepared)
    made = Side(databases.new_database(), databases, sweep)
    made.tracker("client")
    return made


@pytest.fixture
def twins(side: Side) -> tuple[Side, Side]:
    """The same trials, logged by the public client into one database and in bulk into its copy."""
    twin = side.copy()
    return side.log("client"), twin.log("bulk")


ID = re.compile(r"[0-9a-f]{32}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def without_ids(found: Any) -> Any:
    """Text of a structure, with what is drawn or read from a clock taken out: only for what comes after the trials."""
    text = json.dumps(found, sort_keys=True, default=str)
    text = UUID.sub("uuid", ID.sub("id", text))
    return re.sub(r"\b1[6-9]\d{11}\b", "ms", text)


def answers(side: Side) -> dict[str, Any]:
    """All that a reader can ask for, with trial ids in place of run ids."""
    client, experiment = side.client, side.experiment_id()
    children = side.children()
    names = {run.info.run_id: run.data.tags["sweeps.trial_id"] for run in children}
    last = "tags.`sweeps.trial_id`"
    queries: list[tuple[str, list[str]]] = [
        ("metrics.loss < 1", ["metrics.loss", last]),
        ("metrics.final_loss > 0.1 and params.momentum = '0.9'", ["metrics.`final/weight` DESC", last]),
        ("tags.`sweeps.verdict` = 'diverged'", ["params.lr DESC", last]),
        ("tags.`mlflow.parentRunId` != ''", ["attributes.run_name", last]),
        ("attributes.run_name LIKE 'trial 1%'", ["attributes.status", last]),
        ("params.`init.größe` ILIKE 'Ü%'", [last]),
        ("attributes.status = 'FINISHED'", ["metrics.first_nonfinite_step", last]),
        ("datasets.name = 'line'", [last]),
    ]
    found: dict[str, Any] = {}
    for query, order in queries:
        for view in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY, ViewType.ALL):
            pages = client.search_runs([experiment], query, view, 1000, order)
            found[f"{query} {view}"] = [names.get(run.info.run_id, "parent") for run in pages]
    for run in children:
        whole = client.get_run(run.info.run_id)
        record = {key: value for key, value in dict(whole.info).items() if key not in ("start_time", "end_time")}
        record |= {"data": whole.data.to_dictionary(), "inputs": str(whole.inputs), "outputs": str(whole.outputs)}
        record["times"] = whole.info.start_time <= whole.info.end_time
        record["history"] = {
            key: [(m.key, m.value, m.step, m.timestamp) for m in client.get_metric_history(run.info.run_id, key)]
            for key in whole.data.metrics
        }
        trial = names[run.info.run_id]
        found[trial] = json.loads(json.dumps(record, default=str).replace(run.info.run_id, trial))
    return found


def test_all_rows_and_all_answers_are_those_of_the_public_client(twins: tuple[Side, Side]) -> None:
    by_client, by_bulk = twins
    expected, found = by_client.rows(), by_bulk.rows()
    assert {run.data.tags["sweeps.verdict"][:8] for run in by_bulk.children()} >= {"diverged", "converge", "ж" * 8}
    assert any("loss" not in run.data.metrics for run in by_bulk.children())
    assert found.keys() == expected.keys()
    for table in expected:
        assert found[table] == expected[table], table
    assert len(found["metrics"]) > 100
    assert len(found["runs"]) == 1 + sum(len(table) for table, _ in by_bulk.tables())
    assert answers(by_bulk) == answers(by_client)


def edit(side: Side) -> None:
    """What people do to runs afterwards."""
    client, experiment = side.client, side.experiment_id()
    edited, failed, deleted, restored, modelled, removed = (run.info.run_id for run in side.children()[:6])
    client.set_tag(edited, "note", "größer")
    client.set_tag(edited, "sweeps.verdict", "stalled")
    client.delete_tag(edited, "mlflow.user")
    client.log_param(edited, "more", "1")
    client.log_metric(edited, "loss", 7.0, timestamp=5, step=10_000)
    client.log_metric(edited, "other", 1.0, timestamp=5)
    client.update_run(edited, name="renamed")
    client.log_inputs(edited, [DatasetInput(Dataset("d", "1", "code", "{}"))])
    client.set_terminated(failed, "FAILED")
    client.delete_run(deleted)
    client.delete_run(restored)
    client.restore_run(restored)
    client.log_text(modelled, "hello", "note.txt")
    model = client.create_logged_model(experiment, name="m", source_run_id=modelled)
    client.log_outputs(modelled, [LoggedModelOutput(model.model_id, 1)])
    client.log_metric(modelled, "loss", 0.5, timestamp=5, step=11_000, model_id=model.model_id)
    client.delete_run(removed)


def collect(side: Side) -> None:
    """``mlflow gc`` of what is deleted."""
    arguments = ["gc", "--backend-store-uri", side.uri, "--tracking-uri", side.uri]
    process = Forked(arguments, Path.cwd(), os.environ, "from mlflow.cli import cli; cli()")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err


def assert_the_same_but_for_ids(twins: tuple[Side, Side]) -> None:
    expected, found = (one.rows() for one in twins)
    for table in expected:
        assert sorted(map(without_ids, found[table])) == sorted(map(without_ids, expected[table])), table
    by_client, by_bulk = map(answers, twins)
    assert without_ids(by_bulk) == without_ids(by_client)


@pytest.mark.slow
def test_later_edits_deletion_restoring_and_collection_find_ordinary_runs(twins: tuple[Side, Side]) -> None:
    for one in twins:
        edit(one)
    assert_the_same_but_for_ids(twins)
    count = len(twins[1].children())
    for one in twins:
        collect(one)
    assert len(twins[1].children()) == count - 2
    assert_the_same_but_for_ids(twins)


def test_logging_again_changes_nothing_even_what_was_edited_or_deleted(side: Side) -> None:
    side.log("bulk")
    first, second = (run.info.run_id for run in side.children()[:2])
    side.client.set_tag(first, "note", "kept")
    side.client.delete_run(second)
    before = side.rows()
    for writer in ("bulk", "client"):
        assert side.log(writer).rows() == before, writer


@pytest.mark.parametrize(("earlier", "later"), [("client", "bulk"), ("bulk", "client")])
def test_a_sweep_logged_by_halves_is_whole_whichever_writer_begins(side: Side, earlier: str, later: str) -> None:
    whole = side.copy().log("bulk")
    side.log(earlier, slice(0, 2))
    assert len(side.children()) == 8
    assert side.log(later).rows() == whole.rows()


def test_bulk_fills_what_the_client_left_unfinished(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = side.copy().log("bulk")
    tracker = side.tracker("client")
    with monkeypatch.context() as patch:

        def torn(*_: object, **__: object) -> None:
            raise ConnectionError("cut off")

        patch.setattr(tracker.client, "log_batch", torn)
        with pytest.raises(ConnectionError):
            list(tracker.log_trials(*side.tables()[0]))
    assert [run.info.status for run in side.children()] == ["RUNNING"]
    assert side.log("bulk").rows() == whole.rows()


def test_concurrent_replays_write_nothing_twice(side: Side) -> None:
    whole = side.copy().log("bulk")
    trackers = [side.tracker("bulk") for _ in range(3)]
    together = threading.Barrier(len(trackers))
    faults: list[Exception] = []

    def log(tracker: MlflowTracker) -> None:
        try:
            for table, steps in side.tables():
                together.wait(timeout=60)
                assert sum(tracker.log_trials(table, steps)) == len(table)
            tracker.end_trials()
        except Exception as fault:  # noqa: BLE001 - told by the test
            faults.append(fault)
            together.abort()

    threads = [threading.Thread(target=log, args=(tracker,)) for tracker in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert side.rows() == whole.rows()


@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_a_user_without_special_rights_writes_the_same(side: Side) -> None:
    whole = side.copy().log("bulk")
    assert isinstance(side.databases, Cluster)
    user = f"writer{side.uri.rpartition('/')[2]}"
    side.databases.execute(
        f"CREATE ROLE {user} LOGIN PASSWORD 'p'; GRANT pg_read_all_data, pg_write_all_data TO {user}"
    )
    theirs = side.uri.replace(f"sweeps:{side.databases.password}", f"{user}:p")
    Side(theirs, side.databases, side.sweep).log("bulk")
    assert side.rows() == whole.rows()


# Logs one pack in bulk and kills itself when the database is given the statement that starts with the second argument:
# SQLite before it, PostgreSQL before it or, in a COPY, after half of its rows.
KILLED = """
import os, signal, sys
import psycopg
from sweeps.tracking.mlflow.bulk_writer import BulkWriter
from sweeps.tracking.mlflow.client_writer import ClientWriter
from sweeps.tracking.mlflow.database.connect import opened
from sweeps.tracking.mlflow.database.sqlite import SqliteConnection
from sweeps.tracking.mlflow.self_test import NAMES, STEPS, sample
from sweeps.tracking.mlflow.writer import ChildRuns
from sweeps.tracking.trial_runs import trial_runs

def kill(statement):
    if statement.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

def prepare(connection, whole=SqliteConnection.prepare):
    whole(connection)
    connection.raw.set_trace_callback(kill)

def execute(connection, statement, *rest, whole=psycopg.Connection.execute):
    kill(statement if isinstance(statement, str) else statement.decode())
    return whole(connection, statement, *rest)

def copy(cursor, statement, whole=psycopg.Cursor.copy):
    statements[id(cursor)] = statement.decode()
    return whole(cursor, statement)

def write(copying, rows, whole=psycopg.Copy.write):
    whole(copying, rows[:len(rows) // 2])
    if len(rows) > 19:  # more than the header
        kill(statements[id(copying.cursor)])
    whole(copying, rows[len(rows) // 2:])

statements = {}
SqliteConnection.prepare = prepare
psycopg.Connection.execute, psycopg.Cursor.copy, psycopg.Copy.write = execute, copy, write
child_runs = ChildRuns("killed", "1", "file:///nowhere", "0" * 32, 1_700_000_000_000, "me")
writer = BulkWriter(opened(sys.argv[1]), child_runs, ClientWriter(None, child_runs))
runs = trial_runs(sample(), STEPS, NAMES, "killed", None)
[4] == list(writer.write(runs)) or sys.exit("not logged")
writer.close()
"""


@pytest.mark.slow
def test_a_killed_process_leaves_all_of_a_pack_or_nothing(side: Side) -> None:
    insert = "INSERT INTO latest_metrics" if side.uri.startswith("sqlite") else "COPY latest_metrics"
    points = {insert: 0, "COMMIT": 0, "ANALYZE": 4, "nothing": 4}
    before = side.rows()
    sides = [side.copy() for _ in points]

    def logged(one: Side, statement: str) -> Forked:
        return Forked([one.uri, statement], Path.cwd(), os.environ, KILLED)

    def ends(processes: list[Forked]) -> list[int | None]:
        complaints = [process.communicate(timeout=300)[1] for process in processes]
        assert not any(complaints), complaints
        return [process.returncode for process in processes]

    assert ends(list(map(logged, sides, points))) == [-signal.SIGKILL] * 3 + [0]
    for one, (statement, count) in zip(sides, points.items(), strict=True):
        found = one.rows()
        assert len(found["runs"]) - len(before["runs"]) == count, statement
        assert count or found == before, statement
    # Once more, and it is there once.
    assert ends([logged(one, "nothing") for one in sides]) == [0] * 4
    whole = sides[-1].rows()
    assert [one.rows() == whole for one in sides] == [True] * 4


def test_an_id_that_is_somebody_elses_is_an_error_and_nothing_is_written(side: Side) -> None:
    side.log("bulk", slice(1, 2))
    side.client.set_tag(side.children()[0].info.run_id, "sweeps.trial_id", "another")
    before = side.rows()
    tracker = side.tracker("bulk")
    with pytest.raises(TrackingError, match=r"run [0-9a-f]{32} already exists, but is not trial \d+ of this sweep"):
        list(tracker.log_trials(*side.tables()[1]))
    tracker.end_trials()
    assert side.rows() == before


def test_an_experiment_deleted_meanwhile_is_told(side: Side) -> None:
    tracker = side.tracker("bulk")
    side.client.delete_experiment(side.experiment_id())
    before = side.rows()
    with pytest.raises(TrackingError, match="experiment 1 was deleted during logging"):
        list(tracker.log_trials(*side.tables()[0]))
    tracker.end_trials()
    assert side.rows() == before


def test_keys_that_mlflow_refuses_are_refused(side: Side) -> None:
    tracker = side.tracker("bulk")
    table = sample().append_column("init.a,b", pa.array([1.0] * 4))
    with pytest.raises(Exception, match=r"init\.a,b.*Names may only contain"):
        list(tracker.log_trials(table, [0, 1, 10]))
    tracker.end_trials()
    assert side.children() == []


def test_trials_without_any_point_are_runs_all_the_same(side: Side) -> None:
    table = sample()
    for index, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            length = 2 if field.name == "final" else len(STEPS)
            table = table.set_column(index, field, pa.array([[None] * length] * len(table), field.type))
        elif field.name.endswith(("_loss", "_step", "_tolerance", "_percent", "_value")):
            table = table.set_column(index, field, pa.nulls(len(table), field.type))
    twin = side.copy()
    for one, writer in ((side, "client"), (twin, "bulk")):
        tracker = one.tracker(writer)
        assert sum(tracker.log_trials(table, STEPS)) == 4
        tracker.end_trials()
    assert side.rows() == twin.rows()
    assert [run.data.metrics for run in twin.children()] == [{}] * 4


def test_run_ids_sort_by_sweep_and_trial(side: Side) -> None:
    side.log("bulk")
    runs = sorted(side.children(), key=lambda run: run.info.run_id)
    numbers = [int(run.info.run_name.removeprefix("trial ")) for run in runs]
    assert numbers == sorted(numbers)
    parent = side.client.get_run(runs[0].data.tags["mlflow.parentRunId"]).info
    assert {int(run.info.run_id[:12], 16) for run in runs} == {parent.start_time}


def test_the_database_is_left_ready_to_read(side: Side) -> None:
    side.log("bulk")
    with closing(opened(side.uri).connect()) as connection:
        if side.uri.startswith("sqlite"):
            log = Path(side.uri.removeprefix("sqlite:///") + "-wal")
            assert not log.exists() or not log.stat().st_size
            assert connection.query("PRAGMA journal_mode") == [("wal",)]
            assert connection.query("PRAGMA integrity_check") == [("ok",)]
            assert connection.query("PRAGMA foreign_key_check") == []
            analysed = connection.query("SELECT DISTINCT tbl FROM sqlite_stat1")
        else:
            analysed = connection.query("SELECT DISTINCT tablename FROM pg_stats WHERE schemaname = 'public'")
    assert {table for (table,) in analysed} >= set(TABLES)


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_a_reader_that_holds_the_database_does_not_stop_the_sweep(side: Side) -> None:
    tracker = side.tracker("bulk")
    with closing(sqlite3.connect(side.uri.removeprefix("sqlite:///"), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchall()
        with closing(opened(side.uri).connect()) as connection:
            connection.prepare()
        assert reader.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
        reader.execute("COMMIT")
    for table, steps in side.tables():
        list(tracker.log_trials(table, steps))
    tracker.end_trials()
    assert len(side.children()) == 20


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_the_write_ahead_log_does_not_grow_with_the_sweep(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.tracking.mlflow.database.sqlite._LOG_PAGES", 0)
    tracker, log = side.tracker("bulk"), Path(side.uri.removeprefix("sqlite:///") + "-wal")
    sizes = []
    for pack in range(12):
        numbers = pa.array([1000 * pack + i for i in range(4)])
        table = sample().set_column(0, "trial", numbers)
        table = table.set_column(1, "trial_id", pa.array([f"{number.as_py():016x}" for number in numbers]))
        list(tracker.log_trials(table, STEPS))
        sizes.append(log.stat().st_size)
    tracker.end_trials()
    assert len(side.children()) == 48
    assert sizes[-1] < 3 * sizes[0]


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_a_log_that_cannot_be_moved_is_told(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def move(_: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("sweeps.tracking.mlflow.database.sqlite._Log._move", move)
    tracker = side.tracker("bulk")
    list(tracker.log_trials(*side.tables()[0]))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        list(tracker.log_trials(*side.tables()[1]))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        tracker.end_trials()
    monkeypatch.undo()
    assert side.log("bulk").rows() == side.copy().log("bulk").rows()
    assert len(side.children()) == 20


def curves(lengths: list[int], steps: list[int]) -> pa.Table:
    """A sample row with a loss curve that ends after so many points, for each."""
    loss = [[float(i) if i < length else None for i in range(len(steps))] for length in lengths]
    table = sample().drop_columns(["param.weight", "param.größe", "loss"]).slice(0, len(lengths))
    return table.append_column("loss", pa.array(loss, pa.list_(pa.float64())))


@pytest.mark.parametrize("points", [2, 3, 10, 40])
def test_thinned_curves_keep_their_ends_and_are_dense_where_much_happens(points: int) -> None:
    steps = list(range(0, 3000, 3))
    lengths = [1000, 1, 0, 500]
    thinned = trial_runs(curves(lengths, steps), steps, (), "s", points)
    whole = trial_runs(curves(lengths, steps), steps, (), "s", None)
    for index, length in enumerate(lengths):
        kept = [(v, s) for key, v, s, _ in thinned.metrics(index) if key == "loss"]
        every = [(v, s) for key, v, s, _ in whole.metrics(index) if key == "loss"]
        assert len(every) == length
        assert len(kept) <= points
        assert set(kept) <= set(every)
        assert kept[:1] == every[:1]
        assert kept[-1:] == every[-1:]
        if points == 40 and length == 1000:
            gaps = np.diff([step for _, step in kept])
            assert len(kept) > 20
            assert gaps[0] < gaps[-1]


def test_curves_shorter_than_the_limit_are_whole(side: Side) -> None:
    [table, steps] = side.tables()[0]
    one, other = (trial_runs(table, steps, ("weight", "bias"), "s", points) for points in (None, len(steps)))
    assert list(one.metrics(0)) == list(other.metrics(0))
