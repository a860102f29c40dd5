"""Self-test of the bulk writer: log the same trials with both writers to scratch databases and compare all rows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from sweeps.config.schema import HYPERPARAMETERS
from sweeps.store.shard_times import ENDED, STARTED
from sweeps.text.uris import sqlite_uri
from sweeps.tracking.mlflow.bulk_writer import BulkWriter
from sweeps.tracking.mlflow.client_writer import ClientWriter
from sweeps.tracking.mlflow.database.base import Database
from sweeps.tracking.mlflow.database.create import create_missing
from sweeps.tracking.mlflow.database.postgres import PostgresDatabase
from sweeps.tracking.mlflow.database.rows import TABLES
from sweeps.tracking.mlflow.database.sqlite import SqliteDatabase
from sweeps.tracking.mlflow.writer import ChildRuns, Writer
from sweeps.tracking.names import TRIAL_ID
from sweeps.tracking.trial_runs import trial_runs

STEPS = [0, 1, 10]
NAMES = ("weight", "größe")
Content: TypeAlias = dict[str, list[tuple[tuple[str, Any], ...]]]
_TIMES = {"deleted_time", "creation_time", "last_update_time"}

_STARTED_MS = 4_000_000_000_000  # after the start of any sweep


def differences(database: Database) -> str:
    """Return the names of the tables whose rows differ between the writers, separated by commas; empty if none do.

    Both writers log to a copy of the same SQLite database, and all tables are compared. If ``database`` is in
    PostgreSQL, the bulk writer also logs to temporary tables there.

    Raises:
        TrackingError: the user is not allowed to create temporary tables.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix="sweeps-canary-") as folder:
        by_client, by_bulk = Path(folder) / "client.db", Path(folder) / "bulk.db"
        create_missing(by_client)
        client = MlflowClient(sqlite_uri(by_client))
        experiment = client.get_experiment(client.create_experiment("canary", artifact_location=f"file://{folder}"))
        parent = client.create_run(experiment.experiment_id, tags={"mlflow.user": "canary"}).info
        shutil.copy(by_client, by_bulk)
        child_runs = ChildRuns(
            "canary",
            experiment.experiment_id,
            experiment.artifact_location,
            parent.run_id,
            parent.start_time,
            "canary",
        )
        client_writer = ClientWriter(client, child_runs)
        with closing(BulkWriter(SqliteDatabase(by_bulk), child_runs, client_writer)) as bulk_writer:
            for writer in (client_writer, bulk_writer):
                _write(writer)
        expected = rows(SqliteDatabase(by_client))
        if differing := _differing(expected, rows(SqliteDatabase(by_bulk))):
            return differing
        if not isinstance(database, PostgresDatabase):
            return ""
        with database.scratch(int(child_runs.experiment_id)) as scratch:
            # Not closed, because the temporary tables would vanish with the connection.
            _write(BulkWriter(scratch, child_runs, client_writer))
            found = rows(scratch, TABLES)
    of_parent = {"run_uuid": parent.run_id}.items()
    trials = {table: [row for row in expected[table] if not of_parent <= set(row)] for table in TABLES}
    return _differing(trials, found)


def _write(writer: Writer) -> None:
    for _ in writer.write(trial_runs(sample(), STEPS, NAMES, "canary", None)):
        pass


def _differing(expected: Content, found: Content) -> str:
    return ", ".join(sorted(table for table in expected | found if expected.get(table) != found.get(table)))


def sample() -> pa.Table:
    """Return rows of a shard file with edge cases: full, one-point, cut and empty curves, Unicode and long texts."""
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
        STARTED: pa.array([_STARTED_MS, _STARTED_MS + 5, _STARTED_MS + 5, _STARTED_MS + 10**7]),
        ENDED: pa.array([_STARTED_MS + 1, _STARTED_MS + 105, _STARTED_MS + 8, _STARTED_MS + 2 * 10**7]),
    }
    return pa.table(columns)


def rows(database: Database, tables: Iterable[str] | None = None) -> Content:
    """Return all rows of all tables, sorted, as pairs of column and value.

    Run ids of trials are replaced by trial ids, and clock times by whether they are set. Starts and ends of runs are
    compared: they come from the sweep, not from a clock.
    """
    with closing(database.connect()) as connection:
        trials = {row["run_uuid"]: row["value"] for row in connection.records("tags") if row["key"] == TRIAL_ID}
        return {table: _rows(connection.records(table), trials) for table in tables or connection.tables()}


def _rows(records: list[dict[str, Any]], trials: dict[str, str]) -> list[tuple[tuple[str, Any], ...]]:
    found = []
    for record in records:
        named = (
            (name, isinstance(value, int) if name in _TIMES else _named(value, trials))
            for name, value in record.items()
        )
        found.append(tuple(sorted(named)))
    return sorted(found, key=repr)


def _named(value: Any, trials: dict[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    # The second-to-last part of an artifact URI is the run id.
    return "/".join(trials.get(part, part) for part in value.split("/"))
