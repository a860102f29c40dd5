"""Dump and restore the PostgreSQL database of a tracking server with pg_dump and pg_restore."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

from sweeps.errors import TrackingError
from sweeps.text.redact import redact_uri
from sweeps.tracking.mlflow.database.connect import opened
from sweeps.tracking.mlflow.database.postgres import PostgresDatabase


def dump(uri: str, path: Path) -> None:
    """Write a consistent dump of a database in pg_dump's custom format.

    Raises:
        TrackingError: the database is not in PostgreSQL, or pg_dump is missing or fails.
    """
    _postgres(uri)
    _run("pg_dump", uri, "--format=custom", "--no-owner", "--no-privileges", f"--file={path}")


def restore_dump(path: Path, uri: str) -> None:
    """Restore a dump into an empty database in one transaction.

    Raises:
        TrackingError: the database is not empty, or pg_restore is missing or fails.
    """
    with closing(_postgres(uri).connect()) as connection:
        if connection.tables():
            raise TrackingError(f"{redact_uri(uri)}: the database is not empty; restore into a new one")
    _run("pg_restore", uri, "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", str(path))


def _postgres(uri: str) -> PostgresDatabase:
    found = opened(uri)
    if not isinstance(found, PostgresDatabase):
        raise TrackingError(
            f"{redact_uri(uri)}: only PostgreSQL databases can be dumped; a store's own database is in its backup"
        )
    return found


def _run(program: str, uri: str, *arguments: str) -> None:
    from sqlalchemy.engine import make_url

    path = shutil.which(program)
    if path is None:
        raise TrackingError(f"{program} not found; install PostgreSQL's client (Debian: postgresql-client)")
    url = make_url(uri).set(drivername="postgresql")
    # All users of the machine can read arguments, so the password is passed in the environment.
    shown = url._replace(password=None).render_as_string()
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    done = subprocess.run(
        [path, f"--dbname={shown}", "--no-password", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise TrackingError(f"{redact_uri(uri)}: {redact_uri(reason)}")
