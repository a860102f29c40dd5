"""One conformance suite for all executors."""

import filecmp
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sgdcore import Task
from sweeps.config.schema import SweepConfig
from sweeps.errors import ExecutorError
from sweeps.execution import ray as ray_executor_module
from sweeps.execution import ray_probe
from sweeps.execution.executor import Executor, workers_of
from sweeps.execution.inline import InlineExecutor
from sweeps.execution.ray import IN_FLIGHT_PER_CORE, RayExecutor, loopback_environment
from sweeps.pipeline.run import create, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard, ShardFailure, ShardResult, ShardStored
from sweeps.store.reopen import reopen
from sweeps.store.store import Store, SweepFiles
from tests.support.doubles import Silent, Untracked

MakePrepared = Callable[..., PreparedSweep]


def files_in(folder: Path) -> SweepFiles:
    (folder / "shards").mkdir(parents=True)
    return SweepFiles(folder)


def test_every_shard_comes_back_once(executor: Executor, make_prepared: MakePrepared) -> None:
    prepared = make_prepared()
    results = list(executor.run(prepared, prepared.plan.shards()))
    assert sorted(result.shard.index for result in results) == [0, 1, 2]
    assert all(isinstance(result, ShardResult) for result in results)


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_shard_files_are_equal_byte_for_byte(
    executor: Executor, make_prepared: MakePrepared, tmp_path: Path, order: str
) -> None:
    prepared = make_prepared(training={"epochs": 4, "order": order, "batch_size": 2}, seeds=[1, 2])
    here, there = files_in(tmp_path / "here"), files_in(tmp_path / "there")
    for files, runner in ((here, InlineExecutor()), (there, executor)):
        for result in runner.run(replace(prepared, threads=2), prepared.plan.shards()):
            assert isinstance(result, ShardResult)
            files.shards.write(result)
    names = sorted(path.name for path in here.shards.folder.iterdir())
    assert len(names) == len(prepared.plan.shards())
    assert filecmp.cmpfiles(here.shards.folder, there.shards.folder, names, shallow=False) == (names, [], [])


class Broken(Task):
    """A task whose features cannot be had for some trials' sake."""

    @property
    def samples(self) -> int:
        raise RuntimeError("a broken task")


def test_a_shard_that_raises_is_a_result_with_its_traceback(executor: Executor, make_prepared: MakePrepared) -> None:
    prepared = make_prepared()
    broken = replace(prepared, task=Broken(prepared.task.dataset))
    results = list(executor.run(broken, prepared.plan.shards()))
    assert len(results) == 3
    for result in results:
        assert isinstance(result, ShardFailure)
        assert "RuntimeError: a broken task" in result.traceback
    assert len(list(executor.run(prepared, prepared.plan.shards()))) == 3


def test_shards_are_taken_as_they_are_needed(executor: Executor, make_prepared: MakePrepared) -> None:
    """The number in flight is bounded: of many shards only a few are taken before the first result is consumed."""
    prepared = make_prepared(execution={"trials_per_shard": 1})
    taken: list[int] = []

    def shards() -> Any:
        for index in range(1000):
            taken.append(index)
            yield Shard(index, index % 12, index % 12 + 1)

    results = executor.run(prepared, shards())
    next(results)
    cores = len(os.sched_getaffinity(0))
    assert len(taken) <= max(2, IN_FLIGHT_PER_CORE * cores)
    results.close()


def test_giving_up_leaves_the_executor_usable(executor: Executor, make_prepared: MakePrepared) -> None:
    prepared = make_prepared(execution={"trials_per_shard": 1})
    results = executor.run(prepared, prepared.plan.shards())
    next(results)
    results.close()
    assert len(list(executor.run(prepared, prepared.plan.shards()))) == 12


def test_the_backlog_is_what_comes_without_waiting(
    executor: Executor, make_prepared: MakePrepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor_module, "_WAITED_SHARE", 1)  # results come together, as from many cores
    prepared = make_prepared(execution={"trials_per_shard": 1})
    backlogs, indices = [], []
    for result in executor.run(prepared, prepared.plan.shards()):
        indices.append(result.shard.index)
        backlogs.append(executor.backlog)
    assert sorted(indices) == list(range(12))
    assert all(after in (before - 1, *([*range(12)] if before == 0 else [])) for before, after in pairwise(backlogs))
    assert backlogs[-1] == executor.backlog == 0
    assert executor.is_inline or max(backlogs) > 0


def test_shards_that_finish_together_are_stored_with_their_times(
    executor: Executor, make_prepared: MakePrepared, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor_module, "_WAITED_SHARE", 1)
    prepared = make_prepared(execution={"trials_per_shard": 1})
    files = create(prepared, store, executor, Untracked())
    run(files, prepared, executor, Untracked(), Silent())
    assert files.shards.done() == set(range(12))
    assert SweepFiles(files.folder).times.all().keys() == set(range(12))


@pytest.mark.slow
def test_workers_of_a_local_ray_store_their_shards(
    ray_executor: RayExecutor, make_prepared: MakePrepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, came = make_prepared(), []

    def kept(self: RayExecutor, *arguments: Any) -> Any:
        came.append(outcome_of(self, *arguments))
        return came[-1]

    outcome_of = RayExecutor._outcome
    monkeypatch.setattr(RayExecutor, "_outcome", kept)
    folders = []
    for name, executor in (("here", InlineExecutor()), ("there", ray_executor)):
        files = create(prepared, Store(tmp_path / name), executor, Untracked())
        outcome = run(files, prepared, executor, Untracked(), Silent())
        assert (outcome.failed_trials, outcome.unstored) == (0, {})
        folders.append(files.shards.folder)
    assert [type(outcome) for outcome in came] == [ShardStored] * len(came)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(path.name for path in folders[1].iterdir())
    assert len(names) == len(came) > 0
    assert filecmp.cmpfiles(*folders, names, shallow=False) == (names, [], [])


@pytest.mark.slow
def test_local_ray_listens_on_loopback_only_and_asks_for_a_token(ray_executor: RayExecutor) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ray_executor.description.startswith("local Ray: 1 node")
    children = descendants(os.getpid())
    assert children
    addresses = [address for pid in children for address in listening(pid)]
    assert addresses
    assert {address for address in addresses if address not in LOOPBACK} == set()


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


def descendants(pid: int) -> set[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def listening(pid: int) -> list[str]:
    """Local addresses (hexadecimal, as /proc has them) on which a process listens."""
    inodes = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(link)
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        tables = [Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return []
    rows = [line.split() for table in tables for line in table]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


@pytest.mark.slow
def test_a_shard_whose_worker_is_killed_runs_again(
    ray_executor: RayExecutor, make_prepared: MakePrepared, tmp_path: Path
) -> None:
    prepared = make_prepared()
    marker = tmp_path / "killed"
    deadly = replace(prepared, task=Deadly(prepared.task.dataset, marker=marker))
    results = list(ray_executor.run(deadly, prepared.plan.shards()[:1]))
    assert marker.exists()
    assert [type(result) for result in results] == [ShardResult]


class Deadly(Task):
    """Kills the first process that looks at it."""

    def __init__(self, dataset: Any, marker: Path) -> None:
        super().__init__(dataset)
        object.__setattr__(self, "marker", marker)

    @property
    def samples(self) -> int:
        marker: Path = self.__dict__["marker"]
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return len(self.dataset)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "cannot be joined: .*refused"),
        ("ray://127.0.0.1:1", "cannot be joined: .*refused"),
        ("nowhere", "HOST:PORT"),
        ("127.0.0.1:999999", "cannot be joined"),
    ],
)
def test_an_address_that_nobody_answers(address: str, message: str) -> None:
    with pytest.raises(ExecutorError, match=message):
        RayExecutor(address).start()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_speaks(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would wait for it, for ever or for a minute."""
    loopback_environment()  # before Ray is imported, which the tests after this one need
    monkeypatch.setattr(ray_probe, "_PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ExecutorError, match="it accepts connections, but did not answer like Ray"):
            RayExecutor(address).start()


@pytest.mark.slow
def test_a_token_that_is_not_the_clusters(ray_executor: RayExecutor) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    script = f"from sweeps.execution.ray_probe import probe; probe({address!r})"
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert f"ExecutorError: Ray at {address} cannot be joined: wrong or missing token" in done.stderr
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_shards_are_sized_for_the_executors_cores(store: Store, make_config: Callable[..., SweepConfig]) -> None:
    class Large(InlineExecutor):
        cores = 6

    config = make_config(execution={})
    prepared = prepare(config)
    files = create(prepared, store, Large(), Untracked())
    assert (files.manifest()["trials_per_shard"], files.manifest()["shards"]) == (2, 6)
    run(files, prepared, Large(), Untracked(), Silent())
    assert files.shards.done() == set(range(6))
    assert len(reopen(files).plan.shards()) == 6


def test_a_shard_has_all_threads_in_this_process_and_one_on_ray(executor: Executor) -> None:
    workers = workers_of(executor, "cpu")
    assert workers.cores == executor.cores
    assert workers.threads == (executor.cores if executor.is_inline else 1)
    assert workers.on_cpu


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_devices_that_are_always_there(executor: Executor, device: str) -> None:
    executor.check(device)


@pytest.mark.no_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there(executor: Executor, device: str) -> None:
    with pytest.raises(ExecutorError, match=r"^training\.device: .*cuda"):
        executor.check(device)
