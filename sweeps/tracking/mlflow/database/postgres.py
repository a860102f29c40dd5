"""MLflow's tables in PostgreSQL: insert packs with binary COPY over two concurrent connections."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sweeps.errors import TrackingError
from sweeps.text.redact import first_line
from sweeps.tracking.mlflow.database.base import BUSY_SECONDS, Database
from sweeps.tracking.mlflow.database.rows import TABLES, Constant, Grid, RunRows

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.engine import URL

_CONNECT_SECONDS = 10
_ROWS_PER_WRITE = 50_000
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_DRIVERS = ("psycopg", "psycopg2", "psycopg2cffi")  # all use libpq and accept its options
_FACTS = """
    SELECT 'column', attname, format_type(atttypid, atttypmod), attnotnull::text, pg_get_expr(adbin, adrelid)
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = ?::regclass AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint', contype::text, pg_get_constraintdef(oid), convalidated::text, condeferrable::text
    FROM pg_constraint WHERE conrelid = ?::regclass AND contype <> 'n'
    UNION ALL
    SELECT 'index', substring(pg_get_indexdef(indexrelid) FROM ' USING .*'), indisunique::text, indisvalid::text, ''
    FROM pg_index WHERE indrelid = ?::regclass
    UNION ALL
    SELECT 'trigger', pg_get_triggerdef(oid), '', '', ''
    FROM pg_trigger WHERE tgrelid = ?::regclass AND NOT tgisinternal
    UNION ALL
    SELECT 'table', relkind::text, relhasrules::text, relrowsecurity::text, relpersistence::text
    FROM pg_class WHERE oid = ?::regclass
"""


def at(url: URL) -> PostgresDatabase | str:
    """Return the database of a URI, or the reason why the bulk writer cannot use it."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "the bulk writer needs psycopg for PostgreSQL: pip install 'sgd-sweeps[postgres]'"
    if url.get_driver_name() not in _DRIVERS:
        return f"the bulk writer supports PostgreSQL with psycopg, not with {url.get_driver_name()}"
    return PostgresDatabase(url)


@dataclass(frozen=True)
class PostgresDatabase:
    """A database of a PostgreSQL server."""

    url: URL = field(repr=False)
    connections: int = 2
    fingerprints: tuple[str, ...] = ("6ca5b1e14fa6d4bd",)

    def connect(self) -> PostgresConnection:
        """Open a connection.

        Raises:
            TrackingError: the server cannot be reached or rejects the connection.
        """
        import psycopg

        url = self.url.set(drivername="postgresql+psycopg")
        _, arguments = url.get_dialect()().create_connect_args(url)
        arguments = {"connect_timeout": _CONNECT_SECONDS, **arguments, "client_encoding": "utf8", "autocommit": True}
        try:
            # Prepared statements do not work through a connection pooler.
            connection = psycopg.connect(**arguments, prepare_threshold=None)
        except psycopg.Error as error:
            raise TrackingError(f"the database cannot be opened: {first_line(error)}") from error
        return PostgresConnection(connection)

    @contextmanager
    def scratch(self, experiment_id: int) -> Iterator[Database]:
        """Create temporary copies of MLflow's tables, empty except for one experiment, visible to one connection.

        Raises:
            TrackingError: the user is not allowed to create temporary tables.
        """
        import psycopg

        connection = self.connect()
        with closing(connection.raw):
            try:
                for table in (*TABLES, "experiments"):
                    connection.raw.execute(f"CREATE TEMPORARY TABLE {table} (LIKE {table} INCLUDING ALL)".encode())
                active = "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (%s, '', 'active')"
                connection.raw.execute(active, (experiment_id,))
            except psycopg.Error as error:
                raise TrackingError(
                    f"the bulk writer cannot be tested in temporary tables: {first_line(error)}"
                ) from error
            yield _Scratch(connection)


class PostgresConnection:
    """A connection to a PostgreSQL server."""

    def __init__(self, connection: psycopg.Connection) -> None:
        """Wrap a psycopg connection in autocommit mode."""
        self.raw = connection

    def query(self, statement: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT; ``?`` is the placeholder for parameters."""
        return self.raw.execute(statement.replace("?", "%s").encode(), parameters).fetchall()

    def tables(self) -> list[str]:
        """Return the names of the tables."""
        return [name for (name,) in self.query("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")]

    def records(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a table."""
        cursor = self.raw.execute(f'SELECT * FROM "{table}"'.encode())
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def refusal(self) -> str | None:
        """Return why this user cannot write to the database; None if it can."""
        if self.query("SELECT pg_is_in_recovery()") == [(True,)]:
            return "the PostgreSQL server is a read-only standby"
        needed = [(table, right) for table in TABLES for right in ("SELECT", "INSERT")] + [("experiments", "SELECT")]
        for table, right in needed:
            if self.query("SELECT has_table_privilege(?, ?)", table, right) == [(False,)]:
                return f"the PostgreSQL user lacks the {right} privilege on MLflow's table {table}"
        # Locking a row requires the privilege to update any of its columns.
        if self.query("SELECT has_any_column_privilege('experiments', 'UPDATE')") == [(False,)]:
            return "the PostgreSQL user lacks the UPDATE privilege on MLflow's table experiments"
        return None

    def fingerprint(self) -> str:
        """Return a hash of the columns, constraints, indices and triggers of the tables."""
        facts = [(table, sorted(self.query(_FACTS, *[table] * 5), key=repr)) for table in TABLES]
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def prepare(self) -> None:
        """Do nothing: settings are made in each transaction."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one transaction at READ COMMITTED; :meth:`claim` handles concurrent writers."""
        self.raw.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            self.raw.execute(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'".encode())
            yield
        except BaseException:
            if not self.raw.broken:
                self.raw.execute("ROLLBACK")
            raise
        self.raw.execute("COMMIT")

    def experiment_stage(self, experiment_id: int) -> str | None:
        """Return an experiment's lifecycle stage; changes to it wait until the transaction ends."""
        found = self.query("SELECT lifecycle_stage FROM experiments WHERE experiment_id = ? FOR SHARE", experiment_id)
        return found[0][0] if found else None

    def claim(self, run_rows: RunRows) -> set[str]:
        """Insert the runs that do not exist yet; return their ids.

        The insert waits for runs that another transaction has inserted but not committed. All writers insert in the
        order of the ids, once per transaction, so they cannot deadlock.
        """
        cells = sorted(run_rows.cells())
        arrays = [list(column) for column in zip(*cells, strict=True)]
        kinds = ", ".join("%s::bigint[]" if isinstance(array[0], int) else "%s::text[]" for array in arrays)
        statement = (
            f"INSERT INTO runs ({', '.join(run_rows.columns)}) SELECT * FROM unnest({kinds})"
            " ON CONFLICT (run_uuid) DO NOTHING RETURNING run_uuid"
        )
        claimed = {run_id for (run_id,) in self.raw.execute(statement.encode(), arrays)}
        if self._trusted():
            # All following rows belong to runs that this transaction has just inserted. The foreign key check of every
            # single point would take as long as everything else.
            self.raw.execute("SET LOCAL session_replication_role = replica")
        return claimed

    def _trusted(self) -> bool:
        """Return whether the user is allowed to skip foreign key checks, as a superuser or by a grant."""
        may = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        if self.raw.info.server_version >= 150_000:
            may = "SELECT has_parameter_privilege('session_replication_role', 'SET')"
        return self.query(may) == [(True,)]

    def insert(self, grid: Grid) -> None:
        """Insert the rows of a grid."""
        statement = f"COPY {grid.table} ({', '.join(grid.columns)}) FROM STDIN (FORMAT binary)".encode()
        run, point = np.nonzero(grid.present)
        with self.raw.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(_HEADER)
            for first in range(0, len(run), _ROWS_PER_WRITE):
                part = slice(first, first + _ROWS_PER_WRITE)
                copy.write(encoded(grid, run[part], point[part]))
            copy.write(_TRAILER)

    def analyze(self) -> None:
        """Update the statistics now, because autovacuum comes late or never; locked tables are skipped."""
        self.raw.execute(f"ANALYZE (SKIP_LOCKED) {', '.join(TABLES)}".encode())

    def close(self) -> None:
        """Close the connection."""
        self.raw.close()


@dataclass(frozen=True)
class _Scratch:
    """The temporary tables that one connection sees."""

    connection: PostgresConnection
    connections: int = 1
    fingerprints: tuple[str, ...] = ()

    def connect(self) -> PostgresConnection:
        """Return the connection."""
        return self.connection


def encoded(grid: Grid, run: NDArray[np.intp], point: NDArray[np.intp]) -> memoryview:
    """Encode rows in COPY's binary format: the number of fields, then each field's length and bytes, big-endian."""
    fields = [
        pa.scalar(struct.pack(">h", len(grid.columns))),
        _fields(grid.ids).take(pa.array(run)),
        *(_fields(values).take(pa.array(point)) for values in grid.points.values()),
        *(_fields(values[run, point]) for values in grid.own.values()),
        *(_constant(value) for value in grid.constants.values()),
    ]
    joined = pc.binary_join_element_wise(*fields, pa.scalar(b""))
    return memoryview(joined.buffers()[2])[: pc.sum(pc.binary_length(joined)).as_py()]


def _fields(values: list[str] | NDArray[Any]) -> pa.Array:
    if isinstance(values, list) or values.dtype == object:
        return pa.array([_text(text) for text in values], pa.binary())
    return _numbers(values)


def _constant(value: Constant) -> pa.Scalar:
    if isinstance(value, str):
        return pa.scalar(_text(value))
    return pa.scalar(struct.pack(">i?", 1, value) if isinstance(value, bool) else struct.pack(">iq", 8, value))


def _text(text: str) -> bytes:
    letters = text.encode()
    return struct.pack(">i", len(letters)) + letters


def _numbers(values: NDArray[Any]) -> pa.Array:
    """Encode 8-byte numbers; integers become bigint, floats double precision."""
    fields = np.empty(len(values), [("length", ">i4"), ("value", f">{values.dtype.kind}8")])
    fields["length"], fields["value"] = 8, values
    buffers = [None, pa.py_buffer(fields.tobytes())]
    return pa.Array.from_buffers(pa.binary(12), len(values), buffers).cast(pa.binary())
