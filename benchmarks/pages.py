"""Load times of the pages of MLflow's UI for a store of many trials, through the REST calls that the pages make.

The bulk writer fills a store (``--trials``, three curves of ``--points`` points each), ``sweeps ui`` serves it, and
each call is made ``--repeats`` times, the first with cold caches of the server and the system. The UI's requests were
read from its JavaScript: pages of 100 runs, their parents, and charts of 100 runs, one call per metric. The exit code
is 1 if a median is over half a second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from rich.console import Console
from rich.table import Table

from benchmarks.tracking import trial_table
from sweeps.config.loader import parse
from sweeps.store.store import Store
from sweeps.tracking.base import TrackedSweep
from sweeps.tracking.mlflow.server.ui import mlflow_server
from sweeps.tracking.mlflow.tracker import MlflowTracker

TARGET = 0.5  # seconds
_SHARD = 1_000
_CHART_POINTS = 320  # that the UI requests per curve


def main() -> int:
    """Fill, serve, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=64, help="points per curve")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1, help="server processes; 'sweeps ui' starts one")
    options = parser.parse_args()
    if min(options.trials - 99, options.points - 1, options.repeats, options.workers) < 1:
        parser.error("trials must be at least 100, points at least 2, repeats and workers positive")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="benchmark-pages-") as folder:
        store = Store(Path(folder))
        experiment, parent = fill(store, options.trials, options.points)
        with mlflow_server(store.tracking_uri, store.artifacts, workers=options.workers) as (address, _):
            seconds = measure(address, experiment, parent, options.repeats)
    table = Table(
        title=f"{options.trials:,} trials of 3 x {options.points} points; load before {load:.1f}",
        title_justify="left",
        box=None,
    )
    for name in ("page", "median s", "first s", "slowest s"):
        table.add_column(name, justify="left" if name == "page" else "right")
    for name, times in seconds.items():
        table.add_row(name, *(f"{value:.3f}" for value in (statistics.median(times), times[0], max(times))))
    Console(width=100).print(table)
    slow = [name for name, times in seconds.items() if statistics.median(times) > TARGET]
    print(f"target: each within {TARGET} s: {'MISSED by ' + ', '.join(slow) if slow else 'met'}")
    return int(bool(slow))


def fill(store: Store, trials: int, points: int) -> tuple[str, str]:
    """Log made-up trials in bulk; return the experiment's and the parent run's ids."""
    document = {
        "name": "benchmark",
        "task": {"dataset": {"kind": "line"}, "model": {"kind": "linear"}},
        "training": {"epochs": 1},
        "parameters": {"lr": {"value": 0.1}},
        "tracking": {"writer": "bulk"},
    }
    store.check_writable()
    config = parse(document, "benchmark")
    manifest: dict[str, Any] = {"data": {"digest": "0" * 16}}
    files = store.create("abcd1234", config.to_yaml(), manifest)
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    tracker.check()
    started = tracker.start(TrackedSweep(files, config, manifest, ("weight", "bias")))
    steps = list(range(points))
    for first in range(0, trials, _SHARD):
        for _ in tracker.log_trials(trial_table(range(first, min(trials, first + _SHARD)), steps, 3), steps):
            pass
    tracker.end_trials()
    return started["experiment_id"], started["run_id"]


def measure(address: str, experiment: str, parent: str, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each page, in the order of the repeats."""
    page = {"experiment_ids": [experiment], "run_view_type": "ACTIVE_ONLY", "max_results": 100}
    newest = page | {"order_by": ["attributes.start_time DESC"]}
    first = _ask(address, "runs/search", newest)
    runs = [run["info"]["run_id"] for run in first["runs"]]
    assert len(runs) == 100
    models = {"experiment_ids": [experiment], "max_results": 50}
    chart = {"run_ids": runs, "max_results": _CHART_POINTS}
    calls: dict[str, tuple[str, dict[str, Any], bool]] = {
        "newest first": ("runs/search", newest, True),
        "the page after": ("runs/search", newest | {"page_token": first["next_page_token"]}, True),
        "by a metric": ("runs/search", page | {"order_by": ["metrics.`final_loss` ASC"]}, True),
        "by a parameter": ("runs/search", page | {"order_by": ["params.`lr` DESC"]}, True),
        "by run name": ("runs/search", page | {"order_by": ["tags.`mlflow.runName` ASC"]}, True),
        "a tag's value": ("runs/search", newest | {"filter": "tags.`sweeps.verdict` = 'converged'"}, True),
        "a metric below": ("runs/search", newest | {"filter": "metrics.`final_loss` < 0.5"}, True),
        "a sweep's trials": ("runs/search", newest | {"filter": f"tags.`mlflow.parentRunId` = '{parent}'"}, True),
        "their parent": ("runs/search", page | {"filter": f"run_id IN ('{parent}')"}, True),
        "data sets": ("experiments/search-datasets", {"experiment_ids": [experiment]}, True),
        "logged models": ("logged-models/search", models, True),
        "one run": ("runs/get", {"run_id": runs[0]}, False),
        "chart, loss": ("metrics/get-history-bulk-interval", chart | {"metric_key": "loss"}, False),
        "chart, a parameter": ("metrics/get-history-bulk-interval", chart | {"metric_key": "param/weight"}, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, (endpoint, body, is_post) in calls.items():
            began = time.perf_counter()
            _ask(address, endpoint, body, is_post)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def _ask(address: str, endpoint: str, body: dict[str, Any], is_post: bool = True) -> dict[str, Any]:
    uri = f"{address}/ajax-api/2.0/mlflow/{endpoint}"
    headers = {"Content-Type": "application/json"}
    if is_post:
        request = urllib.request.Request(uri, json.dumps(body).encode(), headers)
    else:
        request = urllib.request.Request(f"{uri}?{urlencode(body, doseq=True)}")
    with urllib.request.urlopen(request, timeout=120) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


if __name__ == "__main__":
    sys.exit(main())
