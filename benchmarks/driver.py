"""What one driver feeds: the real driver before a simulated cluster of 10, 100 and 1,000 cores.

Real: the driver of a sweep (sweeps.pipeline.run with the Ray executor, a store in a folder, the timeline, progress.json
and one MLflow run for the sweep), a Ray head and node, and every message between them: each shard is submitted, waited
for and fetched. Simulated: the cores. A shard does not train; it waits, so that one core of this machine stands for
hundreds.

    actors       a few asynchronous actors are the cores; each runs up to 250 waiting shards at a time. Shards go
                 directly to them, without the scheduling that Ray does for tasks.
    processes    each core is a worker process of Ray, and each shard a task, as in a real sweep: about 100 MB per core.

    stored       shards come back without a table, as from workers that store their own.
    returned     shards come back as tables, and the driver stores them as Parquet files.

Busy is the share of the time that the cores wait in shards, from the first submission to the last result. CPU is the
time of all threads of the driver's process per shard; peak MB is the driver's largest resident set.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from sweeps.config.loader import parse
from sweeps.execution.executor import ShardOutcome
from sweeps.execution.ray import RayExecutor, loopback_environment
from sweeps.execution.training import train_table
from sweeps.pipeline.factories import tracker_for
from sweeps.pipeline.run import create, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard, ShardResult, ShardStored
from sweeps.service.monitoring.progress_file import report_progress
from sweeps.store.store import Store

_CORES_PER_ACTOR = 250
_MOMENTA = 64
_NODE = {"node_ip_address": "127.0.0.1", "include_dashboard": False}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    cores: int
    rounds: int  # shards per core
    seconds: float  # of a shard
    trials: int  # of a shard
    workers: str  # actors or processes
    outcome: str  # stored or returned


def main() -> int:
    """Measure each case in a process of its own and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cores", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=30, help="shards per core")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a shard")
    parser.add_argument("--trials", type=int, default=4096, help="of a shard")
    parser.add_argument("--workers", choices=("actors", "processes"), default="actors")
    parser.add_argument("--outcome", choices=("stored", "returned"), default="stored")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    facts = (options.rounds, options.seconds, options.trials, options.workers, options.outcome)
    if options.one:
        print(json.dumps(measure(Case(options.cores[0], *facts))))
        return 0
    table = Table(title=f"shards of {options.seconds:g} s, {options.workers}, {options.outcome}", box=None)
    for heading in ("cores", "shards", "seconds", "shards/s", "trials/s", "busy", "CPU ms/shard", "peak MB"):
        table.add_column(heading, justify="right")
    for cores in options.cores:
        found = _apart(cores, sys.argv[1:])
        shards = cores * options.rounds
        table.add_row(
            f"{cores:,}",
            f"{shards:,}",
            f"{found['seconds']:.1f}",
            f"{shards / found['seconds']:,.0f}",
            f"{shards * options.trials / found['seconds']:.2e}",
            f"{options.rounds * options.seconds / found['seconds']:.0%}",
            f"{1000 * found['cpu'] / shards:.2f}",
            f"{found['peak']:,.0f}",
        )
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)
    return 0


def _apart(cores: int, arguments: list[str]) -> dict[str, float]:
    """Return the measurements of one case, made in a new process."""
    command = [sys.executable, "-m", "benchmarks.driver", *arguments, "--one", "--cores", str(cores)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(case: Case) -> dict[str, float]:
    """Run a sweep before a simulated cluster; return its seconds, and the driver's CPU seconds and peak MB."""
    loopback_environment()
    for name in ("prestart_worker_first_driver", "enable_worker_prestart"):
        os.environ[f"RAY_{name}"] = "0"  # otherwise Ray starts a process per core
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": case.cores, **_NODE})
    executor = SimulatedCores(cluster.address, case)
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-driver-") as folder:
            return _sweep(case, executor, Path(folder))
    finally:
        executor.stop()
        cluster.shutdown()


def _sweep(case: Case, executor: SimulatedCores, folder: Path) -> dict[str, float]:
    prepared = prepare(parse(_document(case), "benchmark"))
    store = Store(folder)
    tracker = tracker_for(store, None)
    files = create(prepared, store, executor, tracker)
    executor.warm_up(prepared)
    cpu = time.process_time()
    with files.lease():
        progress = report_progress(_Silent(), files, executor, print)
        outcome = run(files, prepared, executor, tracker, progress)
    cpu = time.process_time() - cpu
    assert outcome.failed_trials == 0
    assert executor.shards == case.cores * case.rounds
    assert case.outcome == "stored" or len(files.shards.done()) == executor.shards
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": executor.ended - executor.began, "cpu": cpu, "peak": peak}


def _document(case: Case) -> dict[str, Any]:
    rates = case.cores * case.rounds * case.trials // _MOMENTA
    return {
        "name": "driver",
        "task": {"dataset": {"kind": "line"}},
        "training": {"epochs": 20},
        "parameters": {
            "lr": {"min": 5e-4, "max": 0.1, "count": rates, "scale": "log"},
            "momentum": {"min": 0.1, "max": 0.9, "count": _MOMENTA},
            "init.weight": {"value": 0},
            "init.bias": {"value": 0},
        },
        "record": {"points": 16},
        "tracking": {"trials": "none"},
        "execution": {"trials_per_shard": case.trials},
    }


class SimulatedCores(RayExecutor):
    """The Ray executor, whose shards wait instead of training; it notes when the first began and the last arrived."""

    def __init__(self, address: str, case: Case) -> None:
        """Create the executor without starting anything."""
        super().__init__(address)
        self._case = case
        self._submit: Callable[[Shard], Any] | None = None
        self.shards = 0
        self.began = self.ended = 0.0

    def warm_up(self, prepared: PreparedSweep) -> None:
        """Start the simulated cores."""
        import ray

        case = self._case
        table = train_table(prepared, prepared.plan.trials(0, case.trials)) if case.outcome == "returned" else None
        shared = ray.put(table)
        if case.workers == "processes":
            task = ray.remote(num_cpus=1)(_waited)
            self._submit = lambda shard: task.remote(shard, case.seconds, shared)
            ray.get([self._submit(Shard(0, 0, case.trials)) for _ in range(case.cores)])
            return
        sizes = [len(part) for part in np.array_split(np.arange(case.cores), -(-case.cores // _CORES_PER_ACTOR))]
        kind = ray.remote(num_cpus=0)(_Cores)
        actors = [kind.options(max_concurrency=size).remote(case.seconds, shared) for size in sizes]
        ray.get([actor.run.remote(Shard(0, 0, case.trials)) for actor in actors])
        turns = cycle(actors)
        self._submit = lambda shard: next(turns).run.remote(shard)

    def submitter(self, prepared: PreparedSweep, run: str) -> Callable[[Shard], Any]:
        """Return the function that submits a shard to the simulated cores."""
        assert self._submit is not None
        return self._submit

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        """Yield the outcomes of the shards."""
        self.began = time.perf_counter()
        for result in super().run(prepared, shards):
            self.shards += 1
            yield result
            self.ended = time.perf_counter()


class _Cores:
    """An actor that stands for as many cores as it may run methods at a time."""

    def __init__(self, seconds: float, table: pa.Table | None) -> None:
        self._seconds, self._table = seconds, table

    async def run(self, shard: Shard) -> ShardStored | ShardResult:
        await asyncio.sleep(self._seconds)
        return _outcome(shard, self._seconds, self._table)


def _waited(shard: Shard, seconds: float, table: pa.Table | None) -> ShardStored | ShardResult:
    time.sleep(seconds)
    return _outcome(shard, seconds, table)


def _outcome(shard: Shard, seconds: float, table: pa.Table | None) -> ShardStored | ShardResult:
    """Return a shard as stored, or with the table, renumbered."""
    if table is None:
        return ShardStored(shard, seconds)
    return ShardResult(shard, table.set_column(0, "trial", pa.array(range(shard.start, shard.stop))), seconds)


class _Silent:
    """Progress without output."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


if __name__ == "__main__":
    sys.exit(main())
