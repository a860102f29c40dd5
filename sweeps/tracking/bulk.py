"""The bulk writer: trials straight into MLflow's own tables in SQLite, a pack in one transaction.

A run's id is 48 bits of the sweep's start in milliseconds, 48 bits of a hash of what it belongs to, and 32 bits of the
trial's number: the same trial has the same id again, so the runs table says what is logged, and ids that sort by time
are appended to the tables' indices instead of being scattered over them.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweeps.errors import TrackingError
from sweeps.tracking.base import SWEEP_ID, TRIAL_ID, Family
from sweeps.tracking.client import ClientWriter
from sweeps.tracking.trials import TrialRuns

_BUSY_SECONDS = 60.0
_CACHE_KIB = 256 * 1024
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
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
_RUN = """
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
                      end_time, source_version, lifecycle_stage, artifact_uri, experiment_id, deleted_time)
    VALUES (?, ?, 'UNKNOWN', '', '', ?, 'FINISHED', ?, ?, '', 'active', ?, ?, NULL)
"""


class BulkWriter:
    """Logs packs of trials by plain SQL.

    Args:
        path: the database file.
        family: the sweep.
        client_writer: fills the runs that an earlier client writer left unfinished.
    """

    def __init__(self, path: Path, family: Family, client_writer: ClientWriter) -> None:
        """Nothing is opened yet."""
        self._path, self._family, self._client_writer = path, family, client_writer
        self._connection: sqlite3.Connection | None = None
        self._earlier: dict[str, tuple[str, bool]] = {}
        self._prefix = run_id_prefix(family)

    def find_earlier(self) -> None:
        """Look for child runs that the client writer logged before; this one's own are known by their ids."""
        with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as connection:
            for trial_id, run_id, status, stage in connection.execute(_CHILDREN, (TRIAL_ID, self._family.parent_id)):
                if not run_id.startswith(self._prefix):
                    self._earlier[trial_id] = run_id, status == "FINISHED" or stage == "deleted"
        self._client_writer.adopt(self._earlier)

    def write(self, runs: TrialRuns) -> Iterator[int]:
        """Log the trials that are not logged, in one transaction; yields how many trials are in MLflow then.

        Raises:
            TrackingError: the experiment is gone, or a run is there that has a trial's id and is not that trial's.
        """
        by_client = np.array([trial_id in self._earlier for trial_id in runs.ids], np.bool_)
        if by_client.any():
            yield from self._client_writer.write(runs.take(by_client))
            runs = runs.take(~by_client)
        if not len(runs):
            return
        first = self._connection is None
        connection = self._opened()
        began = _now_ms()
        _check_names(runs)
        with _transaction(connection):
            self._check_experiment(connection)
            new = runs.take(self._not_there(connection, runs))
            if len(new):
                self._insert(connection, new, began)
        if first:
            # Without statistics SQLite takes the wrong index, and a page of the UI takes seconds; a running server
            # notices only the first ANALYZE of a database, so it comes early.
            _analyze(connection)
        yield len(runs)

    def close(self) -> None:
        """Bring the statistics up to date, move the log into the database, and close it."""
        if self._connection is None:
            return
        with closing(self._connection):
            _analyze(self._connection)
            _unless_busy(self._connection, "PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            # Opened in the thread that logs and closed there or, after a fault, in another; never used by two at once.
            self._connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            # Readers go on while a pack is written. The switch needs the database for itself once, and stays.
            self._connection.execute("PRAGMA busy_timeout = 1000")
            _unless_busy(self._connection, "PRAGMA journal_mode = WAL")
            self._connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
            self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            [[mode]] = self._connection.execute("PRAGMA journal_mode").fetchall()
            # With the write-ahead log NORMAL cannot damage the database; the older journal needs FULL for that.
            self._connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
        return self._connection

    def _check_experiment(self, connection: sqlite3.Connection) -> None:
        query = "SELECT lifecycle_stage FROM experiments WHERE experiment_id = ?"
        if connection.execute(query, (int(self._family.experiment_id),)).fetchall() != [("active",)]:
            raise TrackingError(f"the experiment {self._family.experiment_id} has been deleted while it was logged to")

    def _not_there(self, connection: sqlite3.Connection, runs: TrialRuns) -> NDArray[np.bool_]:
        """Which trials have no run yet."""
        family = self._family
        bounds = self._run_id(min(runs.numbers)), self._run_id(max(runs.numbers))
        there = {
            run_id: content for run_id, *content in connection.execute(_THERE, (SWEEP_ID, TRIAL_ID, *bounds)).fetchall()
        }
        new = np.ones(len(runs), np.bool_)
        for index, (number, trial_id) in enumerate(zip(runs.numbers, runs.ids, strict=True)):
            run_id = self._run_id(number)
            if run_id not in there:
                continue
            if there[run_id] != [int(family.experiment_id), family.sweep_id, trial_id]:
                raise TrackingError(f"the run {run_id} is there, but it is not trial {number} of this sweep")
            new[index] = False
        return new

    def _insert(self, connection: sqlite3.Connection, runs: TrialRuns, began: int) -> None:
        from mlflow.utils.uri import append_to_uri_path

        family, count = self._family, len(runs)
        ids = [self._run_id(number) for number in runs.numbers]
        location = family.artifact_location
        artifacts = [append_to_uri_path(location, run_id, "artifacts") for run_id in ids]  # type: ignore[no-untyped-call]
        names = [runs.name(index) for index in range(count)]
        connection.executemany(
            _RUN,
            zip(
                ids,
                names,
                repeat(family.user),
                repeat(began),
                repeat(_now_ms()),
                artifacts,
                repeat(int(family.experiment_id)),
                strict=False,
            ),
        )
        tags = {"mlflow.parentRunId": [family.parent_id] * count, "mlflow.user": [family.user] * count}
        _insert_texts(connection, "tags", ids, {**tags, **runs.tags, "mlflow.runName": names})
        _insert_texts(connection, "params", ids, runs.params)
        _insert_metrics(connection, ids, runs, family.started_ms)

    def _run_id(self, number: int) -> str:
        return f"{self._prefix}{number:08x}"


def run_id_prefix(family: Family) -> str:
    """The first 24 of the 32 digits of a sweep's run ids."""
    belongs = "\0".join((family.experiment_id, family.parent_id, family.sweep_id))
    return f"{family.started_ms:012x}{hashlib.sha256(belongs.encode()).hexdigest()[:12]}"


def _insert_texts(connection: sqlite3.Connection, table: str, ids: list[str], columns: dict[str, list[str]]) -> None:
    rows = ((key, texts[i], run_id) for i, run_id in enumerate(ids) for key, texts in sorted(columns.items()))
    connection.executemany(f"INSERT INTO {table} (key, value, run_uuid) VALUES (?, ?, ?)", rows)


def _insert_metrics(connection: sqlite3.Connection, ids: list[str], runs: TrialRuns, at: int) -> None:
    """All points, by run, key and step, and of each run and key the last one again."""
    finite = np.isfinite(runs.values)
    groups = list(runs.groups())
    last = np.zeros_like(finite)
    for _, first, end in groups:
        points = finite[:, first:end]
        ends = end - 1 - np.argmax(points[:, ::-1], axis=1)
        last[np.arange(len(ids)), ends] = points.any(axis=1)
    for table, chosen in (("metrics", finite), ("latest_metrics", last)):
        row, column = np.nonzero(chosen)
        connection.executemany(
            f"INSERT INTO {table} (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, {int(at)}, ?, ?, 0)",
            zip(
                np.array(runs.keys, object)[column].tolist(),
                runs.values[row, column].tolist(),
                np.array(ids, object)[row].tolist(),
                np.array(runs.steps)[column].tolist(),
                strict=True,
            ),
        )


def _check_names(runs: TrialRuns) -> None:
    """MLflow's own rules for keys; long texts are cut already."""
    from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

    for key in dict.fromkeys(runs.keys):
        _validate_metric(key, 0.0, 0, 0)  # type: ignore[no-untyped-call]
    for key in runs.params:
        _validate_param(key, "")  # type: ignore[no-untyped-call]
    for key in runs.tags:
        _validate_tag(key, "")  # type: ignore[no-untyped-call]


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One writer at a time from its first line on, so that what it found missing is still missing when it writes."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _analyze(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA analysis_limit = 1000")
    _unless_busy(connection, "ANALYZE")


def _unless_busy(connection: sqlite3.Connection, statement: str) -> None:
    """What only makes things faster is left out where somebody else holds the database."""
    try:
        connection.execute(statement).fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _BUSY:
            raise


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
