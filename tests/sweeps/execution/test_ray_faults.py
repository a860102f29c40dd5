"""Real faults on Ray: worker processes that die, whole nodes that die, nodes that come and go while a sweep runs."""

import ctypes
import dataclasses
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sgdcore import Task
from sweeps.errors import ClusterLost, ExecutorError
from sweeps.execution.inline import InlineExecutor
from sweeps.execution.ray import RayExecutor
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.plan import Plan, Trials
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import ShardFailure, ShardResult
from sweeps.store.store import Store
from tests.support.doubles import Silent, Untracked
from tests.support.hypothesis_profiles import NIGHTLY
from tests.support.processes import until
from tests.support.ray_cluster import LEAST_OBJECT_STORE
from tests.support.stores import contents

pytestmark = pytest.mark.slow
MakePrepared = Callable[..., PreparedSweep]
NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": LEAST_OBJECT_STORE, "include_dashboard": False}
CURSES: dict[str, Callable[[], object]] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exits": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "raises": lambda: [][1],
}


@dataclasses.dataclass(frozen=True, eq=False)
class Cursed(Plan):
    """A plan some of whose shards end the process that computes them."""

    curses: dict[int, str] = dataclasses.field(default_factory=dict)  # by first trial

    def trials(self, start: int, stop: int) -> Trials:
        if start in self.curses:
            CURSES[self.curses[start]]()
        return super().trials(start, stop)


@dataclasses.dataclass(frozen=True, eq=False)
class Gated(Plan):
    """A plan whose trials tell which node and process looks at them, and come when the gate is open."""

    folder: Path = Path()

    def trials(self, start: int, stop: int) -> Trials:
        import ray

        (self.folder / f"{ray.get_runtime_context().get_node_id()} {os.getpid()} {start} {time.time_ns()}").touch()
        until = time.monotonic() + 60
        while not (self.folder / "open").exists() and time.monotonic() < until:
            time.sleep(0.02)
        return super().trials(start, stop)


def with_plan(prepared: PreparedSweep, kind: type[Plan], **facts: object) -> PreparedSweep:
    given = {field.name: getattr(prepared.plan, field.name) for field in dataclasses.fields(prepared.plan)}
    return dataclasses.replace(prepared, plan=kind(**given, **facts))


def test_shards_that_crash_again_and_again_are_given_up_and_the_rest_goes_on(
    ray_executor: RayExecutor, make_prepared: MakePrepared, store: Store
) -> None:
    prepared = make_prepared(execution={"trials_per_shard": 2, "max_retries": 1})
    undisturbed = create(prepared, store, InlineExecutor(), Untracked(), fresh=True)
    run(undisturbed, prepared, InlineExecutor(), Untracked(), Silent())
    cursed = with_plan(prepared, Cursed, curses=dict(zip((0, 2, 6, 8), CURSES, strict=True)))
    files = create(cursed, store, ray_executor, Untracked(), fresh=True)
    outcome = run(files, cursed, ray_executor, Untracked(), Silent())
    assert outcome.failed_trials == 8
    assert files.shards.done() == {2, 5}
    assert files.state() == "failed"
    assert [files.shards.tries(failure.index) for failure in files.shards.failures()] == [2, 2, 2, 1]
    told = [failure.read_text() for failure in files.shards.failures()]
    for text, trials in zip(told, ("0 to 1", "2 to 3", "6 to 7", "8 to 9"), strict=True):
        assert text.startswith(f"trials {trials}: given up after ")
    assert all("WorkerCrashedError: The worker died unexpectedly" in text for text in told[:3])
    assert "IndexError: list index out of range" in told[3]
    assert resume(files, ray_executor, Untracked(), Silent()).failed_trials == 0
    assert files.shards.failures() == []
    assert contents(files) == contents(undisturbed)


@pytest.mark.parametrize("call", ["put", "wait", "get"])
def test_what_ray_raises_where_its_node_is_lost_is_one_error(
    ray_executor: RayExecutor, make_prepared: MakePrepared, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A connection that is reset comes as a plain OSError out of whatever is asked just then."""
    import ray

    def reset(*_: object, **__: object) -> None:
        raise OSError("Connection reset by peer")

    monkeypatch.setattr(ray_executor, "_ray", ray)  # as it is, and again when this is over
    monkeypatch.setattr(ray, call, reset)
    prepared = make_prepared()
    with pytest.raises(ClusterLost, match="is lost: Connection reset by peer"):
        list(ray_executor.run(prepared, prepared.plan.shards()))


@pytest.fixture(scope="module")
def cluster(local_ray: RayExecutor) -> Iterator[Any]:
    """A head with a core, to which nodes can be added; that one has died is noticed within seconds."""
    import ray
    from ray.cluster_utils import Cluster

    local_ray.stop()
    checks = {"period_ms": 500, "timeout_ms": 1000, "failure_threshold": 2, "initial_delay_ms": 500}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in checks.items():
            patch.setenv(f"RAY_health_check_{name}", str(value))
        several = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **NODE})
        try:
            yield several
        finally:
            several.shutdown()
    assert not ray.is_initialized()


class Flight:
    """A sweep that is being run on a cluster in a thread of its own, until its gate is opened."""

    def __init__(self, executor: RayExecutor, prepared: PreparedSweep, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        gated = with_plan(prepared, Gated, folder=folder)
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.thread = threading.Thread(
            target=lambda: self.results.put(list(executor.run(gated, prepared.plan.shards()))), daemon=True
        )
        self.thread.start()

    def tasks(self) -> list[tuple[str, int]]:
        """(node id, process id) of all that began."""
        seen = [path.name.split() for path in self.folder.iterdir() if path.name != "open"]
        return [(node, int(pid)) for node, pid, *_ in seen]

    def until(self, reached: Callable[[list[tuple[str, int]]], bool]) -> None:
        deadline = time.monotonic() + 60
        while not reached(self.tasks()):
            assert time.monotonic() < deadline, self.tasks()
            time.sleep(0.02)

    def land(self) -> list[Any]:
        (self.folder / "open").touch()
        return list(self.results.get(timeout=120))


@pytest.fixture(scope="module")
def joined(cluster: Any) -> Iterator[RayExecutor]:
    executor = RayExecutor(cluster.address)
    executor.start()
    yield executor
    executor.stop()


def assert_all_there(results: list[Any], prepared: PreparedSweep) -> None:
    """The shards are those that this process computes."""
    expected = list(InlineExecutor().run(prepared, prepared.plan.shards()))
    assert {type(result) for result in results} == {ShardResult}
    for found, same in zip(sorted(results, key=lambda result: result.shard.index), expected, strict=True):
        assert isinstance(same, ShardResult)
        assert found.table.equals(same.table)


def test_a_node_that_is_added_takes_part(
    cluster: Any, joined: RayExecutor, make_prepared: MakePrepared, tmp_path: Path
) -> None:
    prepared = make_prepared(execution={"trials_per_shard": 1})
    flight = Flight(joined, prepared, tmp_path / "flight")
    flight.until(lambda tasks: len(tasks) == 1)
    node = cluster.add_node(num_cpus=3, **NODE)
    flight.until(lambda tasks: len(tasks) == 4)  # more than the one core at first would have been given
    assert len({at for at, _ in flight.tasks()}) == 2
    assert_all_there(flight.land(), prepared)
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.parametrize("fault", ["worker", *(["raylet"] if NIGHTLY else []), "node"])
def test_what_dies_with_its_shards_loses_nothing(
    cluster: Any, joined: RayExecutor, make_prepared: MakePrepared, tmp_path: Path, fault: str
) -> None:
    prepared = make_prepared(execution={"trials_per_shard": 1})
    node = cluster.add_node(num_cpus=2, **NODE)
    flight = Flight(joined, prepared, tmp_path / "flight")
    flight.until(lambda tasks: sum(at == node.node_id for at, _ in tasks) == 2)
    if fault == "node":
        cluster.remove_node(node, allow_graceful=False)
    elif fault == "raylet":
        node.kill_raylet(check_alive=True)
    else:
        for at, pid in flight.tasks():
            if at == node.node_id:
                os.kill(pid, signal.SIGKILL)
    began = len(flight.tasks())
    if fault == "worker":
        flight.until(lambda tasks: len(tasks) > began)  # it runs again
    assert_all_there(flight.land(), prepared)
    if fault != "node":
        cluster.remove_node(node, allow_graceful=False)


class Witness(Task):
    """Writes down which GPUs each process may see that looks at it."""

    def __init__(self, dataset: Any, folder: Path) -> None:
        super().__init__(dataset)
        object.__setattr__(self, "folder", folder)

    @property
    def samples(self) -> int:
        folder: Path = self.__dict__["folder"]
        (folder / f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}").touch()
        return len(self.dataset)


def assert_one_gpu_each(executor: RayExecutor, make_prepared: MakePrepared, folder: Path) -> None:
    """The GPUs are only Ray's word for it: ``auto`` then trains on the CPU, ``cuda`` fails.

    Ray starts a process for every task with a GPU, so there are few.
    """
    prepared = make_prepared()
    results = list(
        executor.run(
            dataclasses.replace(prepared, task=Witness(prepared.task.dataset, folder=folder)), prepared.plan.shards()
        )
    )
    assert [type(result) for result in results] == [ShardResult] * 3
    assert {path.name.partition(" ")[2] for path in folder.iterdir()} <= {"0", "1"}
    executor.check("cuda")
    with pytest.raises(ExecutorError, match="given cuda:0; on Ray use cuda"):
        executor.check("cuda:0")
    prepared = make_prepared(training={"epochs": 1, "device": "cuda"})
    [result] = executor.run(prepared, prepared.plan.shards()[:1])
    assert isinstance(result, ShardFailure)
    assert "device 'cuda:0' needs a CUDA GPU that torch can use" in result.traceback


def test_a_running_cluster_of_several_nodes_is_joined(
    cluster: Any, joined: RayExecutor, make_prepared: MakePrepared, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=2, num_gpus=2, **NODE)
    assert joined.description == f"Ray at {cluster.address}: 2 nodes, 3 cores, 2 GPUs"
    prepared = make_prepared(training={"epochs": 1, "device": "cpu"}, execution={"trials_per_shard": 1})
    assert len(list(joined.run(prepared, prepared.plan.shards()))) == 12
    assert_one_gpu_each(joined, make_prepared, tmp_path)
    cluster.remove_node(node, allow_graceful=False)
    until(lambda: joined.description == f"Ray at {cluster.address}: 1 node, 1 core")


def test_results_that_no_object_store_can_hold(
    cluster: Any, joined: RayExecutor, make_prepared: MakePrepared, store: Store
) -> None:
    prepared = make_prepared(
        parameters={"lr": {"min": 0.001, "max": 0.06, "count": 4_000}},
        training={"epochs": 400},
        record={"points": 2_000, "spacing": "linear"},
        execution={"trials_per_shard": 1_000},
    )
    node = cluster.add_node(num_cpus=1, **NODE)
    files, undisturbed = (create(prepared, store, joined, Untracked(), fresh=True) for _ in range(2))
    assert run(files, prepared, joined, Untracked(), Silent()).failed_trials == 0
    in_flight = 2 * joined.cores
    assert in_flight * files.shards.read(0).nbytes > LEAST_OBJECT_STORE
    run(undisturbed, prepared, InlineExecutor(), Untracked(), Silent())
    assert contents(files) == contents(undisturbed)
    cluster.remove_node(node, allow_graceful=False)
