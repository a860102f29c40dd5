"""From Enter to the answer: times of short commands, as ratios to ``python -c "import torch"`` in the same rounds.

Every command is a new process, warm: numba's compiled kernels and the files of all packages are cached. Rounds run all
commands in turn; medians are compared. The time to the table is that of its first line on standard output. A bare Ray
script is ``ray.init``, one task and ``ray.shutdown``.

Peers train the same 20 settings of the 5-point line: Optuna with its GridSampler and SQLite, a torch loop in its
objective; Ray Tune with its MLflow callback.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.sweep import EPOCHS, START, X
from sweeps.config import strict_yaml

_ROOT = Path(__file__).parents[1]
_TABLE = "verdict "  # the first word of the table's heading
_SWEEPS = [sys.executable, "-c", "from sweeps.cli import main; main()"]
_TORCH = "import torch"
_RAY = "bare Ray script"
_RAY_SCRIPT = """
import ray
ray.init(include_dashboard=False, log_to_driver=False)
print(ray.get(ray.remote(lambda: 1).remote()))
ray.shutdown()
"""


@dataclass(frozen=True)
class Measured:
    """A command, and the most that it may take.

    Args:
        command: the command line.
        whole: the limit of its time, as a ratio to ``beside``.
        table: the limit of the time to its verdict table, likewise.
        cpu: the limit of its CPU seconds.
        beside: the name of the command it is compared with.
    """

    command: list[str]
    whole: float | None = None
    table: float | None = None
    cpu: float | None = None
    beside: str = _TORCH


@dataclass
class Times:
    """The seconds of one command, by round."""

    whole: list[float] = field(default_factory=list)
    table: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main() -> int:
    """Run all commands in turn, compare and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true", help="leave out Optuna and Ray Tune")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-latency-") as folder:
        commands = _commands(Path(folder), not options.no_peers)
        for name in ("seed.yaml inline", "seed.yaml on Ray"):  # compiles, and makes the store
            _run(commands[name].command, Times())
        found = {name: Times() for name in commands}
        for _ in range(options.rounds):
            for name, measured in commands.items():
                _run(measured.command, found[name])
    missed = _show(commands, found, options.rounds)
    print("targets: all met" if not missed else f"targets MISSED: {', '.join(missed)}")
    return 0


def _commands(folder: Path, peers: bool) -> dict[str, Measured]:
    seed, stability = (str(_ROOT / "configs" / name) for name in ("seed.yaml", "stability-map.yaml"))
    store = ["--store", str(folder / "store")]
    inline = ["--executor", "inline", "--fresh", *store]
    (folder / "twenty.yaml").write_text(strict_yaml.write(_twenty_settings()))
    commands = {
        _TORCH: Measured([sys.executable, "-c", "import torch"]),
        _RAY: Measured([sys.executable, "-c", _RAY_SCRIPT]),
        "sweeps --help": Measured([*_SWEEPS, "--help"], cpu=0.15),
        "sweeps list": Measured([*_SWEEPS, "list", *store], whole=0.6),
        "sweeps show latest": Measured([*_SWEEPS, "show", "latest", *store], whole=0.6),
        "sweeps plan seed.yaml": Measured([*_SWEEPS, "plan", seed], whole=0.6),
        "seed.yaml inline": Measured([*_SWEEPS, "run", seed, *inline], whole=2.5, table=1.2),
        "stability-map.yaml inline": Measured([*_SWEEPS, "run", stability, *inline], whole=4.0),
        "seed.yaml on Ray": Measured(
            [*_SWEEPS, "run", seed, "--executor", "ray", "--fresh", *store], whole=1.5, beside=_RAY
        ),
    }
    if peers:
        twenty = [*_SWEEPS, "run", str(folder / "twenty.yaml"), "--fresh", *store]
        commands |= {"20 settings: sweeps run": Measured(twenty)}
        for peer in ("optuna", "tune"):
            script = [sys.executable, "-m", "benchmarks.latency_peers", peer, str(folder / peer)]
            commands[f"20 settings: {peer}"] = Measured(script)
    return commands


def _twenty_settings() -> dict[str, object]:
    """Return the sweep file of the settings that the peers train."""
    return {
        "name": "twenty",
        "task": {"dataset": {"kind": "line", "slope": 0.8, "intercept": 1.2, "x": X}, "model": {"kind": "linear"}},
        "training": {"epochs": EPOCHS},
        "parameters": {
            "lr": {"values": [0.01, 0.02, 0.03, 0.04, 0.05]},
            "momentum": {"values": [0.1, 0.5, 0.8, 0.9]},
            "init.weight": {"value": START[0]},
            "init.bias": {"value": START[1]},
        },
    }


def _run(command: list[str], times: Times) -> None:
    """Run a command to its end and add its times."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_TABLE):
                times.table.append(time.perf_counter() - began)
        assert process.stderr is not None
        complaint = process.stderr.read()
    times.whole.append(time.perf_counter() - began)
    if process.returncode:
        raise SystemExit(
            f"benchmarks.latency: {' '.join(command[:6])} ... ended with {process.returncode}: {complaint}"
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    times.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _show(commands: dict[str, Measured], found: dict[str, Times], rounds: int) -> list[str]:
    """Print the table; return the targets that were missed."""
    middle = {
        name: {part: statistics.median(values) for part, values in vars(times).items() if values}
        for name, times in found.items()
    }
    table = Table(title=f"medians of {rounds} rounds", box=None)
    for name in ("", "seconds", "CPU seconds", "ratio", "at most", "to the table", "ratio", "at most"):
        table.add_column(name, justify="right" if name else "left")
    missed = []
    for name, measured in commands.items():
        own, base = middle[name], middle[measured.beside]["whole"]
        row = [name, f"{own['whole']:.2f}", f"{own['cpu']:.2f}", f"{own['whole'] / base:.2f}"]
        row.append("" if measured.whole is None else f"{measured.whole:g}")
        if "table" in own:
            row += [f"{own['table']:.2f}", f"{own['table'] / base:.2f}"]
            row.append("" if measured.table is None else f"{measured.table:g}")
        table.add_row(*row)
        limits = [("whole", measured.whole, base), ("table", measured.table, base), ("cpu", measured.cpu, 1.0)]
        missed += [f"{name} ({part})" for part, limit, unit in limits if limit is not None and own[part] > limit * unit]
    Console(width=120).print(table)
    return missed


if __name__ == "__main__":
    sys.exit(main())
