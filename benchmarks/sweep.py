"""A whole sweep from a cold start, compared with Ray Tune and its MLflow callback on as many trials as fit in a minute.

Ours: ``sweeps run`` in a new process and an empty store, 10,000 trials x 100 steps with 64 recorded points of the loss
and both parameters; timed until the command exits, including the start of Ray, the creation of MLflow's tables, every
trial as an MLflow run on SQLite and the report. Compiled kernels come from numba's cache if it has them.

Ray Tune's: some of the same trials, each a function that steps ``torch.optim.SGD`` on ``torch.nn.Linear`` and reports
the same 64 points, one per core, on SQLite. Tune gets every advantage: its rate is counted from its first trial's start
to its last point, trials that are cut off count by their points, its actors are reused and its other loggers are off.
The rate is extrapolated to all trials.

Before Tune runs, some trials of the sweep are compared with that function: their parameters must be the same bits.
"""

from __future__ import annotations

import argparse
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sweeps.config import strict_yaml
from sweeps.execution.ray import RayExecutor
from sweeps.store.store import Store, SweepFiles

TARGET = 1_000.0  # times the rate of Ray Tune
EPOCHS, POINTS = 20, 64
X, Y = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 2.8, 3.6, 4.4, 5.2]
START = -0.5, 0.5
_SWEPT = ("lr", "momentum", "weight_decay", "nesterov")


def main() -> int:
    """Run both, compare and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000, help="rounded down to a multiple of 40")
    parser.add_argument("--tune-seconds", type=float, default=60)
    options = parser.parse_args()
    if options.trials < 80 or options.tune_seconds <= 0:
        parser.error("trials must be at least 80, tune-seconds positive")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="benchmark-sweep-") as folder:
        seconds, files = run_sweep(Path(folder), options.trials // 40)
        rows = [row for table in files.shards.tables() for row in table.to_pylist()]
        steps = files.shards.metadata()["steps"]
        differing = [row["trial"] for row in rows[:: len(rows) // 20] if not same(row, steps)]
        if differing:
            print(f"benchmarks.sweep: parameters differ from torch.optim.SGD's: {differing}", file=sys.stderr)
            return 1
        # Evenly spaced, and more than fit; not all, because Tune spends time at the end on each trial not started.
        some = rows[:: max(1, len(rows) // int(5 * options.tune_seconds))]
        rate = tune_rate([{name: row[name] for name in _SWEPT} for row in some], steps, options.tune_seconds, folder)
    extrapolated = len(rows) / rate
    table = Table(title=f"{len(rows):,} trials x 100 steps, 64 points; load before {load:.1f}", box=None)
    for name in ("", "trials/s", "seconds for all", "times Ray Tune"):
        table.add_column(name, justify="right" if name else "left")
    for name, took in (("sweeps run, cold", seconds), ("Ray Tune, extrapolated", extrapolated)):
        table.add_row(name, f"{len(rows) / took:,.2f}", f"{took:,.1f}", f"{extrapolated / took:,.0f}")
    Console(width=100).print(table)
    met = extrapolated / seconds >= TARGET
    print(f"target: at least {TARGET:,.0f} times: {'met' if met else 'MISSED'} ({extrapolated / seconds:,.0f})")
    return 0


def run_sweep(folder: Path, rates: int) -> tuple[float, SweepFiles]:
    """Run the whole command; return its seconds and the sweep's files."""
    document = {
        "name": "benchmark",
        "task": {"dataset": {"kind": "line", "slope": 0.8, "intercept": 1.2, "x": X}, "model": {"kind": "linear"}},
        "training": {"epochs": EPOCHS, "batch_size": 1, "order": "sequential", "dtype": "float32"},
        "parameters": {
            "lr": {"min": 1e-4, "max": 0.05, "count": rates, "scale": "log"},
            "momentum": {"values": [0.1, 0.5, 0.8, 0.9, 0.95]},
            "weight_decay": {"values": [0, 1e-4, 1e-3, 1e-2]},
            "nesterov": {"values": [False, True]},
            "init.weight": {"value": START[0]},
            "init.bias": {"value": START[1]},
        },
        "record": {"points": POINTS - 2, "spacing": "linear"},
    }
    config, store = folder / "sweep.yaml", folder / "store"
    config.write_text(strict_yaml.write(document))
    command = [sys.executable, "-c", "from sweeps.cli import main; main()", "run", str(config), "--store", str(store)]
    command += ["--executor", "ray"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
    seconds = time.perf_counter() - began
    [files] = Store(store).sweeps()
    tracked = files.tracking_record.first()
    assert tracked["complete"]
    assert (files.report.folder / "report.html").exists()
    children = "SELECT count(*) FROM runs JOIN tags USING (run_uuid) WHERE key = 'mlflow.parentRunId'"
    assert count(store / "mlflow.db", f"{children} AND status = 'FINISHED'") == files.manifest()["trials"] == 40 * rates
    return seconds, files


def count(database: Path, query: str) -> int:
    """Return the count that a query selects."""
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute(query).fetchone()[0])


def trajectory(setting: dict[str, Any], steps: list[int]) -> Iterator[dict[str, float]]:
    """Yield the loss and the parameters of a trial at the recorded steps, computed by torch."""
    torch.set_num_threads(1)
    x, y = torch.tensor(X).unsqueeze(1), torch.tensor(Y).unsqueeze(1)
    model = torch.nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(START[0])
        model.bias.fill_(START[1])
    optimizer = torch.optim.SGD(model.parameters(), **setting)
    wanted = set(steps)
    for step in range(EPOCHS * len(X) + 1):
        if step in wanted:
            with torch.no_grad():
                loss = torch.nn.functional.mse_loss(model(x), y).item()
            yield {"loss": loss, "weight": model.weight.item(), "bias": model.bias.item()}
        sample = step % len(X)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x[sample : sample + 1]), y[sample : sample + 1]).backward()
        optimizer.step()


def same(row: dict[str, Any], steps: list[int]) -> bool:
    """Return whether a stored trial's final parameters equal torch's bit for bit."""
    *_, last = trajectory({name: row[name] for name in _SWEPT}, steps)
    return bool(np.array_equal(np.float32(row["final"]), np.float32([last["weight"], last["bias"]])))


def tune_rate(settings: list[dict[str, Any]], steps: list[int], seconds: float, folder: str) -> float:
    """Return the trials per second of Ray Tune with its MLflow callback, measured for this many seconds."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    executor = RayExecutor()  # the same Ray settings as for the sweep
    executor.start()
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    @dataclass
    class Clock(tune.Callback):  # type: ignore[misc]
        began: float = 0.0
        ended: float = 0.0
        points: int = 0

        def on_trial_start(self, **_: Any) -> None:
            self.began = self.began or time.perf_counter()

        def on_trial_result(self, **_: Any) -> None:
            self.points, self.ended = self.points + 1, time.perf_counter()

    def trainable(config: dict[str, Any]) -> None:
        for point in trajectory(config["setting"], steps):
            tune.report(point)

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it logs a line for each trial not started
    database = Path(folder) / "tune.db"
    clock = Clock()
    callbacks = [MLflowLoggerCallback(tracking_uri=f"sqlite:///{database}", experiment_name="benchmark"), clock]
    try:
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"setting": tune.grid_search(settings)},
            tune_config=tune.TuneConfig(time_budget_s=seconds, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=f"{folder}/tune", callbacks=callbacks, verbose=0),
        ).fit()
    finally:
        executor.stop()
    assert count(database, "SELECT count(*) FROM metrics WHERE key = 'loss'") == clock.points
    return clock.points / len(steps) / (clock.ended - clock.began)


if __name__ == "__main__":
    sys.exit(main())
