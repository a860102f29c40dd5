"""MLflow's tables in SQLite: one writer at a time, with a write-ahead log so that readers are not blocked."""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sweeps.errors import TrackingError
from sweeps.tracking.mlflow.database.base import BUSY_SECONDS
from sweeps.tracking.mlflow.database.rows import TABLES, Grid, RunRows

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_CACHE_KIB = 256 * 1024
_LOG_PAGES = 64 * 1024  # 256 MB
_BETWEEN = "SELECT run_uuid FROM runs WHERE run_uuid BETWEEN ? AND ?"
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def at(url: URL) -> SqliteDatabase | str:
    """Return the database of a URI, or the reason why the bulk writer cannot use it."""
    if url.get_driver_name() != "pysqlite" or url.query or str(url.database).startswith("file:"):
        return "the bulk writer does not support SQLite URIs with options"
    return SqliteDatabase(Path(str(url.database)).absolute())


@dataclass(frozen=True)
class SqliteDatabase:
    """An SQLite database file."""

    path: Path
    connections: int = 1
    fingerprints: tuple[str, ...] = ("eb695c29fce1cc2b",)

    def connect(self) -> SqliteConnection:
        """Open a connection.

        Raises:
            TrackingError: the file does not exist or cannot be opened.
        """
        return SqliteConnection(self.path)


class SqliteConnection:
    """A connection to an SQLite database file."""

    def __init__(self, path: Path) -> None:
        """Open the file; :meth:`prepare` configures the connection."""
        self.raw = _connected(path)
        self._path = path
        self._log: _Log | None = None

    def query(self, statement: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT; ``?`` is the placeholder for parameters."""
        return self.raw.execute(statement, parameters).fetchall()

    def tables(self) -> list[str]:
        """Return the names of the tables."""
        found = self.query(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        )
        return [name for (name,) in found]

    def records(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a table."""
        cursor = self.raw.execute(f'SELECT * FROM "{table}"')
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def refusal(self) -> None:
        """Return None: MLflow has already written to the file."""

    def fingerprint(self) -> str:
        """Return a hash of the columns, keys, indices and triggers of the tables."""
        facts = []
        for table in TABLES:
            columns = self.query(
                'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?) ORDER BY name', table
            )
            indices = self.query(
                'SELECT i.name, i."unique", c.name FROM pragma_index_list(?) AS i, pragma_index_info(i.name) AS c'
                " ORDER BY i.name, c.seqno",
                table,
            )
            references = self.query('SELECT "table", "from", "to" FROM pragma_foreign_key_list(?)', table)
            triggers = self.query("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", table)
            facts.append((table, columns, indices, sorted(references), sorted(triggers)))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def prepare(self) -> None:
        """Switch to a write-ahead log, so that readers are not blocked.

        The switch needs exclusive access once and is permanent; if the database is busy, the old journal is kept.
        """
        self.raw.execute("PRAGMA busy_timeout = 1000")
        self._unless_busy("PRAGMA journal_mode = WAL")
        self.raw.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        self.raw.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        [[mode]] = self.query("PRAGMA journal_mode")
        # With the write-ahead log, NORMAL is safe against corruption; the rollback journal needs FULL.
        self.raw.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
        self.raw.execute("PRAGMA temp_store = MEMORY")
        self.raw.execute("PRAGMA wal_autocheckpoint = 0")
        self._log = _Log(self._path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one transaction that holds the write lock from its start."""
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.raw.in_transaction:  # a full disk ends the transaction by itself
                self.raw.execute("ROLLBACK")
            raise
        self.raw.execute("COMMIT")
        if self._log is not None:
            self._log.move()

    def experiment_stage(self, experiment_id: int) -> str | None:
        """Return an experiment's lifecycle stage."""
        found = self.query("SELECT lifecycle_stage FROM experiments WHERE experiment_id = ?", experiment_id)
        return found[0][0] if found else None

    def claim(self, run_rows: RunRows) -> set[str]:
        """Insert the runs that do not exist yet; return their ids."""
        ids = run_rows.ids
        there = {run_id for (run_id,) in self.query(_BETWEEN, min(ids), max(ids))}
        new = [row for row, run_id in zip(run_rows.cells(), ids, strict=True) if run_id not in there]
        names = run_rows.columns
        statement = f"INSERT INTO runs ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        self.raw.executemany(statement, new)
        return set(ids) - there

    def insert(self, grid: Grid) -> None:
        """Insert the rows of a grid with one statement that joins its runs with its points.

        Its cursors stay open from row to row, so that appending to an index, the usual case, needs no search. The runs'
        own values come from functions of their position in the grid.
        """
        width, place = grid.present.shape[1], "(run.at + point.at)"
        for name, values in grid.own.items():
            self._define(f"own_{name}", values)
        where = ""
        if not grid.present.all():
            self._define("is_present", grid.present)
            where = f"WHERE is_present{place}"
        cells = ["run_uuid", *grid.points, *(f"own_{name}{place}" for name in grid.own), *"?" * len(grid.constants)]
        statement = (
            f"INSERT INTO {grid.table} ({', '.join(grid.columns)})"
            f" SELECT {', '.join(cells)} FROM temp.run CROSS JOIN temp.point {where}"
        )
        points = {name: _listed(values) for name, values in grid.points.items()}
        # Without points there are no rows, but the positions of runs must still be unique.
        with (
            self._temporary("run", {"run_uuid": grid.ids}, max(width, 1)),
            self._temporary("point", points, 1),
        ):
            self.raw.execute(statement, tuple(grid.constants.values()))

    def _define(self, function: str, values: NDArray[Any]) -> None:
        """Define an SQL function that returns a value by its position in row-major order."""
        self.raw.create_function(function, 1, _listed(values.ravel()).__getitem__, deterministic=True)

    @contextmanager
    def _temporary(self, table: str, columns: Mapping[str, list[Any]], stride: int) -> Iterator[None]:
        """Create a temporary table of columns; ``at`` is the offset of each row in the grid."""
        self.raw.execute(f"CREATE TEMP TABLE {table} (at INTEGER PRIMARY KEY, {', '.join(columns)})")
        rows = zip(itertools.count(0, stride), *columns.values(), strict=False)
        self.raw.executemany(f"INSERT INTO temp.{table} VALUES (?{', ?' * len(columns)})", rows)
        yield
        self.raw.execute(f"DROP TABLE temp.{table}")

    def analyze(self) -> None:
        """Update statistics from 1,000 rows per index; a running server reads only a database's first statistics."""
        self.raw.execute("PRAGMA analysis_limit = 1000")
        self._unless_busy("ANALYZE")

    def close(self) -> None:
        """Close the connection; if it has written, first move the rest of the log into the database and truncate it."""
        with closing(self.raw):
            if self._log is not None:
                self._log.close()
                self._unless_busy("PRAGMA wal_checkpoint(TRUNCATE)")

    def _unless_busy(self, statement: str) -> None:
        """Run an optional optimisation; skip it if another process holds the database."""
        try:
            self.raw.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY:
                raise


class _Log:
    """The write-ahead log, checkpointed by a thread while the next pack is written."""

    def __init__(self, path: Path) -> None:
        """Open a separate connection for checkpoints."""
        self._raw = _connected(path)
        self._raw.execute("PRAGMA synchronous = NORMAL")
        self._thread = ThreadPoolExecutor(1, "write-ahead log")
        self._moving: Future[int] | None = None

    def move(self) -> None:
        """Start a checkpoint; if the log is long, wait for it, because a full checkpoint lets the log restart."""
        pages = self._moving.result() if self._moving is not None else 0
        self._moving = self._thread.submit(self._move)
        if pages > _LOG_PAGES:
            self._moving.result()

    def close(self) -> None:
        """Wait for the running checkpoint."""
        with closing(self._raw), self._thread:
            if self._moving is not None:
                self._moving.result()

    def _move(self) -> int:
        """Run a passive checkpoint; return the number of pages in the log, including checkpointed ones."""
        [(_, pages, _)] = self._raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return int(pages)


def _connected(path: Path) -> sqlite3.Connection:
    # Opened in one thread and used or closed in another, also after an error, but never by two threads at once.
    try:
        return sqlite3.connect(
            f"{path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.OperationalError as error:
        raise TrackingError(f"the database cannot be opened: {path}: {error}") from error


def _listed(column: list[str] | NDArray[Any]) -> list[Any]:
    """Convert values to Python types, the only ones that SQLite accepts."""
    return column if isinstance(column, list) else column.tolist()
