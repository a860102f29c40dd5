"""Short sweeps log from a process of their own: killed, interrupted and failing, each trial is in MLflow once."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.store.store import Store
from tests.support.command_line import Cli
from tests.support.forked import Forked
from tests.support.processes import until

pytestmark = pytest.mark.slow

PAUSED = """
import os
from pathlib import Path
from sweeps.tracking.mlflow.tracker import MlflowTracker
from tests.support.processes import until

def paused(self, *arguments):
    Path("logging.new").write_text(str(os.getpid()))
    Path("logging.new").rename("logging")
    until(Path("go").exists)
    return method(self, *arguments)

method = MlflowTracker.{method}
MlflowTracker.{method} = paused
from sweeps.cli import main
main()
"""
FAILING = """
from sweeps.tracking.mlflow.tracker import MlflowTracker

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def check(self, writer):
    raise Odd("one", "two")

MlflowTracker.check = check
from sweeps.cli import main
main()
"""


@pytest.fixture
def started(cli: Cli, config: Callable[..., Path]) -> Callable[[str], Forked]:
    """Start a sweep whose tracker runs this code first."""
    path = config()

    def start(script: str) -> Forked:
        environment = {**os.environ, "SWEEPS_STORE": str(cli.folder / "store")}
        return Forked(["run", str(path), "--executor", "inline"], cli.folder, environment, script)

    return start


def logging_process(folder: Path) -> int:
    """Return the id of the process that waits in a call of the tracker."""
    until((folder / "logging").exists)
    return int((folder / "logging").read_text())


def is_running(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def check_resumed(cli: Cli, store: Store) -> None:
    """Resume the sweep and check that MLflow has each trial once, as it is in the store."""
    [files] = store.sweeps()
    cli("resume", files.sweep_id, "--executor", "inline")
    assert "tracking: 12 trials match the store" in cli("verify", files.sweep_id).stdout
    assert files.state() == "reported"
    client = MlflowClient(store.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert len(runs) == 13
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize("method", ["check", "end_trials", "finish"])
def test_a_killed_logging_process_leaves_the_results_and_a_command(
    started: Callable[[str], Forked], cli: Cli, store: Store, method: str
) -> None:
    process = started(PAUSED.format(method=method))
    os.kill(child := logging_process(cli.folder), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    [files] = store.sweeps()
    assert child != process.pid
    assert process.returncode == 5, out + err
    missing = "12 trials are" if method == "check" else "the sweep's own run is"
    assert err == (
        f"error: all trials are computed and reported, but {missing} not in MLflow yet: the process that logs to "
        f"MLflow was killed (signal 9); log what is missing with: sweeps resume {files.sweep_id}\n"
    )
    assert files.report.is_written()
    check_resumed(cli, store)


@pytest.mark.parametrize("method", ["check", "end_trials", "finish"])
def test_a_killed_sweep_takes_its_logging_process_with_it(
    started: Callable[[str], Forked], cli: Cli, store: Store, method: str
) -> None:
    process = started(PAUSED.format(method=method))
    child = logging_process(cli.folder)
    [files] = store.sweeps()
    assert files.state() == "running"
    process.kill()
    process.communicate(timeout=120)
    until(lambda: not is_running(child))
    assert files.holder() is None
    assert files.is_computed()
    check_resumed(cli, store)


def test_ctrl_c_is_for_the_sweep_and_not_for_its_logging_process(
    started: Callable[[str], Forked], cli: Cli, store: Store
) -> None:
    process = started(PAUSED.format(method="end_trials"))
    child = logging_process(cli.folder)
    for number in (child, process.pid):  # a terminal sends it to both
        os.kill(number, signal.SIGINT)
    (cli.folder / "go").touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    [files] = store.sweeps()
    assert f"interrupted: 3 of 3 shards are in the store; continue with: sweeps resume {files.sweep_id}\n" in err
    assert not is_running(child)
    client = MlflowClient(store.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * 12 + ["KILLED"]
    check_resumed(cli, store)


def test_an_error_of_mlflow_is_reported_as_from_the_sweeps_own_process(
    cli: Cli, config: Callable[..., Path], store: Store
) -> None:
    cli("run", path := config(), "--executor", "inline")
    client = MlflowClient(store.tracking_uri)
    client.delete_experiment(client.get_experiment_by_name("small").experiment_id)
    [line] = cli("run", path, "--executor", "inline", code=5).stderr.splitlines()
    assert (
        f"12 trials are not in MLflow yet: {store.tracking_uri}: the experiment 'small' is deleted; restore it, or "
        "name another one with 'experiment:'; log what is missing with: sweeps resume "
    ) in line


def test_an_error_that_cannot_leave_its_process_is_reported_by_its_text(started: Callable[[str], Forked]) -> None:
    process = started(FAILING)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 5, out + err
    assert "12 trials are not in MLflow yet: Odd: one and two; log what is missing with: " in err
