"""The times of runs and points, as MLflow's own client reads them: in order, and the same after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeps.config.schema import SweepConfig
from sweeps.execution.executor import Executor, ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, log, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard
from sweeps.service.backup import restore
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support.documents import TASKS
from tests.support.doubles import Silent, Stopped, Untracked, Without
from tests.support.hypothesis_profiles import NIGHTLY
from tests.support.postgres import Cluster
from tests.support.tracking import Files

MakeConfig = Callable[..., SweepConfig]
Times = dict[str, tuple[int, int, dict[str, list[tuple[int, int]]]]]
DATA = Path(__file__).parents[3] / "data"
one_database = pytest.mark.parametrize("databases", ["sqlite", "postgresql"] if NIGHTLY else ["sqlite"], indirect=True)


class Reversed(InlineExecutor):
    """Runs the shards from the last to the first."""

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        yield from super().run(prepared, reversed(list(shards)))


@pytest.fixture
def uri(databases: Files | Cluster) -> str:
    return databases.new_database()


def tracker_at(uri: str, store: Store) -> MlflowTracker:
    return MlflowTracker(uri, store.artifacts)


def computed(config: SweepConfig, store: Store, executor: Executor, tracker: MlflowTracker) -> SweepFiles:
    prepared = prepare(config)
    files = create(prepared, store, executor, tracker, fresh=True)
    outcome = run(files, prepared, executor, tracker, Silent())
    publish(outcome, tracker)
    assert outcome.tracking_error is None
    return files


def untracked(config: SweepConfig, store: Store) -> SweepFiles:
    prepared = prepare(config)
    files = create(prepared, store, InlineExecutor(), Untracked())  # type: ignore[arg-type]
    run(files, prepared, InlineExecutor(), Untracked(), Silent())  # type: ignore[arg-type]
    return files


def runs_in(uri: str, files: SweepFiles, order: str = "attributes.start_time ASC") -> tuple[Run, list[Run]]:
    """The parent and its children, in MLflow's order."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(files.config().experiment_name)
    ours = f"tags.`sweeps.sweep_id` = '{files.sweep_id}'"
    found = client.search_runs([experiment.experiment_id], ours, max_results=1000, order_by=[order])
    [parent] = [each for each in found if "mlflow.parentRunId" not in each.data.tags]
    return parent, [each for each in found if "mlflow.parentRunId" in each.data.tags]


def numbers(runs: list[Run]) -> list[int]:
    return [int(each.info.run_name.removeprefix("trial ")) for each in runs]


def times(uri: str, runs: list[Run]) -> Times:
    """Start, end and (step, timestamp) of all points, by trial id."""
    client = MlflowClient(uri)
    return {
        each.data.tags["sweeps.trial_id"]: (
            each.info.start_time,
            each.info.end_time,
            {
                key: [(point.step, point.timestamp) for point in client.get_metric_history(each.info.run_id, key)]
                for key in each.data.metrics
            },
        )
        for each in runs
    }


def assert_ordered(uri: str, files: SweepFiles) -> Times:
    parent, children = runs_in(uri, files)
    trials = list(range(files.planned().trials))
    starts = {number: each.info.start_time for number, each in zip(numbers(children), children, strict=True)}
    assert [starts[number] for number in trials] == sorted(starts.values())
    if len(set(starts.values())) == len(trials):  # MLflow sorts runs that share a start by their ids
        assert numbers(children) == trials
        assert numbers(runs_in(uri, files, "attributes.start_time DESC")[1]) == trials[::-1]
    found = times(uri, children)
    for start, end, points in found.values():
        assert parent.info.start_time <= start < end <= parent.info.end_time
        stamps = [stamp for _, stamp in sorted(point for curve in points.values() for point in curve)]
        assert stamps == sorted(stamps)
        assert start <= stamps[0] <= stamps[-1] <= end
        assert min(points["loss"]) == (0, start)
    return found


@pytest.fixture(params=["bulk", pytest.param("client", marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest, make_config: MakeConfig) -> Callable[..., SweepConfig]:
    def make(task: str = "line", **changes: Any) -> SweepConfig:
        tracking = {"writer": request.param, "model": "none"}
        return make_config(tracking=tracking, **(TASKS[task] | changes))

    return make


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that moves by a second with every shard that is stored; tests can set it."""
    now = [4_000_000_000_000]

    def tick() -> int:
        now[0] += 1000
        return now[0]

    monkeypatch.setattr("sweeps.pipeline.timeline.now_ms", tick)
    return now


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_trials_of_any_executor_are_in_order(
    config: Callable[..., SweepConfig], store: Store, uri: str, executor: Executor
) -> None:
    assert_ordered(uri, computed(config(), store, executor, tracker_at(uri, store)))


@pytest.mark.parametrize("task", ["line", "network"])
def test_runs_and_points_are_in_order(
    config: Callable[..., SweepConfig], store: Store, uri: str, clock: list[int], task: str
) -> None:
    files = computed(config(task), store, InlineExecutor(), tracker_at(uri, store))
    found = assert_ordered(uri, files)
    starts = [start for start, _, _ in found.values()]
    assert len(set(starts)) == len(starts)
    assert verify(files, tracker_at(uri, store), sample=2).differences == []


@one_database
def test_shards_that_finish_in_any_order_give_the_order_of_trials(
    config: Callable[..., SweepConfig], store: Store, uri: str, clock: list[int]
) -> None:
    files = computed(config(), store, Reversed(), tracker_at(uri, store))
    starts = [start for start, _, _ in assert_ordered(uri, files).values()]
    assert len(set(starts)) == len(starts)


@pytest.mark.slow
@one_database
@pytest.mark.parametrize("failing", [{0}, {1, 2}, *([{2}] if NIGHTLY else [])])
def test_a_sweep_logged_in_part_keeps_its_times_when_it_is_resumed(
    config: Callable[..., SweepConfig], store: Store, uri: str, clock: list[int], failing: set[int]
) -> None:
    files = computed(config(), store, Without(failing), tracker_at(uri, store))
    parent, logged = runs_in(uri, files)
    assert len(logged) == files.stored_trials()
    assert {shard for shard in range(3) if files.times.at(shard) is None} == failing
    clock[0] += 10**9  # resumed after days
    tracker = tracker_at(uri, store)
    publish(resume(SweepFiles(files.folder), InlineExecutor(), tracker, Silent()), tracker)
    before, after = times(uri, logged), assert_ordered(uri, files)
    assert {trial: after[trial] for trial in before} == before
    ended = runs_in(uri, files)[0].info.end_time
    assert ended > parent.info.end_time
    publish(log(SweepFiles(files.folder), again := tracker_at(uri, store), Silent()), again)
    assert assert_ordered(uri, files) == after
    assert runs_in(uri, files)[0].info.end_time == ended
    assert runs_in(uri, files)[0].data.metrics["trials"] == len(after)


@one_database
def test_a_killed_sweep_is_resumed_in_order(
    config: Callable[..., SweepConfig], store: Store, uri: str, clock: list[int]
) -> None:
    prepared = prepare(config())
    files = create(prepared, store, InlineExecutor(), tracker_at(uri, store), fresh=True)
    with pytest.raises(Interrupted):
        run(files, prepared, Stopped(list, 1), tracker_at(uri, store), Silent())
    clock[0] += 10**9
    tracker = tracker_at(uri, store)
    publish(resume(SweepFiles(files.folder), Reversed(), tracker, Silent()), tracker)
    assert_ordered(uri, files)


@pytest.mark.slow
@one_database
def test_a_sweep_logged_later_or_elsewhere_has_the_same_times(
    config: Callable[..., SweepConfig], store: Store, uri: str, databases: Files | Cluster, clock: list[int]
) -> None:
    files = computed(config(), store, InlineExecutor(), tracker_at(uri, store))
    elsewhere = databases.new_database()
    tracker = tracker_at(elsewhere, store)
    publish(log(SweepFiles(files.folder), tracker, Silent()), tracker)
    assert assert_ordered(elsewhere, files) == assert_ordered(uri, files)
    here, there = (runs_in(each, files)[0].info for each in (uri, elsewhere))
    assert (there.start_time, there.end_time) == (here.start_time, here.end_time)


@one_database
def test_a_shard_whose_times_were_not_stored_is_logged_in_order(
    config: Callable[..., SweepConfig], store: Store, uri: str
) -> None:
    """As in a store of an earlier version, or if the process was killed between the two files."""
    files = untracked(config(), store)
    (files.folder / "times" / "00000.json").unlink()
    files.write_progress({"updated": "2100-01-01T00:00:00+00:00"})
    tracker = tracker_at(uri, store)
    publish(log(SweepFiles(files.folder), tracker, Silent()), tracker)
    first = assert_ordered(uri, files)
    assert len({start for start, _, _ in first.values()}) == len(first)
    publish(log(SweepFiles(files.folder), again := tracker_at(uri, store), Silent()), again)
    assert assert_ordered(uri, files) == first


@pytest.mark.slow
@one_database
def test_a_sweep_of_an_earlier_version_is_logged_within_its_parents_time(tmp_path: Path, uri: str) -> None:
    home = Store(tmp_path / "earlier")
    restore(DATA / "store-0.1.0.tar.zst", home)
    files = home.find("0ea1")
    tracker = tracker_at(uri, home)
    publish(log(files, tracker, Silent()), tracker)
    assert_ordered(uri, files)


@one_database
def test_damaged_times_are_named(config: Callable[..., SweepConfig], store: Store, uri: str) -> None:
    files = untracked(config(), store)
    path = files.folder / "times" / "00000.json"
    path.write_text(json.dumps({"shards": {"0": {"start_ms": -1}}}))
    with pytest.raises(Exception, match=f"{path}: damaged"):
        log(SweepFiles(files.folder), tracker_at(uri, store), Silent())


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_trials_that_share_a_millisecond_are_in_order_in_a_table_by_ascending_start(
    make_config: MakeConfig, store: Store, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow breaks ties by run id, which the bulk writer makes from the trial's number."""
    monkeypatch.setattr("sweeps.pipeline.timeline.now_ms", lambda: 4_000_000_000_000)
    files = computed(make_config(), store, InlineExecutor(), tracker_at(uri, store))
    children = runs_in(uri, files)[1]
    assert len({each.info.start_time for each in children}) == 1
    assert numbers(children) == list(range(files.planned().trials))
