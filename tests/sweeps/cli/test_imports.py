"""The heavy packages that commands import: each takes a tenth of a second or more, before the answer."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SweepFiles

HEAVY = ("torch", "mlflow", "sqlalchemy", "pandas", "plotly", "matplotlib", "numba", "ray", "scipy", "sklearn", "numpy")
SCRIPT = f"""
import atexit, json, sys
from sweeps.cli import main, terminal

def heavy():
    return sorted(name for name in {HEAVY} if name in sys.modules)

def show_table(*arguments):
    shown.append(heavy())
    table(*arguments)

shown, table, terminal.show_table = [], terminal.show_table, show_table
atexit.register(lambda: print(json.dumps([*shown[:1], heavy()]), file=sys.stderr))
main()
"""


def imported(folder: Path, *arguments: object) -> tuple[set[str], set[str]]:
    """Return the heavy packages that a command has imported before it prints its first table, and at its end."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stderr.splitlines()[-1])
    return set(found[0]), set(found[-1])


@pytest.mark.slow
def test_commands_import_only_what_they_need(
    tmp_path: Path,
    config: Callable[..., Path],
    make_prepared: Callable[..., PreparedSweep],
    stored: Callable[..., SweepFiles],
) -> None:
    path, store = config(training={"epochs": 2, "batch_size": 2, "order": "shuffled"}), tmp_path / "store"
    stored(make_prepared())
    tables = {"numpy", "pandas"}
    assert imported(tmp_path, "--help")[1] == set()
    assert imported(tmp_path, "plan", path)[1] <= tables
    assert imported(tmp_path, "list", "--store", store)[1] <= tables
    assert imported(tmp_path, "show", "latest", "--store", store)[1] <= tables


@pytest.mark.slow
def test_a_short_sweep_never_imports_mlflow_because_another_process_does(
    tmp_path: Path, config: Callable[..., Path]
) -> None:
    before, after = imported(tmp_path, "run", config(), "--executor", "inline", "--store", tmp_path / "new")
    computing = {"numpy", "pandas", "numba", "scipy"}
    assert {"numpy", "pandas", "numba"} <= before <= computing
    assert before | {"plotly", "matplotlib"} <= after <= computing | {"plotly", "matplotlib"}
