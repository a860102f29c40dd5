"""Guard: which writer logs a sweep, and why; bulk only where MLflow's tables are those that it was tested on."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sweeps.config import WriterName
from sweeps.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.entities import Experiment

TESTED_MLFLOW = ("3.17.2",)  # with any other one a canary goes first
FINGERPRINTS = ("eb695c29fce1cc2b",)  # of TABLES, as in the tested ones
TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")  # that the bulk writer writes


@dataclass(frozen=True)
class Choice:
    """A writer, and why it was chosen."""

    name: Literal["bulk", "client"]
    reason: str


def choose(uri: str, writer: WriterName) -> Choice:
    """The writer for a tracking URI whose database, if it is one, MLflow has just opened.

    Raises:
        TrackingError: ``bulk`` is asked for and not safe there.
    """
    if writer == "client":
        return Choice("client", "as tracking.writer says")
    return _chosen(_objection(uri), writer)


def for_experiment(choice: Choice, writer: WriterName, experiment: Experiment) -> Choice:
    """The choice, now that the experiment is known.

    Raises:
        TrackingError: ``bulk`` is asked for and not safe there.
    """
    workspace = getattr(experiment, "workspace", None)
    if choice.name == "client" or workspace in (None, "default"):
        return choice
    return _chosen(f"the experiment {experiment.name!r} is in the workspace {workspace!r}", writer)


def database_path(uri: str) -> Path:
    """The file of an SQLite URI."""
    from sqlalchemy.engine import make_url

    return Path(str(make_url(uri).database)).absolute()


def fingerprint(connection: sqlite3.Connection) -> str:
    """A hash of the columns, keys, indices and triggers of TABLES: what an insert depends on."""
    facts = []
    for table in TABLES:
        columns = connection.execute(
            'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_info(?) ORDER BY name', (table,)
        ).fetchall()
        indices = connection.execute(
            'SELECT i.name, i."unique", c.name FROM pragma_index_list(?) AS i, pragma_index_info(i.name) AS c'
            " ORDER BY i.name, c.seqno",
            (table,),
        ).fetchall()
        references = connection.execute(
            'SELECT "table", "from", "to" FROM pragma_foreign_key_list(?)', (table,)
        ).fetchall()
        triggers = connection.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?", (table,)
        ).fetchall()
        facts.append((table, columns, indices, sorted(references), sorted(triggers)))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _chosen(objection: str | None, writer: WriterName) -> Choice:
    if objection is None:
        return Choice("bulk", f"MLflow's tables are as tested; {_version()}")
    if writer == "bulk":
        raise TrackingError(f"tracking.writer: bulk cannot be used: {objection}; use auto or client")
    return Choice("client", objection)


def _objection(uri: str) -> str | None:
    """Why the bulk writer must not be used; None if it may be."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
        dialect = url.get_backend_name()
    except ArgumentError:
        dialect = ""  # a folder, or a name that only MLflow knows
    if dialect in ("postgresql", "mysql", "mssql"):
        return f"bulk writes into SQLite so far, not into {dialect}"
    if dialect != "sqlite":
        return "bulk writes into a database, and the tracking URI is not one's"
    if url.get_driver_name() != "pysqlite" or url.query or str(url.database).startswith("file:"):
        return "the SQLite URI has options"
    with closing(sqlite3.connect(f"{database_path(uri).as_uri()}?mode=ro", uri=True)) as connection:
        return _table_objection(connection) or _version_objection()


def _table_objection(connection: sqlite3.Connection) -> str | None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    revisions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    newest = _get_latest_schema_revision()  # type: ignore[no-untyped-call]
    if revisions != [newest]:
        return f"the database has MLflow's schema {', '.join(revisions)}, the installed MLflow has {newest}"
    found = fingerprint(connection)
    if found not in FINGERPRINTS:
        return f"MLflow's tables are not as tested (fingerprint {found})"
    return None


def _version_objection() -> str | None:
    from mlflow.version import VERSION

    if VERSION in TESTED_MLFLOW:
        return None
    from sweeps.tracking.canary import differences

    found = differences()
    return f"with MLflow {VERSION} it writes other rows than the public client: {found}" if found else None


def _version() -> str:
    from mlflow.version import VERSION

    return f"MLflow {VERSION}" if VERSION in TESTED_MLFLOW else f"MLflow {VERSION}, tried on a scratch database"
