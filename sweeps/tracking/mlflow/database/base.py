"""Database: what the bulk writer and its guard ask of a kind of database that MLflow keeps its tables in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from sweeps.errors import TrackingError

if TYPE_CHECKING:
    from sweeps.tracking.mlflow.database.rows import Grid, RunRows

BUSY_SECONDS = 60  # how long a writer waits for another one


class Database(Protocol):
    """Where MLflow's tables are."""

    @property
    def connections(self) -> int:
        """How many connections write faster than one."""

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the tables that the bulk writer was tested on."""

    def connect(self) -> Connection:
        """A connection; nothing is changed by it.

        Raises:
            TrackingError: there is no such database, or it cannot be reached.
        """


class Connection(Protocol):
    """A connection to MLflow's tables, for one thread at a time."""

    def query(self, statement: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """The rows of a SELECT; ``?`` stands for a parameter."""

    def tables(self) -> list[str]:
        """The tables' names."""

    def records(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table."""

    def refusal(self) -> str | None:
        """Why this user cannot write here; None if it can."""

    def fingerprint(self) -> str:
        """A hash of the columns, keys, indices and triggers of the tables: of all that an insert depends on."""

    def prepare(self) -> None:
        """Set what makes writing fast and reading possible meanwhile."""

    def transaction(self) -> AbstractContextManager[None]:
        """All that is written within, or nothing."""

    def experiment_stage(self, experiment_id: int) -> str | None:
        """An experiment's lifecycle stage, which stays so until the transaction ends; None if there is no such one."""

    def claim(self, run_rows: RunRows) -> set[str]:
        """Insert the rows of ``runs`` that are not there; returns their ids.

        No other writer can claim them too: it waits for this transaction and finds them, or finds that it has failed.
        """

    def insert(self, grid: Grid) -> None:
        """Insert a grid's rows, which are not there."""

    def analyze(self) -> None:
        """Bring the planner's statistics up to date, where nobody is in the way: without them pages take seconds."""

    def close(self) -> None:
        """Leave the database as other programs expect it."""


def database_at(uri: str) -> Database | str:
    """The database of an SQLAlchemy URI, or why the bulk writer cannot be used there."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
        dialect = url.get_backend_name()
    except ArgumentError:
        dialect = ""  # a folder, or a name that only MLflow knows
    if dialect == "sqlite":
        from sweeps.tracking.mlflow.database import sqlite

        return sqlite.at(url)
    if dialect == "postgresql":
        from sweeps.tracking.mlflow.database import postgres

        return postgres.at(url)
    if dialect in ("mysql", "mssql"):
        return f"bulk writes into SQLite and PostgreSQL, not into {dialect}"
    return "bulk writes into a database, and the tracking URI is not one's"


def opened(uri: str) -> Database:
    """The database of a URI that bulk can be used with.

    Raises:
        TrackingError: it cannot.
    """
    found = database_at(uri)
    if isinstance(found, str):
        raise TrackingError(found)
    return found
