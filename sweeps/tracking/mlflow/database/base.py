"""Database: what the bulk writer and its guard ask of a kind of database that MLflow keeps its tables in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

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
