"""Trials through a real MLflow server with any number of threads, and with faults between: the same runs, each once."""

import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SweepFiles
from sweeps.tracking.background import BackgroundTracking
from sweeps.tracking.base import TrackedSweep
from sweeps.tracking.mlflow.client_writer import ClientWriter
from sweeps.tracking.mlflow.self_test import NAMES, STEPS, sample
from sweeps.tracking.mlflow.server import throttle
from sweeps.tracking.mlflow.server.client import ServerClient
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.tracking.mlflow.writer import ChildRuns
from sweeps.tracking.names import SWEEP_ID
from sweeps.tracking.trial_runs import TrialRuns, trial_runs
from tests.support.hypothesis_profiles import examples
from tests.support.proxy import ANSWERS, FAULTS, Plan, Proxy
from tests.support.tracking import TrackingServer

pytestmark = pytest.mark.slow

LOGGING = ("runs/create", "runs/log-batch", "runs/update", "runs/search")


@pytest.fixture
def sweep(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles], request: Any
) -> TrackedSweep:
    """Twelve trials, in an experiment of the test's own."""
    prepared = make_prepared(experiment=request.node.name, tracking={"writer": "client"})
    files = stored(prepared)
    return TrackedSweep.of(files, prepared)


@pytest.fixture
def packs(sweep: TrackedSweep) -> list[TrialRuns]:
    """What they log, and before it a pack of oddities."""
    steps = sweep.files.shards.metadata()["steps"]
    ordinary = [
        trial_runs(table, steps, sweep.parameter_names, sweep.sweep_id, None) for table in sweep.files.shards.tables()
    ]
    return [trial_runs(sample(), STEPS, NAMES, sweep.sweep_id, None), *ordinary]


def child_runs(client: MlflowClient, name: str) -> ChildRuns:
    """A new parent run in an experiment."""
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    parent = client.create_run(experiment, start_time=1_700_000_000_000).info
    return ChildRuns("abcd1234", experiment, "unused", parent.run_id, parent.start_time, "somebody")


def log(writer: ClientWriter, packs: list[TrialRuns]) -> None:
    for pack in packs:
        assert sum(writer.write(pack)) == len(pack)
    writer.close()


def children(database: Path, parent: str) -> dict[str, list[Any]]:
    """Every row of every run of a parent, with trial ids for run ids, and whether clock times are in order."""
    trial = "(SELECT value FROM tags WHERE key = 'sweeps.trial_id' AND run_uuid = r.run_uuid)"
    of = "FROM runs AS r JOIN tags AS p ON p.run_uuid = r.run_uuid AND p.key = 'mlflow.parentRunId' AND p.value = ?"
    queries = {
        "runs": f"SELECT {trial}, r.name, r.user_id, r.status, r.lifecycle_stage, r.start_time <= r.end_time {of}"
    }
    for table, columns in (
        ("tags", "CASE t.key WHEN 'mlflow.parentRunId' THEN 'parent' ELSE t.value END"),
        ("params", "t.value"),
        ("metrics", "t.value, t.timestamp, t.step, t.is_nan"),
        ("latest_metrics", "t.value, t.timestamp, t.step, t.is_nan"),
    ):
        queries[table] = f"SELECT {trial}, t.key, {columns} {of} JOIN {table} AS t ON t.run_uuid = r.run_uuid"
    with closing(sqlite3.connect(database)) as connection:
        return {
            name: sorted(connection.execute(query, (parent,)).fetchall(), key=repr) for name, query in queries.items()
        }


def some_faults(seed: int) -> Plan:
    """Each fault once among an endpoint's first dozen calls, in another order for each seed."""
    drawn = random.Random(seed)
    plans = {endpoint: drawn.sample([*FAULTS, *[""] * 6], 12) for endpoint in LOGGING}
    return lambda endpoint, count: plans[endpoint][count] if endpoint in plans and count < 12 else ""


def test_threads_and_faults_change_nothing(
    tracking_server: TrackingServer, faulty: Proxy, packs: list[TrialRuns], request: Any
) -> None:
    direct = MlflowClient(tracking_server.uri)
    one_thread = child_runs(direct, request.node.name)
    log(ClientWriter(direct, one_thread), packs)
    expected = children(tracking_server.database, one_thread.parent_id)
    assert len(expected["runs"]) == 16
    assert {row[3] for row in expected["runs"]} == {"FINISHED"}

    @examples(2, 20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(threads=st.integers(1, 20), seed=st.integers(0, 2**32))
    def same(threads: int, seed: int) -> None:
        mine = child_runs(direct, request.node.name)
        faulty.behave(some_faults(seed))
        log(ClientWriter(ServerClient(faulty.uri, first_wait=0.01), mine, threads), packs)
        found = children(tracking_server.database, mine.parent_id)
        for table in expected:
            assert found[table] == expected[table], table
        for endpoint in LOGGING[:3]:
            assert all(faulty.seen[endpoint, fault] == 1 for fault in FAULTS), faulty.seen
        assert faulty.seen["runs/search", ""]  # for a run that might have been created

    same()


def test_three_calls_a_trial(faulty: Proxy, packs: list[TrialRuns], request: Any) -> None:
    mine = child_runs(MlflowClient(faulty.uri), request.node.name)
    faulty.behave(lambda endpoint, count: "")
    client = ServerClient(faulty.uri)
    log(ClientWriter(client, mine, client.threads), packs)
    assert faulty.seen == {(endpoint, ""): 16 for endpoint in LOGGING[:3]}


def test_a_sweep_whose_parent_run_seemed_lost_has_one(
    tracking_server: TrackingServer, faulty: Proxy, sweep: TrackedSweep
) -> None:
    faulty.behave(lambda endpoint, count: "lost after" if (endpoint, count) == ("runs/create", 0) else "")
    tracker = MlflowTracker(faulty.uri)
    pipeline = BackgroundTracking(tracker, sweep, lambda _: None)
    pipeline.start()
    pipeline.put(0)
    pipeline.join()
    assert pipeline.error is None
    client = MlflowClient(tracking_server.uri)
    experiment = client.get_experiment_by_name(sweep.experiment).experiment_id
    [parent] = client.search_runs(
        [experiment], f"tags.`{SWEEP_ID}` = '{sweep.sweep_id}' and tags.`sweeps.kind` = 'sweep'"
    )
    assert parent.info.run_id == pipeline.run["run_id"]
    assert len(children(tracking_server.database, parent.info.run_id)["runs"]) == 4


def test_a_server_that_refuses_to_the_end_is_given_up_and_the_rest_comes_later(
    tracking_server: TrackingServer, faulty: Proxy, sweep: TrackedSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    faulty.behave(lambda endpoint, count: "503" if endpoint == "runs/update" and count >= 3 else "")
    logged: list[int] = []

    def attempt() -> BackgroundTracking:
        pipeline = BackgroundTracking(MlflowTracker(faulty.uri), sweep, logged.append)
        pipeline.start()
        for shard in range(3):
            pipeline.put(shard)
        pipeline.join()
        return pipeline

    failed = attempt()
    assert isinstance(failed.error, MlflowException)
    assert "database is locked" in str(failed.error)
    assert len(logged) == 3
    begun = children(tracking_server.database, failed.run["run_id"])["runs"]
    assert sum(row[3] == "FINISHED" for row in begun) == 3
    assert len(begun) < 12
    faulty.behave(lambda endpoint, count: "")
    done = attempt()
    assert done.error is None
    assert len(logged) == 3 + 12
    runs = children(tracking_server.database, done.run["run_id"])["runs"]
    assert [row[3] for row in runs] == ["FINISHED"] * 12
    assert len({row[0] for row in runs}) == 12


def test_an_interrupt_does_not_wait_for_a_server_that_refuses(
    tracking_server: TrackingServer, faulty: Proxy, sweep: TrackedSweep
) -> None:
    refused = threading.Event()

    def plan(endpoint: str, count: int) -> str:
        if endpoint != "runs/log-batch" or not count:
            return ""  # the first one is the parent's
        refused.set()
        return "429"

    faulty.behave(plan)
    pipeline = BackgroundTracking(MlflowTracker(faulty.uri), sweep, lambda _: None)
    pipeline.start()
    pipeline.put(0)
    pipeline.put(1)
    assert refused.wait(60)
    pipeline.interrupt()
    runs = children(tracking_server.database, pipeline.run["run_id"])["runs"]
    assert len(runs) <= 4
    assert {row[3] for row in runs} == {"RUNNING"}
    assert MlflowClient(tracking_server.uri).get_run(pipeline.run["run_id"]).info.status == "KILLED"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("86400", 30.0), ("soon", 0.0)])
def test_a_server_says_for_how_long_it_wants_to_be_left_alone(
    faulty: Proxy, monkeypatch: pytest.MonkeyPatch, header: str, seconds: float
) -> None:
    told: list[float] = []
    monkeypatch.setattr(throttle.Throttle, "refused", lambda self, began, wait: told.append(wait))
    monkeypatch.setitem(ANSWERS, "429", (429, {"Retry-After": header}, b""))
    faulty.behave(lambda endpoint, count: "429" if endpoint == "runs/create" and not count else "")
    client = ServerClient(faulty.uri, first_wait=0.0)
    client.create_run("0", tags={"a": "b"})
    assert told == [seconds]


def test_fewer_places_after_a_refusal_and_more_after_successes() -> None:
    pace_ = throttle.Throttle(8)
    with pace_.place() as first, pace_.place() as second:
        pace_.refused(first)
        pace_.refused(second)  # they were under way together: that is one refusal
    assert pace_.places == 4
    for _ in range(5):
        with pace_.place() as began:
            pace_.refused(began)
    assert pace_.places == 1
    for _ in range(100):
        with pace_.place():
            pace_.answered()
    assert pace_.places == 8


def test_no_more_calls_at_once_than_places_and_none_waits_when_it_hurries() -> None:
    pace_ = throttle.Throttle(3)
    lock, under_way, most = threading.Lock(), 0, 0

    def call() -> None:
        nonlocal under_way, most
        with pace_.place():
            with lock:
                under_way += 1
                most = max(most, under_way)
            pace_.answered()
            with lock:
                under_way -= 1

    def calls(count: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=call) for _ in range(count)]
        for thread in threads:
            thread.start()
        return threads

    for thread in calls(50):
        thread.join()
    assert 1 <= most <= 3
    with pace_.place() as began:
        pace_.refused(began, wait=1e6)
    waiting = calls(5)
    assert all(thread.is_alive() for thread in waiting)
    pace_.hurry()
    for thread in waiting:
        thread.join()
    assert not pace_.rest(1e6)
