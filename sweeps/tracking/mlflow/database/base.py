"""The database protocol that the bulk writer and the choice of writer need."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sweeps.tracking.mlflow.database.rows import Grid, RunRows

BUSY_SECONDS = 60  # how long a writer waits for another writer


class Database(Protocol):
    """A database that holds MLflow's tables."""

    @property
    def connections(self) -> int:
        """The number of connections to write with."""

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the table schemas that the bulk writer was tested with."""

    def connect(self) -> Connection:
        """Open a connection, without changing the database.

        Raises:
            TrackingError: the database does not exist or cannot be reached.
        """


class Connection(Protocol):
    """A connection to MLflow's tables, for one thread at a time."""

    def query(self, statement: str, *parameters: str | int) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT; ``?`` is the placeholder for parameters."""

    def tables(self) -> list[str]:
        """Return the names of the tables."""

    def records(self, table: str) -> list[dict[str, Any]]:
        """Return all rows of a table."""

    def refusal(self) -> str | None:
        """Return why this user cannot write to the database; None if it can."""

    def fingerprint(self) -> str:
        """Return a hash of everything an insert depends on: columns, keys, indices and triggers of the tables."""

    def prepare(self) -> None:
        """Configure the connection for fast writes that do not block readers."""

    def transaction(self) -> AbstractContextManager[None]:
        """Run a block as one transaction."""

    def experiment_stage(self, experiment_id: int) -> str | None:
        """Return an experiment's lifecycle stage, locked until the transaction ends; None if it does not exist."""

    def claim(self, run_rows: RunRows) -> set[str]:
        """Insert the rows of ``runs`` that do not exist yet; return their ids.

        No other writer can claim the same rows: it waits until this transaction commits or fails.
        """

    def insert(self, grid: Grid) -> None:
        """Insert the rows of a grid; they must not exist yet."""

    def analyze(self) -> None:
        """Update the planner's statistics unless tables are locked; without statistics, UI pages take seconds."""

    def close(self) -> None:
        """Close the connection and leave the database as other programs expect it."""
