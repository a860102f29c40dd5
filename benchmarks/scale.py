"""Growth of time and memory: sgdcore on the line from 1e3 to 1e7 trials, and whole sweeps of the command line.

Each run is a separate process. sgdcore: peak memory is the process's largest resident set minus what it held before the
run (interpreter, numpy, numba, and the compiled code, loaded by a small run beforehand); all five hyperparameters are
mixed, float32, batches of one. Sweeps: `sweeps run` from start to end, with a new store: line, 20 epochs, 16 recorded
points, the 1000 best trials in MLflow, report; peak resident sets of the driver and of the largest worker, sampled
while they run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

SCRIPT = """
import json, resource, sys, time
import numpy as np
import sgdcore
from benchmarks.contenders import Workload
from sgdcore.tasks.datasets import line

trials, steps, points = map(int, sys.argv[1:])
task = sgdcore.Task(line())

def train(trials, steps):
    work = Workload.of(trials, steps)
    rows = sgdcore.Hyperparams(work.lr, work.momentum, work.weight_decay, work.dampening, work.nesterov)
    del work
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    result = sgdcore.train(task, rows, epochs=steps // 5, start=[0.0, 0.0], record=sgdcore.Recording(points))
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, before / 1024, after / 1024

train(100, 5)
print(json.dumps(train(trials, steps)))
"""


ROLES = ("driver", "worker")
_LOOK_SECONDS = 0.2


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smoke test: up to 10,000 trials")
    parser.add_argument("--only", choices=("engine", "sweeps"), help="measure only one of the two tables")
    parser.add_argument("--executor", choices=("ray", "inline"), default="ray", help="executor of the sweeps")
    parser.add_argument("--largest", type=float, default=1e6, metavar="TRIALS", help="largest sweep, such as 1e7")
    options = parser.parse_args()
    if options.only != "sweeps":
        measure_engine(options.quick)
    if options.only != "engine":
        measure_sweeps(1e4 if options.quick else options.largest, options.executor)
    return 0


def measure_sweeps(largest: float, executor: str) -> None:
    """Measure whole sweeps of 1e4 trials and more, up to ``largest``."""
    table = Table(title=f"whole sweeps, --executor {executor}: time and memory")
    for heading in ("trials", "seconds", "trials/s", "driver MB", "worker MB", "stored MB", "report MB"):
        table.add_column(heading, justify="right")
    for exponent in range(4, 10):
        if 10**exponent <= largest:
            with tempfile.TemporaryDirectory() as folder:
                table.add_row(*_sweep(10**exponent, executor, Path(folder)))
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table)


def _sweep(trials: int, executor: str, folder: Path) -> list[str]:
    document = {
        "name": "scale",
        "task": {"dataset": {"kind": "line"}},
        "training": {"epochs": 20},
        "parameters": {
            "lr": {"min": 5e-4, "max": 0.1, "count": trials // 100, "scale": "log"},
            "momentum": {"min": 0, "max": 0.99, "count": 100},
            "init.weight": {"value": 0},
            "init.bias": {"value": 0},
        },
        "record": {"points": 16},
        "tracking": {"trials": "top:1000"},
    }
    (folder / "scale.yaml").write_text(yaml.safe_dump(document))
    command = ["-c", "from sweeps.cli import main; main()", "run", str(folder / "scale.yaml"), "--executor", executor]
    begin = time.perf_counter()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--store", str(folder / "store")], stdout=output, stderr=subprocess.STDOUT
        )
        peaks: dict[tuple[str, int], int] = {}
        while process.poll() is None:
            peaks |= {member: peak for member in _family(process.pid) if (peak := _peak(member[1])) is not None}
            time.sleep(_LOOK_SECONDS)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit((folder / "output").read_text())
    driver, worker = (max((p for (is_, _), p in peaks.items() if is_ == role), default=0) for role in ROLES)
    (sweep,) = (folder / "store" / "sweeps").iterdir()
    stored = sum(path.stat().st_size for path in (sweep / "shards").iterdir())
    sizes = [driver, worker, stored, (sweep / "report" / "report.html").stat().st_size]
    return [f"{trials:,}", f"{seconds:,.1f}", f"{trials / seconds:,.0f}", *(f"{size / 1e6:,.1f}" for size in sizes)]


def _family(root: int) -> Iterator[tuple[str, int]]:
    """Yield a process, its fork that runs a sweep on Ray, and Ray's workers, each with its role."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just exited
    yield "driver", root
    yield from (("driver", pid) for pid, parent in parents.items() if parent == root and _name(pid) == _name(root))
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != root:
            ancestor = parents[ancestor]
        if ancestor == root and pid != root and _name(pid).startswith("ray::"):
            yield "worker", pid


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _peak(pid: int) -> int | None:
    """Return a process's largest resident set so far, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def measure_engine(quick: bool) -> None:
    """Measure sgdcore alone."""
    exponents = range(3, 5 if quick else 8)
    runs = [(10**e, 1_000, 0) for e in exponents] + [(10**e, 1_000, 64) for e in exponents if e <= 6]
    runs += [(10_000, steps, 0) for steps in (10_000, 100_000)]
    table = Table(title="sgdcore on the line: time and memory")
    for heading in (
        "trials",
        "steps",
        "points",
        "seconds",
        "trial-steps/s",
        "peak MB",
        "MB of the run",
        "bytes a trial",
    ):
        table.add_column(heading, justify="right")
    for trials, steps, points in runs:
        command = [sys.executable, "-c", SCRIPT, str(trials), str(steps), str(points)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        seconds, before, after = json.loads(answer)
        table.add_row(
            *(f"{number:,}" for number in (trials, steps, points)),
            f"{seconds:.3g}",
            f"{trials * steps / seconds:.3g}",
            f"{after:,.0f}",
            f"{after - before:,.0f}",
            f"{(after - before) * 2**20 / trials:,.0f}",
        )
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
