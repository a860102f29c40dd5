"""Kills at random instants: the driver, Ray's workers, MLflow's server. Afterwards ``resume`` finishes the sweep, the
audit is clean, and the shards are those of an undisturbed sweep. ``make chaos ROUNDS=100 SEED=1`` tries more.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sweeps import yaml
from sweeps.config import parse
from sweeps.execute.inline import InlineExecutor
from sweeps.run import create, prepare, run
from sweeps.store import Store, SweepFiles
from sweeps.tracking.tracker import MlflowTracker
from sweeps.tracking.ui import serve
from sweeps.verify import verify
from tests.sweeps.conftest import Cli, document
from tests.sweeps.test_executors import descendants
from tests.sweeps.test_resume import Silent, Untracked, contents

pytestmark = pytest.mark.cluster
SWEEP = document(
    parameters={"lr": {"min": 0.001, "max": 0.06, "count": 60}, "momentum": {"values": [0, 0.9]}},
    training={"epochs": 50},
    execution={"trials_per_shard": 3, "max_retries": 50},
)
SECONDS = 4.0  # about what an undisturbed sweep takes from its folder to its end
RESUMES = 2  # that may be killed as well
KILLS = 4  # of workers
WORKERS = ("ray::run_shard", "ray::IDLE")
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    first, rounds = (metafunc.config.getoption(f"--chaos-{name}") for name in ("seed", "rounds"))
    metafunc.parametrize("seed", range(first, first + rounds), ids="seed {}".format)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    work = prepare(parse(SWEEP, "test.yaml"))
    files = create(work, Store(tmp_path_factory.mktemp("undisturbed")), InlineExecutor(), Untracked())
    run(files, work, InlineExecutor(), Untracked(), Silent())
    return contents(files)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.write(SWEEP))
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


def assert_whole(files: SweepFiles, undisturbed: dict[str, bytes]) -> None:
    assert files.state() == "reported"
    assert contents(files) == undisturbed
    audit = verify(files, MlflowTracker(files.store.tracking_uri), sample=5)
    assert [str(difference) for difference in audit.differences] == []
    assert audit.logged == audit.stored == audit.trials == 120


def test_the_driver_is_killed(cli: Cli, store: Store, config: Path, undisturbed: dict[str, bytes], seed: int) -> None:
    chance = random.Random(seed)
    process = cli.start("run", config, "--executor", "inline")
    files = begun(store, process)
    kill_later(process, chance.uniform(0, SECONDS))
    for _ in range(chance.randint(0, RESUMES)):
        assert files.state() != "running"  # the lease died with its holder
        kill_later(cli.start("resume", files.sweep_id, "--executor", "inline"), chance.uniform(0, 2 * SECONDS))
    cli("resume", files.sweep_id, "--executor", "inline")
    assert_whole(files, undisturbed)


def test_workers_are_killed(cli: Cli, store: Store, config: Path, undisturbed: dict[str, bytes], seed: int) -> None:
    chance = random.Random(seed)
    process = cli.start("run", config)
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
    assert_whole(files, undisturbed)


def test_mlflows_server_is_killed(
    cli: Cli, store: Store, config: Path, undisturbed: dict[str, bytes], seed: int
) -> None:
    chance = random.Random(seed)
    with serve(store, 0) as (address, server):
        process = cli.start("run", config, "--executor", "inline", "--tracking-uri", address, **PATIENCE)
        files = begun(store, process)
        time.sleep(chance.uniform(0, 2 * SECONDS))
        os.killpg(server.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode in (0, 5), out + err  # 0: it was all logged before
    assert len(files.done()) == 40
    with serve(store, int(address.rpartition(":")[2])):
        cli("resume", files.sweep_id, "--executor", "inline", **PATIENCE)
    assert_whole(files, undisturbed)


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
