"""Copy a store's own MLflow database while it is in use, and change its artifact addresses."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sweeps.errors import TrackingError
from sweeps.tracking.mlflow.database.base import BUSY_SECONDS

# Columns in which MLflow stores the absolute address of an artifact folder, a subfolder or a model.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)


def snapshot(database: Path, copy: Path) -> None:
    """Copy a consistent snapshot of a database, even while others write to it.

    Raises:
        TrackingError: the database cannot be read or is damaged.
    """
    try:
        with (
            closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            # Store the copy as a single file without a write-ahead log; the next sweep that writes to it adds one.
            target.execute("PRAGMA journal_mode = DELETE").fetchall()
            [[found]] = target.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        raise TrackingError(f"{database}: the database cannot be copied: {error}") from error
    if found != "ok":
        raise TrackingError(f"{database}: the database is damaged: {found}")


def relocate(database: Path, before: str, after: str) -> None:
    """Replace the folder ``before`` with ``after`` in all artifact addresses, in one transaction.

    Raises:
        TrackingError: the database cannot be changed; it is left unchanged.
    """
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as connection, connection:
            for table, column in _ADDRESSES:
                query = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"
                if not connection.execute(query, (table, column)).fetchone():
                    continue  # this version of MLflow does not have the column
                inside = f"{column} = ?1 OR substr({column}, 1, length(?1) + 1) = ?1 || '/'"
                connection.execute(
                    f"UPDATE {table} SET {column} = ?2 || substr({column}, length(?1) + 1) WHERE {inside}",
                    (before, after),
                )
    except sqlite3.Error as error:
        raise TrackingError(f"{database}: the artifact addresses cannot be changed: {error}") from error
