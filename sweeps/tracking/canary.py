"""Canary: the same trials through both writers into two copies of a scratch database, and every raw row compared."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from sweeps.config import HYPERPARAMETERS
from sweeps.tracking.base import TRIAL_ID, Family, Writer
from sweeps.tracking.bulk import BulkWriter
from sweeps.tracking.client import ClientWriter
from sweeps.tracking.trials import trial_runs

STEPS = [0, 1, 10]
NAMES = ("weight", "größe")
_TIMES = {"start_time", "end_time", "deleted_time", "creation_time", "last_update_time"}


def differences() -> str:
    """The tables whose rows differ between the writers, by name; empty if none do."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix="sweeps-canary-") as folder:
        by_client, by_bulk = Path(folder) / "client.db", Path(folder) / "bulk.db"
        client = MlflowClient(f"sqlite:///{by_client}")
        experiment = client.get_experiment(client.create_experiment("canary", artifact_location=f"file://{folder}"))
        parent = client.create_run(experiment.experiment_id, tags={"mlflow.user": "canary"}).info
        shutil.copy(by_client, by_bulk)
        family = Family(
            "canary",
            experiment.experiment_id,
            experiment.artifact_location,
            parent.run_id,
            parent.start_time,
            "canary",
        )
        client_writer = ClientWriter(client, family)
        writers: list[Writer] = [client_writer, BulkWriter(by_bulk, family, client_writer)]
        for writer in writers:
            for _ in writer.write(trial_runs(sample(), STEPS, NAMES, "canary", None)):
                pass
            writer.close()
        expected, found = rows(by_client), rows(by_bulk)
    return ", ".join(sorted(table for table in expected | found if expected.get(table) != found.get(table)))


def sample() -> pa.Table:
    """Rows of a shard file as odd as they come: whole, one-point, cut and empty curves, unicode, long texts."""
    curves = [[1.0, 0.5, 0.25], [1e300, None, None], [None, None, None], [2.0, -0.0, None]]
    count = len(curves)
    values = pa.array([0.1, None, 1e-300, 2.0])
    columns: dict[str, Any] = {
        "trial": [100, 101, 102, 70_000],
        "trial_id": [f"{i:016x}" for i in range(count)],
        **{name: pa.array([0.1, 0.0, 1e-7, 3.0]) for name in HYPERPARAMETERS if name != "nesterov"},
        "nesterov": [True, False, False, True],
        "seed": [0, 1, 2, 2**40],
        "init.größe": ["ü" * 7000, "", "x\ny", "'"],
        "verdict": ["converged", "diverged", "ж" * 9000, "stalled"],
        "final_loss": values,
        "best_loss": values,
        "first_nonfinite_step": pa.array([None, 3, 0, None], pa.int64()),
        "steps_to_tolerance": pa.array([1, None, None, None], pa.int64()),
        "overshoot_percent": pa.array([None] * count, pa.float64()),
        "peak_value": pa.array([1.5, 2.5, None, None], pa.float32()),
        "final": pa.array([[1.0, 2.0], [None, None], [None, 3.0], [0.0, -0.0]]),
        "loss": pa.array(curves, pa.list_(pa.float64())),
        "param.weight": pa.array(curves[::-1], pa.list_(pa.float32())),
        "param.größe": pa.array(curves, pa.list_(pa.float64())),
    }
    return pa.table(columns)


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, sorted; trials' run ids become their trial ids, and clock times whether they are there.

    A run that ends before it starts keeps its times, and so differs from all others.
    """
    with closing(sqlite3.connect(path)) as connection:
        trials = dict(connection.execute("SELECT run_uuid, value FROM tags WHERE key = ?", (TRIAL_ID,)))
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith("sqlite_")
        ]
        return {table: _rows(connection, table, trials) for table in tables}


def _rows(connection: sqlite3.Connection, table: str, trials: dict[str, str]) -> list[tuple[Any, ...]]:
    cursor = connection.execute(f'SELECT * FROM "{table}"')
    names = [column[0] for column in cursor.description]
    found = []
    for row in cursor:
        record = dict(zip(names, row, strict=True))
        in_order = not (record.get("end_time") and record["start_time"] > record["end_time"])
        found.append(
            tuple(
                isinstance(value, int) if name in _TIMES and in_order else _named(value, trials)
                for name, value in record.items()
            )
        )
    return sorted(found, key=repr)


def _named(value: Any, trials: dict[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    # An artifact URI holds the id in its last part but one.
    return "/".join(trials.get(part, part) for part in value.split("/"))
