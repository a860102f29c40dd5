"""Standard streams that are closed, full, or lack characters; users that the system does not know."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.store.store import Store
from tests.support.command_line import Cli

pytestmark = pytest.mark.slow

SWEEPS = Path(sys.executable).parent / "sweeps"
UNKNOWN_USER = "import pwd\ndef unknown(*_): raise KeyError('uid not found')\npwd.getpwuid = unknown\n"


def shell(folder: Path, line: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a line of bash in which $SWEEPS is the command, on the store in the folder."""
    variables = {**os.environ, "SWEEPS": str(SWEEPS), "SWEEPS_STORE": str(folder / "store"), **environment}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=variables, capture_output=True, timeout=300)


def test_a_closed_pipe_does_not_stop_a_sweep(tmp_path: Path, config: Callable[..., Path], store: Store) -> None:
    # The reader has gone before the first line is written.
    done = shell(tmp_path, f"exec 3> >(exec true); wait $!; $SWEEPS run {config()} --executor inline >&3")
    assert (done.returncode, done.stderr) == (0, b"")
    [files] = store.sweeps()
    assert files.state() == "reported"
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("small").experiment_id
    assert {run.info.status for run in client.search_runs([experiment])} == {"FINISHED"}


@pytest.mark.parametrize(
    ("redirected", "code", "message"),
    [
        (">&-", 0, b""),
        (">&- 2>&- <&-", 0, b""),
        ("> /dev/full", 6, b"error: standard output: cannot be written: No space left on device; its end is lost\n"),
    ],
)
def test_output_that_cannot_be_written(
    tmp_path: Path, store: Store, redirected: str, code: int, message: bytes
) -> None:
    done = shell(tmp_path, f"$SWEEPS list {redirected}")
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_encoding_lacks_are_replaced(
    tmp_path: Path, store: Store, config: Callable[..., Path], encoding: str
) -> None:
    path = config(name="größe Σ", tracking={"trials": "none"})
    done = shell(tmp_path, f"$SWEEPS run {path} --executor inline && $SWEEPS show latest", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "größe Σ: 12 trials".encode(encoding, "replace") in done.stdout


def test_a_user_that_the_system_does_not_know(tmp_path: Path, config: Callable[..., Path], store: Store) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNKNOWN_USER)
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    variables = {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    unknown = "unset HOME USER LOGNAME; "
    done = shell(tmp_path, f"{unknown} $SWEEPS run {config()} --executor inline", **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert store.sweeps()[0].state() == "reported"


def test_the_home_of_an_unknown_user_is_one_line(cli: Cli) -> None:
    told = cli("list", "--store", "~no-such-user/st", code=2).stderr
    assert told == ("error: ~no-such-user/st: ~no-such-user is not known as a user's home; write the path in full\n")
