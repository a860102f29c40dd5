"""Find the database of a URI for the bulk writer."""

from __future__ import annotations

from pathlib import Path

from sweeps.errors import TrackingError
from sweeps.tracking.mlflow.database.base import Database


def database_at(uri: str) -> Database | str:
    """Return the database of an SQLAlchemy URI, or the reason why the bulk writer cannot use it."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
        dialect = url.get_backend_name()
    except ArgumentError:
        dialect = ""  # a folder, or a scheme that only MLflow knows
    if dialect == "sqlite":
        from sweeps.tracking.mlflow.database import sqlite

        return sqlite.at(url)
    if dialect == "postgresql":
        from sweeps.tracking.mlflow.database import postgres

        return postgres.at(url)
    if dialect in ("mysql", "mssql"):
        return f"the bulk writer supports SQLite and PostgreSQL, not {dialect}"
    return "the bulk writer needs a database, and the tracking URI is not that of one"


def opened(uri: str) -> Database:
    """Return the database of a URI.

    Raises:
        TrackingError: the bulk writer cannot use it.
    """
    found = database_at(uri)
    if isinstance(found, str):
        raise TrackingError(found)
    return found


def sqlite_file(uri: str) -> Path | None:
    """Return the path in the URI of an SQLite file; None if the URI is another one, has options or is in memory."""
    if not uri.startswith(("sqlite:///", "sqlite+pysqlite:///")):
        return None
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    is_file = url.database and not url.query and not url.database.startswith((":memory:", "file:"))
    return Path(url.database).absolute() if is_file and url.database else None
