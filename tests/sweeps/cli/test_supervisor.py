"""However the process ends that runs a sweep on Ray, its parent says so, and no process is left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.cli.commands import run
from tests.support.processes import until

SCRIPT = """
import hashlib, os, signal, sys, time
from pathlib import Path
from sweeps.cli.supervisor import leave, supervise, tell
def until_asked(number):
    while not Path(str(number)).exists():
        time.sleep(0.01)
supervise()
tell("sweeps resume abcd")
{does}
"""
WAIT = """
try:
    Path("pid").write_text(str(os.getpid()))
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
"""


def started(folder: Path, does: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(does=does)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def child_of(process: "subprocess.Popen[str]", folder: Path) -> int:
    def is_named() -> bool:
        assert process.poll() is None, process.communicate()
        return (folder / "pid").exists() and bool((folder / "pid").read_text())

    until(is_named)
    return int((folder / "pid").read_text())


@pytest.mark.parametrize(
    ("does", "code", "told"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit(4)", 4, ""),
        ("leave(3)", 3, ""),
        (
            "os._exit(1)",
            3,
            "its process has ended; on Ray this means that its node or its cluster is lost; continue with: ",
        ),
        (
            "os.abort()",
            3,
            "its process has ended (signal 6); on Ray this means that its node or its cluster is lost; continue with: ",
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            137,
            "its process was killed (signal 9); continue with: sweeps resume",
        ),
    ],
)
def test_the_end_is_told(tmp_path: Path, does: str, code: int, told: str) -> None:
    process = started(tmp_path, does)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert told in err
    assert bool(err) == bool(told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("everybody", [False, True], ids=["to the parent", "to both, as a terminal's Ctrl-C"])
def test_a_signal_interrupts_once(tmp_path: Path, number: signal.Signals, everybody: bool) -> None:
    process = started(tmp_path, WAIT)
    child_of(process, tmp_path)
    (os.killpg if everybody else os.kill)(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "interrupted\n", "")


TIDIES_UP = """
try:
    Path("pid").write_text(str(os.getpid()))
    time.sleep(60)
except KeyboardInterrupt:
    Path("tidying").touch()
    {tidies}
    print("tidied")
    sys.exit(130)
"""


@pytest.mark.parametrize("everybody", [False, True], ids=["to the parent", "to both, as a terminal's Ctrl-C"])
@pytest.mark.parametrize(
    ("tidies", "interrupts", "out", "err"),
    [
        ("until_asked(2)", 2, "tidied\n", ["being tidied up"]),
        (
            "time.sleep(60)",
            3,
            "",
            ["being tidied up", "ended at once; finished trials are kept; continue with: sweeps"],
        ),
        ("hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)", 3, "", ["being tidied up", "ended at once"]),
    ],
    ids=["a second is answered", "a third ends it", "a third ends it in the middle of a native call"],
)
def test_more_interrupts(
    tmp_path: Path, everybody: bool, tidies: str, interrupts: int, out: str, err: list[str]
) -> None:
    wait = "import hashlib\ndef until_asked(number):\n    while not Path(str(number)).exists(): time.sleep(0.01)\n"
    process = started(tmp_path, wait + TIDIES_UP.format(tidies=tidies))
    child_of(process, tmp_path)
    send = os.killpg if everybody else os.kill
    send(process.pid, signal.SIGINT)
    until((tmp_path / "tidying").exists)
    assert process.stderr is not None
    lines = []
    for number in range(2, interrupts + 1):
        send(process.pid, signal.SIGINT)
        assert process.stderr.readline() == "\n"
        lines.append(process.stderr.readline())
        (tmp_path / str(number)).touch()
    rest = process.communicate(timeout=60)
    assert (process.returncode, *rest) == (130, out, "")
    assert all(line.startswith(start) for line, start in zip(lines, err, strict=True)), lines


def test_the_child_dies_with_its_parent(tmp_path: Path) -> None:
    process = started(tmp_path, WAIT)
    child = child_of(process, tmp_path)
    assert child != process.pid
    process.kill()
    process.communicate(timeout=60)  # the child has the pipes too


class Supervised(Exception):
    pass


@pytest.mark.parametrize(
    ("arguments", "supervised"),
    [
        ("run x.yaml", True),
        ("run x.yaml --store inline", True),
        ("run inline --executor ray", True),
        ("--log-format=json --log-level debug resume inline", True),
        ("run x.yaml --executor inline", False),
        ("--log-format json resume a --executor=inline", False),
        ("list", False),
        ("run --help", False),
    ],
)
def test_sweeps_on_ray_are_supervised_and_no_others(
    arguments: str, supervised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supervise() -> None:
        raise Supervised

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "supervise", supervise)
    result = CliRunner().invoke(app, arguments.split())
    assert isinstance(result.exception, Supervised) is supervised, result.output
