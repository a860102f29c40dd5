"""Kills at random instants: the driver, Ray's workers, nodes and head, MLflow's server and database. Afterwards
``resume`` finishes the sweep, the audit is clean, and the shards are those of an undisturbed sweep.

``make chaos ROUNDS=100 SEED=1`` tries each fault so often. ``make test`` tries once what no other test tries; the tests
marked chaos_only name the ones that kill the same there.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps.config import strict_yaml
from sweeps.config.loader import parse
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.run import create, run
from sweeps.planning.prepared import prepare
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.server.ui import mlflow_server
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support.command_line import Cli
from tests.support.documents import document
from tests.support.doubles import Silent, Untracked
from tests.support.postgres import Cluster
from tests.support.processes import descendants
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.stores import contents

pytestmark = [
    pytest.mark.slow,
    # a node that Ray starts leaves a socket of its own to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]
TRIALS, SHARDS = 60, 20
SWEEP = document(
    parameters={"lr": {"min": 0.001, "max": 0.06, "count": TRIALS // 2}, "momentum": {"values": [0, 0.9]}},
    training={"epochs": 50},
    execution={"trials_per_shard": TRIALS // SHARDS, "max_retries": 50},
)
LARGE = document(  # enough for something to happen meanwhile, on whatever machine
    parameters={"lr": {"min": 0.001, "max": 0.06, "count": 15_000}, "momentum": {"values": [0, 0.9]}},
    training={"epochs": 50},
    execution={"trials_per_shard": 1_500, "max_retries": 50},
    tracking={"trials": "top:50"},
)
SECONDS = 2.5  # about what an undisturbed sweep takes from its folder to its end, on a fast machine
DRIVER_KILLS = 3  # of the first and those that resume it
KILLS = 4  # of workers
NODE_KILLS = 2
WORKERS = ("ray::run_shard", "ray::IDLE")
Undisturbed = Callable[[dict[str, object]], dict[str, bytes]]
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    first, rounds = (metafunc.config.getoption(f"--chaos-{name}") for name in ("seed", "rounds"))
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(first, first + (rounds or 1)), ids="seed {}".format)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The shards of a sweep that nothing happened to."""
    known: dict[str, dict[str, bytes]] = {}

    def compute(sweep: dict[str, object]) -> dict[str, bytes]:
        text = strict_yaml.write(sweep)
        if text not in known:
            prepared = prepare(parse(sweep, "test.yaml"))
            files = create(prepared, Store(tmp_path_factory.mktemp("undisturbed")), InlineExecutor(), Untracked())
            run(files, prepared, InlineExecutor(), Untracked(), Silent())
            known[text] = contents(files)
        return known[text]

    return compute


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(cores=2) as nodes:
        yield nodes


def written(folder: Path, sweep: dict[str, object]) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(strict_yaml.write(sweep))
    return path


def begun(store: Store, process: "subprocess.Popen[str]") -> SweepFiles:
    """The sweep of a process, as soon as its folder is there."""
    until = time.monotonic() + 120
    while not (found := store.sweeps()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    return found[0]


def kill_later(process: "subprocess.Popen[str]", seconds: float) -> None:
    """SIGKILL, unless it ends before."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()


def stored(files: SweepFiles, shards: int, process: "subprocess.Popen[str]") -> None:
    """Wait until so many shards are stored, or the process has ended."""
    until = time.monotonic() + 300
    while len(files.shards.done()) < shards and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)


def assert_whole(files: SweepFiles, undisturbed: dict[str, bytes], logged: int, uri: str | None = None) -> None:
    assert files.state() == "reported"
    assert contents(files) == undisturbed
    audit = verify(files, MlflowTracker(uri or Store.of(files).tracking_uri), sample=5)
    assert [str(difference) for difference in audit.differences] == []
    assert audit.stored == audit.trials
    assert audit.logged == logged


@pytest.mark.chaos_only("test_stages.py: test_a_killed_process_resumes_in_its_second_stage")
def test_the_driver_is_killed(cli: Cli, store: Store, tmp_path: Path, undisturbed: Undisturbed, seed: int) -> None:
    chance = random.Random(seed)
    process = cli.start("run", written(tmp_path, SWEEP), "--executor", "inline")
    files = begun(store, process)
    kill_later(process, chance.uniform(0, SECONDS))
    for _ in range(DRIVER_KILLS - 1):
        assert files.state() != "running"  # the lease died with its holder
        kill_later(cli.start("resume", files.sweep_id, "--executor", "inline"), chance.uniform(0, SECONDS))
    cli("resume", files.sweep_id, "--executor", "inline")
    assert_whole(files, undisturbed(SWEEP), logged=TRIALS)


@pytest.mark.chaos_only("test_ray_faults.py: test_shards_that_crash_again_and_again_are_given_up_and_the_rest_goes_on")
def test_workers_are_killed(cli: Cli, store: Store, tmp_path: Path, undisturbed: Undisturbed, seed: int) -> None:
    chance = random.Random(seed)
    process = cli.start("run", written(tmp_path, SWEEP), "--executor", "ray")
    files = begun(store, process)
    killed = 0
    while process.poll() is None and killed < KILLS:
        time.sleep(chance.uniform(0, 0.2))
        workers = [pid for pid in descendants(process.pid) if name_of(pid).startswith(WORKERS)]
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            killed += 1
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert_whole(files, undisturbed(SWEEP), logged=TRIALS)


@pytest.mark.chaos_only("test_ray_faults.py: test_what_dies_with_its_shards_loses_nothing")
def test_nodes_are_killed_and_others_join(
    cluster: RayCluster, cli: Cli, store: Store, tmp_path: Path, undisturbed: Undisturbed, seed: int
) -> None:
    chance = random.Random(seed)
    nodes = [cluster.add(cores=2)]
    process = cli.start("run", written(tmp_path, LARGE), "--address", cluster.address, **cluster.environment)
    files = begun(store, process)
    for _ in range(NODE_KILLS):
        stored(files, len(files.shards.done()) + chance.randint(1, 5), process)
        time.sleep(chance.uniform(0, 0.2))
        cluster.kill(nodes.pop(chance.randrange(len(nodes))))
        nodes.append(cluster.add(cores=chance.randint(1, 3)))
    out, err = process.communicate(timeout=300)
    for node in nodes:
        cluster.kill(node)
    assert process.returncode == 0, out + err
    assert_whole(files, undisturbed(LARGE), logged=50)


def test_the_whole_cluster_is_lost(cli: Cli, store: Store, tmp_path: Path, undisturbed: Undisturbed, seed: int) -> None:
    chance = random.Random(seed)
    with ray_cluster(cores=2) as doomed:
        process = cli.start("run", written(tmp_path, LARGE), "--address", doomed.address, **doomed.environment)
        files = begun(store, process)
        stored(files, chance.randint(0, 15), process)
        doomed.kill_head()
        out, err = process.communicate(timeout=120)
    if process.returncode != 0:  # else it was faster
        assert process.returncode == 3, out + err
        [told] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert "lost" in told
        assert told.endswith(f"continue with: sweeps resume {files.sweep_id}")
        assert files.shards.failures() == []
    cli("resume", files.sweep_id, "--executor", chance.choice(("ray", "inline")))
    assert_whole(files, undisturbed(LARGE), logged=50)


@pytest.mark.chaos_only("test_faults.py: test_a_server_that_is_killed_in_mid_sweep_and_started_again")
def test_mlflows_server_on_postgresql_is_killed(
    cli: Cli, store: Store, tmp_path: Path, postgres: Cluster, undisturbed: Undisturbed, seed: int
) -> None:
    chance = random.Random(seed)
    database, inline = postgres.new_database(), ("--executor", "inline")
    with mlflow_server(database, store.artifacts) as (address, server):
        process = cli.start("run", written(tmp_path, SWEEP), *inline, "--tracking-uri", address, **PATIENCE)
        files = begun(store, process)
        time.sleep(chance.uniform(0, 2 * SECONDS))
        os.killpg(server.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode in (0, 5), out + err  # 0: it was all logged before
    assert len(files.shards.done()) == SHARDS
    with mlflow_server(database, store.artifacts, int(address.rpartition(":")[2])):
        cli("resume", files.sweep_id, *inline, **PATIENCE)
    assert_whole(files, undisturbed(SWEEP), logged=TRIALS, uri=database)


def test_mlflows_database_is_killed(
    cli: Cli, store: Store, tmp_path: Path, postgres: Cluster, undisturbed: Undisturbed, seed: int
) -> None:
    """While a sweep logs to it in bulk; it is back before the sweep is resumed, or before it has ended."""
    chance = random.Random(seed)
    database, again = postgres.new_database(), chance.random() < 0.5
    arguments = ("--executor", "inline", "--tracking-uri", database)
    process = cli.start("run", written(tmp_path, SWEEP), *arguments)
    files = begun(store, process)
    time.sleep(chance.uniform(0, SECONDS / 2))
    with postgres.killed():
        if not again:
            out, err = process.communicate(timeout=300)
    out, err = process.communicate(timeout=300) if again else (out, err)
    assert process.returncode in (0, 5), out + err
    assert "Traceback" not in err
    assert len(files.shards.done()) == SHARDS
    cli("resume", files.sweep_id, *arguments)
    assert_whole(files, undisturbed(SWEEP), logged=TRIALS, uri=database)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
