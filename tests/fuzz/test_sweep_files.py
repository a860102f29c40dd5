"""Whatever a sweep file holds, it is planned, or refused in lines that say why: no traceback, hang or full memory."""

import json
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config import strict_yaml
from sweeps.config.loader import load, parse
from sweeps.config.schema import HYPERPARAMETERS
from sweeps.errors import MAX_PROBLEMS, InputError
from sweeps.planning.checks import MAX_TRIALS
from sweeps.planning.prepared import prepare
from sweeps.text.sanitize import visible
from tests.fuzz.documents import BOMBS, texts
from tests.support.documents import document
from tests.support.hypothesis_profiles import NIGHTLY

EXAMPLES = 10_000 if NIGHTLY else 200
CPU_SECONDS = 30  # for one file; what is slow only because the machine is busy takes no more of these
HEADROOM = 2 << 30  # bytes of address space beyond what the process holds already

fuzzing = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sweep file lies, beside data files that can and cannot be read."""
    folder = tmp_path_factory.mktemp("fuzz")
    table = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "größe": [0.5, 1, 2, 0], "y": [1.0, 2.0, 3.0, 5.0]})
    table.to_csv(folder / "data.csv", index=False)
    table.to_parquet(folder / "data.parquet")
    (folder / "broken.csv").write_bytes(b'x,y\n1,2,3\n"\0')
    os.mkfifo(folder / "pipe")
    return folder


@contextmanager
def bounded() -> Iterator[None]:
    """Address space and CPU time are limited, and given back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (held + HEADROOM, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _too_long(*_: object) -> None:
    raise AssertionError(f"a sweep file took more than {CPU_SECONDS} s of CPU time")


def planned(path: Path) -> bool:
    """Plan a file as ``sweeps plan`` does; False where it is refused, as it has to be."""
    refused = None
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        config = load(path)
        prepared = prepare(config, str(path))
    except InputError as error:
        refused = error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if refused:
        lines = str(refused).split("\n")
        assert refused.exit_code == 2
        assert 0 < len(lines) <= MAX_PROBLEMS + 1
        assert all(line.strip() and line == visible(line) and len(line) < 1_000 for line in lines), lines
        return False
    assert 0 < len(prepared.plan) <= MAX_TRIALS
    ends = {0, len(prepared.plan) - 1}
    ids = [prepared.plan.ids(prepared.plan.trials(number, number + 1)) for number in ends]
    assert len({trial_id for [trial_id] in ids}) == len(ends)
    assert parse(strict_yaml.read(config.to_yaml(), "again"), "again") == config
    return True


def test_a_sweep_file_is_planned_or_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, outcomes = folder / "sweep.yaml", Counter[bool]()
    monkeypatch.chdir(folder)

    @fuzzing
    @given(texts())
    def plan(text: bytes) -> None:
        path.write_bytes(text)
        outcomes[planned(path)] += 1

    with bounded():
        plan()
    assert min(outcomes[True], outcomes[False]) > EXAMPLES // 20, outcomes  # the files reach the plan, and what refuses


def test_the_command_line_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "sweep.yaml"
    monkeypatch.chdir(folder)
    runner = CliRunner()

    @settings(fuzzing, max_examples=200 if NIGHTLY else 30)
    @given(texts())
    def plan(text: bytes) -> None:
        path.write_bytes(text)
        told = runner.invoke(app, ["plan", "sweep.yaml", "--json"])
        assert told.exit_code in (0, 2), told.exception
        named = [line for line in told.stderr.splitlines() if line.startswith("module: ")]
        errors = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
        assert len(named) <= 1
        assert [*named, *errors] == told.stderr.splitlines()
        if told.exit_code == 0:
            assert json.loads(told.stdout)["trials"] > 0
            assert not errors
        else:
            assert told.stdout == ""
            assert errors

    with bounded():
        plan()


def _slow(value: object, is_slow: bool) -> object:
    return pytest.param(value, marks=pytest.mark.slow) if is_slow else value


LARGEST = {
    "samples": {"task": {"dataset": {"kind": "sine", "n": 10_000_000}}},
    "features": {"task": {"dataset": {"kind": "linear", "n": 2_000, "d": 1_000}}, "parameters": {}},
    "units": {"task": {"dataset": {"kind": "sine"}, "model": {"kind": "mlp", "hidden": [600, 600]}}, "parameters": {}},
    "axis": {"parameters": {"lr": {"min": 0, "max": 1, "count": 10_000_000}}},
    "trials": {"parameters": {name: {"min": 0.1, "max": 1, "count": 1_000} for name in HYPERPARAMETERS[:3]}},
    "steps": {"training": {"epochs": 10**9, "batch_size": 10**9}, "record": {"points": 10**6}},
    "shard": {"execution": {"trials_per_shard": 10**9}, "tracking": {"trials": "top:999999999"}},
    "seeds": {"seeds": list(range(2**53 - 40_000, 2**53)), "parameters": {}},
}


@pytest.mark.parametrize("changes", [_slow(changes, name == "seeds") for name, changes in LARGEST.items()], ids=LARGEST)
def test_the_largest_that_is_allowed_is_planned(folder: Path, changes: dict[str, object]) -> None:
    path = folder / "sweep.yaml"
    path.write_text(strict_yaml.write(document(**changes)))
    with bounded():
        assert planned(path)


@pytest.mark.parametrize(
    "text",
    [_slow(text, text.count(b"\n") + text.count(b", ") > 50_000) for text in BOMBS],
    ids=lambda text: repr(text[:12]),
)
def test_a_bomb_is_refused(folder: Path, text: bytes) -> None:
    path = folder / "sweep.yaml"
    path.write_bytes(text)
    with bounded():
        assert not planned(path)


@pytest.mark.parametrize("name", ["pipe", ".", "none.yaml", "data.parquet", "a\nb", "x" * 300, "/dev/zero", "a\0b"])
def test_what_is_no_file_is_refused(folder: Path, name: str) -> None:
    with bounded():
        assert not planned(folder / name)
