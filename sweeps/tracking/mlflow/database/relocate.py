"""The embedded MLflow's database, copied while it is in use, and brought to another place with its artifacts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sweeps.errors import TrackingError
from sweeps.tracking.mlflow.database.base import BUSY_SECONDS

# Where MLflow keeps the absolute address of an artifact folder, of one within it, or of a model made of one.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


def snapshot(database: Path, copy: Path) -> None:
    """Copy a database as it is at one moment, whoever writes to it.

    Raises:
        TrackingError: it cannot be read.
    """
    try:
        with (
            closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            # One file that needs no log beside it; the first sweep that writes to it has a log again.
            target.execute("PRAGMA journal_mode = DELETE").fetchall()
            [[found]] = target.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        raise TrackingError(f"{database}: the database cannot be copied: {error}") from error
    if found != "ok":
        raise TrackingError(f"{database}: the database is damaged: {found}")


def relocate(database: Path, before: str, after: str) -> None:
    """Change the addresses of artifacts that are in one folder to another folder's, in one transaction.

    Raises:
        TrackingError: the database cannot be changed; it is as it was.
    """
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as connection, connection:
            for table, column in _ADDRESSES:
                query = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"
                if not connection.execute(query, (table, column)).fetchone():
                    continue  # another version of MLflow
                inside = f"{column} = ?1 OR substr({column}, 1, length(?1) + 1) = ?1 || '/'"
                connection.execute(
                    f"UPDATE {table} SET {column} = ?2 || substr({column}, length(?1) + 1) WHERE {inside}",
                    (before, after),
                )
    except sqlite3.Error as error:
        raise TrackingError(f"{database}: the artifacts' addresses cannot be changed: {error}") from error
