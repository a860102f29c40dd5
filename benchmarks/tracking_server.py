"""Trials per second into an MLflow server on PostgreSQL: one thread and the writer's number of threads, in turns.

A PostgreSQL server (durable, default settings) and an MLflow server are started. In each turn, ``--trials`` trials are
logged by MLflow's own client in one thread, by the writer's client in one thread, and by it in its own number of
threads. Every contender logs the same points under its own parent run, and all runs must exist at the end.

The limit: a trial takes three calls, which cost the server some 45 ms of a core, PostgreSQL 8 and the client 8, so two
cores that do all of it reach about 25 trials a second. One thread leaves cores idle only if calls wait for something
else. ``--loop asyncio`` is a server without uvloop and with more than one worker, where each call waits 44 ms for a
delayed acknowledgement; this is what ``pip install mlflow && mlflow server`` gives. ``--distance`` simulates a network:
milliseconds of round-trip time added to each call.

A fast server has uvloop installed (it comes with this package), as many ``--workers`` as it has spare cores,
``MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false``, and if more than 15 calls can meet at one worker
``MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=64``. The exit code is 1 if runs are missing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from benchmarks.tracking import trial_table
from sweeps.tracking.mlflow.client_writer import ClientWriter
from sweeps.tracking.mlflow.connection import quiet
from sweeps.tracking.mlflow.server.client import ServerClient
from sweeps.tracking.mlflow.server.ui import mlflow_server
from sweeps.tracking.mlflow.writer import ChildRuns
from sweeps.tracking.trial_runs import trial_runs
from tests.support.postgres import private_cluster
from tests.support.proxy import proxy

TARGET = 5.0  # times the one-thread rate


def main() -> int:
    """Start, log in turns and print; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tracking_server", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--trials", type=int, default=60, help="trials per contender and turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--points", type=int, default=64, help="points in each of three curves")
    parser.add_argument("--workers", type=int, default=4, help="server processes; MLflow's default is 4")
    parser.add_argument("--loop", choices=("auto", "asyncio"), default="auto", help="the server's event loop")
    parser.add_argument("--distance", type=float, default=0.0, help="added round-trip time in milliseconds")
    options = parser.parse_args()
    quiet()
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-server-") as folder,
        private_cluster(durable=True) as cluster,
        mlflow_server(cluster.new_database(), Path(folder), workers=options.workers, loop=options.loop) as (address, _),
        at_distance(address, options.distance) as uri,
    ):
        direct = MlflowClient(address)
        experiment = direct.create_experiment("benchmark")
        contenders = {
            "MLflow's client, 1 thread": (MlflowClient(uri), 1),
            "the writer, 1 thread": (ServerClient(uri), 1),
            f"the writer, {ServerClient(uri).threads} threads": (ServerClient(uri), ServerClient(uri).threads),
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(options.turns):
            for name, (client, threads) in contenders.items():
                rates[name].append(rate(direct, client, threads, experiment, options.trials, options.points))
    title = f"{options.workers} workers, {options.loop}, {options.distance:g} ms away; load before {load:.1f}"
    table = Table(title=title, title_justify="left", box=None)
    for column in ("", "trials/s", "lowest", "highest", "times the first"):
        table.add_column(column, justify="right" if column else "left")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    one, *_, own = medians.values()
    for name, found in rates.items():
        values = (medians[name], min(found), max(found), medians[name] / one)
        table.add_row(name, *(f"{value:.1f}" for value in values))
    Console(width=100).print(table)
    print(
        f"target: at least {TARGET:g} times one thread: {'met' if own / one >= TARGET else 'MISSED'} ({own / one:.1f})"
    )
    return 0


def rate(direct: MlflowClient, client: MlflowClient, threads: int, experiment: str, trials: int, points: int) -> float:
    """Return the trials per second under a new parent run."""
    parent = direct.create_run(experiment).info
    child_runs = ChildRuns("abcd1234", experiment, "unused", parent.run_id, parent.start_time, "somebody")
    steps = list(range(points))
    runs = trial_runs(trial_table(range(trials), steps, 3), steps, ("weight", "bias"), "abcd1234", None)
    began = time.perf_counter()
    done = sum(ClientWriter(client, child_runs, threads).write(runs))
    seconds = time.perf_counter() - began
    found = direct.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.run_id}'", max_results=1000)
    if not done == trials == sum(run.info.status == "FINISHED" for run in found):
        sys.exit(f"benchmarks.tracking_server: {len(found)} of {trials} runs were found")
    return trials / seconds


@contextmanager
def at_distance(address: str, milliseconds: float) -> Iterator[str]:
    """Yield the address of a server at this distance."""
    if not milliseconds:
        yield address
        return
    with proxy(address) as far:
        far.distance = milliseconds / 1000
        yield far.uri


if __name__ == "__main__":
    sys.exit(main())
