"""Connect: the database of a URI, for the bulk writer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sweeps.errors import TrackingError

if TYPE_CHECKING:
    pass
from sweeps.tracking.mlflow.database.base import Database


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
