"""Dumps of the PostgreSQL database behind a tracking server, by PostgreSQL's own pg_dump and pg_restore."""

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
    """Write a database, as it is at one moment, in pg_dump's custom format.

    Raises:
        TrackingError: it is not in PostgreSQL, pg_dump is not there, or it fails.
    """
    _postgres(uri)
    _run("pg_dump", uri, "--format=custom", "--no-owner", "--no-privileges", f"--file={path}")


def restore_dump(path: Path, uri: str) -> None:
    """Fill an empty database in one transaction.

    Raises:
        TrackingError: it holds tables, pg_restore is not there, or it fails.
    """
    with closing(_postgres(uri).connect()) as connection:
        if connection.tables():
            raise TrackingError(f"{redact_uri(uri)}: the database is not empty; restore into a new one")
    _run("pg_restore", uri, "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", str(path))


def _postgres(uri: str) -> PostgresDatabase:
    found = opened(uri)
    if not isinstance(found, PostgresDatabase):
        raise TrackingError(
            f"{redact_uri(uri)}: only PostgreSQL's databases are dumped; a store's own is in its backup"
        )
    return found


def _run(program: str, uri: str, *arguments: str) -> None:
    from sqlalchemy.engine import make_url

    path = shutil.which(program)
    if path is None:
        raise TrackingError(f"{program} is needed; it comes with PostgreSQL's client (Debian: postgresql-client)")
    url = make_url(uri).set(drivername="postgresql")
    # Arguments can be seen by everybody on the machine: the password goes by the environment.
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
