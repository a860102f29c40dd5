"""One process at a time works on a sweep: real processes, real kills."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sweeps.config import strict_yaml
from sweeps.errors import StoreError, SweepHeld
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.backends.local_lease import Holder, held, holder
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import document

MakePrepared = Callable[..., PreparedSweep]
HOLD = """
import sys
from pathlib import Path
from sweeps.store.backends.local_lease import held
with held(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease until it is killed or its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    with another_process(path) as process:
        found = holder(path)
        assert found is not None
        assert (found.pid, found.host) == (process.pid, socket.gethostname())
        with (
            pytest.raises(SweepHeld, match=rf"^it is held by '-c .*' \(process {process.pid} of .+ since 20"),
            held(path, "it"),
        ):
            pass
        assert holder(path) == found  # whoever came second has left no trace
    assert holder(path) is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lease_dies_with_its_holder(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "lease"
    with another_process(path) as process:
        process.send_signal(number)
        process.wait()
        assert path.read_text()
        assert holder(path) is None
        with held(path, "it"):
            assert holder(path) is not None
            assert json.loads(path.read_text())["pid"] == os.getpid()
    assert holder(path) is None


def test_within_one_process_too(tmp_path: Path) -> None:
    with held(tmp_path / "lease", "it"), pytest.raises(SweepHeld), held(tmp_path / "lease", "it"):
        pass
    with held(tmp_path / "lease", "it"):
        pass


def test_nobody_holds_what_is_not_there_and_a_fresh_file_is_somebodys(tmp_path: Path) -> None:
    assert holder(tmp_path / "lease") is None
    assert str(Holder()) == "another process"
    with pytest.raises(StoreError, match="cannot be locked: No such file or directory"), held(tmp_path / "a/b", "it"):
        pass


def test_a_sweep_is_planned_running_and_interrupted(
    store: Store, make_prepared: MakePrepared, stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared())
    assert files.state() == "computed"
    for path in files.shards.folder.iterdir():
        path.unlink()
    assert files.state() == "planned"
    with files.lease():
        assert files.state() == "running"
        assert files.holder() is not None
    assert files.state() == "interrupted"
    assert files.holder() is None


@pytest.mark.slow
def test_two_processes_on_one_sweep_are_not_mixed(cli: Cli, store: Store, tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(strict_yaml.write(document(tracking={"trials": "none"})))
    cli("run", config, "--executor", "inline")
    [files] = store.sweeps()
    report = files.report.folder / "report.html"
    before = report.stat()
    with another_process(files.folder / "lease") as process:
        for command in (["resume", files.sweep_id, "--executor", "inline"], ["report", files.sweep_id]):
            [line] = cli(*command, code=2).stderr.splitlines()
            assert f"sweep {files.sweep_id} is held by '-c" in line
            assert f"process {process.pid}" in line
        [listed] = json.loads(cli("list", "--json").stdout)
        assert listed["state"] == "running"
        shown = json.loads(cli("show", files.sweep_id, "--json").stdout)
        assert (shown["state"], str(process.pid) in shown["held by"]) == ("running", True)
        assert f"process {process.pid}" in cli("show", files.sweep_id).stdout
        assert cli("report", files.sweep_id, "--format", "csv").stdout.count("\n") == 13
    assert report.stat() == before
    cli("report", files.sweep_id)
    assert json.loads(cli("list", "--json").stdout)[0]["state"] == "reported"
