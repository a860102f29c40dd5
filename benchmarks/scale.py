"""How time and memory grow: sgdcore on the line from 1e3 to 1e7 trials, each run in a process of its own.

Peak memory is the process's largest resident set, less what it held before the run (interpreter, numpy, numba, and the
compiled code, which a small run before has loaded). All five hyperparameters are mixed, float32, batches of one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

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


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 10,000 trials: does it run?")
    options = parser.parse_args()
    exponents = range(3, 5 if options.quick else 8)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
