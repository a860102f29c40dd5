"""SQLite as a database of MLflow's: one writer at a time, and a write-ahead log so that readers go on."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.errors import TrackingError
from sweeps.tracking.database import BUSY_SECONDS
from sweeps.tracking.tables import TABLES, Rows

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_CACHE_KIB = 256 * 1024
_BETWEEN = "SELECT run_uuid FROM runs WHERE run_uuid BETWEEN ? AND ?"
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def at(url: URL) -> SqliteDatabase | str:
    """The database of a URI, or why the bulk writer cannot be used there."""
    if url.get_driver_name() != "pysqlite" or url.query or str(url.database).startswith("file:"):
        return "the SQLite URI has options"
    return SqliteDatabase(Path(str(url.database)).absolute())


@dataclass(frozen=True)
class SqliteDatabase:
    """A database file."""

    path: Path
    connections: int = 1
    fingerprints: tuple[str, ...] = ("eb695c29fce1cc2b",)

    def connect(self) -> SqliteConnection:
        """A connection.

        Raises:
            TrackingError: there is no such file.
        """
        # Opened in one thread and used or closed, after a fault too, in another; never used by two at once.
        try:
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.OperationalError as error:
            raise TrackingError(f"the database cannot be opened: {self.path}: {error}") from error
        return SqliteConnection(connection)


class SqliteConnection:
    """A connection to a database file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Nothing is set yet."""
        self.raw = connection
        self._prepared = False

    def query(self, statement: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """The rows of a SELECT."""
        return self.raw.execute(statement, parameters).fetchall()

    def tables(self) -> list[str]:
        """The tables' names."""
        found = self.query(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        )
        return [name for (name,) in found]

    def records(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table."""
        cursor = self.raw.execute(f'SELECT * FROM "{table}"')
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def refusal(self) -> None:
        """MLflow has written to the file itself."""

    def fingerprint(self) -> str:
        """A hash of the columns, keys, indices and triggers of the tables."""
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
        """Readers go on while a pack is written. The switch needs the database for itself once, and stays."""
        self.raw.execute("PRAGMA busy_timeout = 1000")
        self._unless_busy("PRAGMA journal_mode = WAL")
        self.raw.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        self.raw.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        [[mode]] = self.query("PRAGMA journal_mode")
        # With the write-ahead log NORMAL cannot damage the database; the older journal needs FULL for that.
        self.raw.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
        self._prepared = True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One writer at a time from its first line on: what it finds missing is still missing when it writes."""
        self.raw.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.raw.in_transaction:  # a full disk has ended it already
                self.raw.execute("ROLLBACK")
            raise
        self.raw.execute("COMMIT")

    def experiment_stage(self, experiment_id: int) -> str | None:
        """An experiment's lifecycle stage."""
        found = self.query("SELECT lifecycle_stage FROM experiments WHERE experiment_id = ?", experiment_id)
        return found[0][0] if found else None

    def claim(self, ledger: Rows) -> set[str]:
        """Insert the runs that are not there; returns their ids."""
        ids = ledger.columns["run_uuid"]
        assert isinstance(ids, list)
        there = {run_id for (run_id,) in self.query(_BETWEEN, min(ids), max(ids))}
        new = [row for row, run_id in zip(ledger.cells(), ids, strict=True) if run_id not in there]
        self.raw.executemany(_insert(ledger), new)
        return set(ids) - there

    def insert(self, rows: Rows) -> None:
        """Insert rows."""
        self.raw.executemany(_insert(rows), rows.cells())

    def analyze(self) -> None:
        """Statistics from a thousand rows an index; a running server notices only the first of a database."""
        self.raw.execute("PRAGMA analysis_limit = 1000")
        self._unless_busy("ANALYZE")

    def close(self) -> None:
        """Move the log, if this connection has written to it, into the database."""
        with closing(self.raw):
            if self._prepared:
                self._unless_busy("PRAGMA wal_checkpoint(TRUNCATE)")

    def _unless_busy(self, statement: str) -> None:
        """What only makes things faster is left out where somebody else holds the database."""
        try:
            self.raw.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY:
                raise


def _insert(rows: Rows) -> str:
    names = ", ".join(rows.columns)
    return f"INSERT INTO {rows.table} ({names}) VALUES ({', '.join('?' * len(rows.columns))})"
