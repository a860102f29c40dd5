"""Trials per second into MLflow: the bulk writer and MLflow's public client, in turns, in one run.

``--database postgresql`` starts a separate PostgreSQL server with default settings in place of SQLite. Each writer logs
into its own database, a copy of the same freshly migrated one, through the tracker that a sweep uses: rows of a shard
file in, child runs with five hyperparameters, seed, tags, curves and metrics out. The client logs as many trials as its
share allows (``--client-trials``), before, between and after packs of the bulk writer, so that other load on the
machine affects both alike. Both rates are trials by the seconds spent inside the writer; the bulk writer's include its
statistics and its closing checkpoint.

The trials are made up: smooth curves of ``--points`` points for the loss and two parameters (``--curves 1`` for the
loss alone); what a trial logs does not depend on their values. The exit code is 1 if runs are missing at the end.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from sweeps.arrow_columns import lists
from sweeps.config.loader import parse
from sweeps.config.schema import HYPERPARAMETERS
from sweeps.store.store import Store
from sweeps.tracking.base import TrackedSweep
from sweeps.tracking.mlflow.database.connect import opened
from sweeps.tracking.mlflow.tracker import MlflowTracker
from tests.support.postgres import private_cluster

# The project's goals: database, trials, points, curves: times the client.
TARGETS = {
    ("sqlite", 10_000, 64, 3): 40.0,
    ("sqlite", 100_000, 4, 1): 150.0,
    ("postgresql", 10_000, 64, 3): 30.0,
}
_SHARD = 1_000


@dataclass
class Contender:
    """One writer, its database, and its work so far."""

    name: str
    uri: str
    tracker: MlflowTracker
    trials: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """The trials per second."""
        return self.trials / self.seconds if self.seconds else 0.0

    def log(self, table: pa.Table, steps: list[int]) -> None:
        """Log some rows and add the time."""
        began = time.perf_counter()
        self.trials += sum(self.tracker.log_trials(table, steps))
        self.seconds += time.perf_counter() - began

    def end(self) -> None:
        """Do the writer's closing work and add the time."""
        began = time.perf_counter()
        self.tracker.end_trials()
        self.seconds += time.perf_counter() - began


def main() -> int:
    """Log, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=64, help="points per curve")
    parser.add_argument("--curves", type=int, default=3, choices=(1, 3), help="1: the loss; 3: also two parameters")
    parser.add_argument("--database", default="sqlite", choices=("sqlite", "postgresql"))
    parser.add_argument("--client-trials", type=int, default=120)
    parser.add_argument("--quick", action="store_true", help="smoke test: 2,000 trials, 20 by the client")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.client_trials = 2_000, 20
    if min(options.trials, options.points - 1, options.client_trials) < 1:
        parser.error("trials and client-trials must be positive, points at least 2")
    return compare(options.database, options.trials, options.points, options.curves, options.client_trials)


def compare(database: str, trials: int, points: int, curves: int, client_trials: int) -> int:
    """Run both writers in turns and print the table; return 1 if runs are missing."""
    load = os.getloadavg()[0]
    with _databases(database) as (folder, new_database):
        bulk, client = (_contender(name, folder / name, new_database(), points) for name in ("bulk", "client"))
        steps = np.unique(np.geomspace(1, 100 * points, points).astype(np.int64)).tolist()[: points - 1]
        steps = [0, *steps, *range(100 * points + 1, 100 * points + points - len(steps))]
        turns = max(1, -(-trials // _SHARD))
        by_thirds: list[float] = []
        for turn in range(turns):
            share = range(client_trials * turn // turns, client_trials * (turn + 1) // turns)
            if share:
                client.log(trial_table(share, steps, curves), steps)
            before = bulk.seconds
            rows = range(turn * _SHARD, min(trials, (turn + 1) * _SHARD))
            bulk.log(trial_table(rows, steps, curves), steps)
            by_thirds.append(len(rows) / (bulk.seconds - before))
        client.end()
        bulk.end()
        missing = [c.name for c in (bulk, client) if _runs(c.uri) != c.trials]
        pages = page_seconds(bulk)
    what = f"{database}: {points} points x {curves} curves"
    _print(bulk, client, TARGETS.get((database, trials, points, curves)), by_thirds, what, load)
    print("a page of 100 of its runs: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in pages.items()))
    if missing:
        print(f"benchmarks.tracking: runs are missing: {', '.join(missing)}", file=sys.stderr)
    return int(bool(missing))


def page_seconds(contender: Contender) -> dict[str, float]:
    """Return how long the client takes for pages as the MLflow UI requests them, the median of five."""
    client = contender.tracker.client
    experiment = client.get_experiment_by_name("benchmark").experiment_id
    orders = {"newest first": [], "by a metric": ["metrics.final_loss ASC"], "by a parameter": ["params.lr ASC"]}
    found = {}
    for name, order in orders.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            client.search_runs([experiment], max_results=100, order_by=order)
            times.append(time.perf_counter() - began)
        found[name] = statistics.median(times)
    return found


def trial_table(numbers: range, steps: list[int], curves: int) -> pa.Table:
    """Return made-up rows of a shard file."""
    trials = np.arange(numbers.start, numbers.stop)
    rate = (1 + trials % 997) / 1e4
    loss = np.exp(-rate[:, None] * np.asarray(steps)) + 1e-3
    columns = {
        "trial": pa.array(trials),
        "trial_id": pa.array([f"{number:016x}" for number in numbers]),
        **{name: pa.array(rate) for name in HYPERPARAMETERS if name != "nesterov"},
        "nesterov": pa.array(trials % 2 == 0),
        "seed": pa.array(trials * 0),
        "verdict": pa.array(["converged"] * len(trials)),
        "final_loss": pa.array(loss[:, -1]),
        "best_loss": pa.array(loss.min(axis=1)),
        **{key: pa.nulls(len(trials), pa.int64()) for key in ("first_nonfinite_step", "steps_to_tolerance")},
        **{key: pa.array(rate * 100) for key in ("overshoot_percent", "peak_value")},
        "loss": lists(loss),
        "final": lists(loss[:, -2:]),
    }
    if curves == 3:
        columns |= {"param.weight": lists(0.8 - loss), "param.bias": lists(1.2 + loss)}
    return pa.table(columns)


@contextmanager
def _databases(kind: str) -> Iterator[tuple[Path, Callable[[], str]]]:
    """Yield a folder and a function that creates a fresh database with MLflow's tables."""
    with tempfile.TemporaryDirectory(prefix="benchmark-tracking-") as name:
        folder = Path(name)
        if kind == "postgresql":
            with private_cluster(durable=True) as cluster:
                yield folder, cluster.new_database
            return
        migrated = folder / "migrated.db"
        MlflowTracker(f"sqlite:///{migrated}").check()
        numbers = itertools.count()
        yield folder, lambda: f"sqlite:///{shutil.copy(migrated, folder / f'{next(numbers)}.db')}"


def _contender(name: str, folder: Path, uri: str, points: int) -> Contender:
    store = Store(folder)
    store.check_writable()
    document = {
        "name": "benchmark",
        "task": {"dataset": {"kind": "line"}, "model": {"kind": "linear"}},
        "training": {"epochs": 1},
        "parameters": {"lr": {"value": 0.1}},
        "record": {"points": points},
        "tracking": {"writer": name},
    }
    config = parse(document, "benchmark")
    files = store.create("abcd1234", config.to_yaml(), {"data": {"digest": "0" * 16}})
    tracker = MlflowTracker(uri, store.artifacts)
    tracker.start(TrackedSweep(files, config, {"data": {"digest": "0" * 16}}, ("weight", "bias")))
    return Contender(name, uri, tracker)


def _runs(uri: str) -> int:
    """Return the number of child runs in a database."""
    with closing(opened(uri).connect()) as connection:
        [[count]] = connection.query("SELECT count(*) FROM tags WHERE key = ?", "mlflow.parentRunId")
        return int(count)


def _print(
    bulk: Contender, client: Contender, target: float | None, rates: list[float], what: str, load: float
) -> None:
    table = Table(title=f"{what}; load before {load:.1f}", title_justify="left", box=None)
    for name in ("writer", "trials", "seconds", "trials/s", "times the client"):
        table.add_column(name, justify="left" if name == "writer" else "right")
    for contender in (bulk, client):
        ratio = contender.rate / client.rate
        cells = (f"{contender.trials:,}", f"{contender.seconds:,.1f}", f"{contender.rate:,.1f}", f"{ratio:,.1f}")
        table.add_row(contender.name, *cells)
    Console(width=100).print(table)
    third = max(1, len(rates) // 3)
    first, last = sorted(rates[:third])[third // 2], sorted(rates[-third:])[third // 2]
    print(f"bulk, median rate of the first third of its packs: {first:,.0f}/s, of the last: {last:,.0f}/s")
    if target is not None:
        ratio = bulk.rate / client.rate
        print(f"target: at least {target:g} times the client: {'met' if ratio >= target else 'MISSED'} ({ratio:.1f})")


if __name__ == "__main__":
    sys.exit(main())
