"""Whatever stopped a sweep, when and where: resumed, it has the shards of an undisturbed one, byte for byte."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from sweeps.config.loader import parse
from sweeps.config.schema import SweepConfig
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard
from sweeps.store.reopen import reopen
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import TASKS, document
from tests.support.doubles import Silent, Stopped, Untracked
from tests.support.hypothesis_profiles import examples
from tests.support.stores import contents
from tests.support.tracking import TrackingServer

MakePrepared = Callable[..., PreparedSweep]


def planned(name: str, trials_per_shard: int) -> SweepConfig:
    return parse(document(**TASKS[name], execution={"trials_per_shard": trials_per_shard}), "test.yaml")


def computed(store: Store, config: SweepConfig, executor: InlineExecutor | None = None) -> SweepFiles:
    prepared = prepare(config)
    files = create(prepared, store, executor or InlineExecutor(), Untracked(), fresh=True)
    run(files, prepared, executor or InlineExecutor(), Untracked(), Silent())
    return files


@pytest.mark.parametrize("name", TASKS)
@examples(3, 50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 12), stops=st.lists(st.integers(0, 4), max_size=3), random=st.randoms())
def test_a_sweep_resumed_after_any_interruptions_is_the_undisturbed_one(
    name: str, store: Store, size: int, stops: list[int], random: Any
) -> None:
    config = planned(name, size)
    undisturbed = computed(store, config)

    def shuffled(shards: list[Shard]) -> list[Shard]:
        return random.sample(shards, len(shards))

    prepared = prepare(config)
    files = create(prepared, store, InlineExecutor(), Untracked(), fresh=True)
    for count in stops:
        with pytest.raises(Interrupted):
            resume(files, Stopped(shuffled, count), Untracked(), Silent())
    resume(files, InlineExecutor(), Untracked(), Silent())
    assert contents(files) == contents(undisturbed)
    assert len(contents(files)) == len(prepared.plan.shards())


def test_a_plan_made_for_another_machines_cores_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(document(execution={}), "test.yaml")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    files = computed(store, config)
    before = contents(files)
    assert len(before) == 4
    (files.shards.folder / "00002.parquet").unlink()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    assert len(prepare(config).plan.shards()) == 2
    assert len(reopen(files).plan.shards()) == 4
    resume(files, InlineExecutor(), Untracked(), Silent())
    assert contents(files) == before


@pytest.mark.parametrize("name", TASKS)
def test_a_shard_that_was_read_is_stored_with_the_same_bytes(store: Store, name: str, tmp_path: Path) -> None:
    files = computed(store, planned(name, 4))
    before = contents(files)
    for index in files.shards.done():
        files.shards.replace(index, files.shards.read(index))
    assert contents(files) == before


SHARDS = """
import sys
from pathlib import Path
from sweeps.config.loader import parse
from sweeps.execution.worker import run_shard
from sweeps.planning.prepared import prepare
from sweeps.store.sweep_files import SweepFiles
from tests.support.documents import document
files = SweepFiles(Path(sys.argv[1]))
files.shards.folder.mkdir(parents=True)
prepared = prepare(parse(document(
    task={"dataset": {"kind": "linear", "n": 96, "d": 48}}, training={"epochs": 1, "batch_size": 16},
    parameters={"lr": {"min": 0.001, "max": 0.5, "count": 8}}, execution={"trials_per_shard": 8},
), "test.yaml"))
files.shards.write(run_shard(prepared, prepared.plan.shards()[0]))
"""


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_cores(tmp_path: Path) -> None:
    """Linear algebra sums in another order on more threads."""
    found = []
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", SHARDS, tmp_path / threads], env=environment, check=True)
        found.append((tmp_path / threads / "shards" / "00000.parquet").read_bytes())
        assert pq.read_table(tmp_path / threads / "shards" / "00000.parquet")["predicted_radius"].null_count == 0
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_is_lost(
    cli: Cli, store: Store, tracking_server: TrackingServer, config: Callable[..., Path]
) -> None:
    """No file may grow beyond 6 kB: the plan fits, a shard does not. MLflow's server has room."""

    def almost_full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, resource.RLIM_INFINITY))

    tracking = ("--executor", "inline", "--tracking-uri", tracking_server.uri)
    path = config(name="full", tracking={"trials": "none"})
    process = cli.start("run", path, *tracking, before=almost_full)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 6, err
    [files] = store.sweeps()
    [line] = err.splitlines()
    assert line.startswith(f"error: {files.shards.folder}/00000.parquet: cannot be written: ")
    assert line.endswith("File too large; free some space, then resume the sweep")
    assert files.state() == "interrupted"
    assert contents(files) == {}
    cli("resume", files.sweep_id, *tracking)
    assert files.state() == "reported"
    assert contents(files) == contents(computed(store, parse(document(), "test.yaml")))
