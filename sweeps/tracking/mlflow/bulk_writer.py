"""The bulk writer: insert trials directly into MLflow's tables, one pack per transaction and connection.

A run id consists of 48 bits of the sweep's start in milliseconds, 48 bits of a hash of experiment, parent run and
sweep, and 32 bits of the trial's number. The same trial always gets the same id, so the runs table shows what is
logged. Ids that sort by time are appended to the tables' indices instead of scattered over them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np

from sweeps.errors import TrackingError
from sweeps.tracking.mlflow.client_writer import ClientWriter
from sweeps.tracking.mlflow.database.base import Connection, Database
from sweeps.tracking.mlflow.database.rows import contents, run_rows
from sweeps.tracking.mlflow.writer import ChildRuns
from sweeps.tracking.names import SWEEP_ID, TRIAL_ID
from sweeps.tracking.trial_runs import TrialRuns

_CHILDREN = """
    SELECT trial.value, runs.run_uuid, runs.status, runs.lifecycle_stage
    FROM tags AS parent
    JOIN tags AS trial ON trial.run_uuid = parent.run_uuid AND trial.key = ?
    JOIN runs ON runs.run_uuid = parent.run_uuid
    WHERE parent.key = 'mlflow.parentRunId' AND parent.value = ?
"""
_THERE = """
    SELECT runs.run_uuid, runs.experiment_id, sweep.value, trial.value
    FROM runs
    LEFT JOIN tags AS sweep ON sweep.run_uuid = runs.run_uuid AND sweep.key = ?
    LEFT JOIN tags AS trial ON trial.run_uuid = runs.run_uuid AND trial.key = ?
    WHERE runs.run_uuid BETWEEN ? AND ?
"""


class BulkWriter:
    """A writer that logs packs of trials with SQL.

    Args:
        database: Database with MLflow's tables.
        child_runs: Values shared by the sweep's child runs.
        client_writer: Writer that completes runs that an earlier client writer left unfinished.
    """

    def __init__(self, database: Database, child_runs: ChildRuns, client_writer: ClientWriter) -> None:
        """Store the arguments; connections are opened on the first write."""
        self._database, self._child_runs, self._client_writer = database, child_runs, client_writer
        self._connections: list[Connection] = []
        self._earlier: dict[str, tuple[str, bool]] = {}
        self._prefix = run_id_prefix(child_runs)

    def find_earlier(self) -> None:
        """Find child runs that the client writer logged earlier; the bulk writer's own are known by their ids."""
        with closing(self._database.connect()) as connection:
            for trial_id, run_id, status, stage in connection.query(_CHILDREN, TRIAL_ID, self._child_runs.parent_id):
                if not run_id.startswith(self._prefix):
                    self._earlier[trial_id] = run_id, status == "FINISHED" or stage == "deleted"
        self._client_writer.adopt(self._earlier)

    def renew(self, earlier: dict[str, tuple[str, bool]]) -> None:
        """Replace the known runs of trials; the client writer logs them again, because they need a different id."""
        self._earlier |= earlier
        self._client_writer.adopt(self._earlier)

    def write(self, runs: TrialRuns) -> Iterator[int]:
        """Log trials that are not logged yet, in one transaction per connection; yield how many are in MLflow.

        Raises:
            TrackingError: the experiment is deleted, or a run with a trial's id belongs to something else.
        """
        by_client = np.array([trial_id in self._earlier for trial_id in runs.ids], np.bool_)
        if by_client.any():
            yield from self._client_writer.write(runs.take(by_client))
            runs = runs.take(~by_client)
        if not len(runs):
            return
        _check_names(runs)
        first = not self._connections
        while len(self._connections) < self._database.connections:
            self._connections.append(self._database.connect())
            self._connections[-1].prepare()
        parts = runs.split(len(self._connections))
        with ThreadPoolExecutor(len(parts)) as threads:
            for _ in threads.map(self._write_part, self._connections, parts):
                pass
        if first:
            # Without statistics the database uses the wrong index, and pages of the UI take seconds. A running server
            # on SQLite reads only the first statistics, so collect them early.
            self._connections[0].analyze()
        yield len(runs)

    def run_id(self, number: int, trial_id: str) -> str | None:
        """Return the id that the trial's run has, if it has one."""
        return self._client_writer.run_id(number, trial_id) or self._run_id(number)

    def close(self) -> None:
        """Update the database's statistics and close the connections."""
        connections, self._connections = self._connections, []
        for connection in connections:
            with closing(connection):
                if connection is connections[0]:
                    connection.analyze()

    def _write_part(self, connection: Connection, runs: TrialRuns) -> None:
        child_runs, ids = self._child_runs, [self._run_id(number) for number in runs.numbers]
        with connection.transaction():
            if connection.experiment_stage(int(child_runs.experiment_id)) != "active":
                raise TrackingError(
                    f"experiment {child_runs.experiment_id} was deleted during logging; restore it and resume the sweep"
                )
            new = connection.claim(run_rows(runs, ids, child_runs))
            chosen = np.array([run_id in new for run_id in ids], np.bool_)
            self._check_own(connection, runs.take(~chosen))
            for grid in contents(runs.take(chosen), [run_id for run_id in ids if run_id in new], child_runs):
                connection.insert(grid)

    def _check_own(self, connection: Connection, runs: TrialRuns) -> None:
        """Check that runs that already exist belong to the trials that would have been written."""
        if not len(runs):
            return
        child_runs, bounds = self._child_runs, (self._run_id(min(runs.numbers)), self._run_id(max(runs.numbers)))
        there = {run_id: content for run_id, *content in connection.query(_THERE, SWEEP_ID, TRIAL_ID, *bounds)}
        for number, trial_id in zip(runs.numbers, runs.ids, strict=True):
            run_id = self._run_id(number)
            if there[run_id] != [int(child_runs.experiment_id), child_runs.sweep_id, trial_id]:
                raise TrackingError(f"run {run_id} already exists, but is not trial {number} of this sweep")

    def _run_id(self, number: int) -> str:
        return f"{self._prefix}{number:08x}"


def run_id_prefix(child_runs: ChildRuns) -> str:
    """Return the first 24 of the 32 hexadecimal digits of a sweep's run ids."""
    belongs = "\0".join((child_runs.experiment_id, child_runs.parent_id, child_runs.sweep_id))
    return f"{child_runs.started_ms:012x}{hashlib.sha256(belongs.encode()).hexdigest()[:12]}"


def _check_names(runs: TrialRuns) -> None:
    """Apply MLflow's rules for keys; long values are truncated already."""
    from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

    for key in dict.fromkeys(runs.keys):
        _validate_metric(key, 0.0, 0, 0)  # type: ignore[no-untyped-call]
    for key in runs.params:
        _validate_param(key, "")  # type: ignore[no-untyped-call]
    for key in runs.tags:
        _validate_tag(key, "")  # type: ignore[no-untyped-call]
