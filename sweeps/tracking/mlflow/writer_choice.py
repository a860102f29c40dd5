"""Choose the writer that logs a sweep; the bulk writer is used only with table schemas it was tested with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sweeps.config.schema import WriterName
from sweeps.errors import TrackingError
from sweeps.tracking.mlflow.database.base import Connection, Database
from sweeps.tracking.mlflow.database.connect import database_at

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

TESTED_MLFLOW = ("3.17.2",)  # with any other version, the self-test runs first


@dataclass(frozen=True)
class ChosenWriter:
    """The chosen writer, the reason, and the database that the bulk writer writes to."""

    name: Literal["bulk", "client"]
    reason: str
    database: Database | None = None


def choose(uri: str, writer: WriterName) -> ChosenWriter:
    """Choose the writer for a URI.

    Raises:
        TrackingError: ``bulk`` is requested but cannot be used safely.
    """
    if writer == "client":
        return ChosenWriter("client", "as requested")
    database = database_at(uri)
    if isinstance(database, str):
        return _chosen(database, writer)
    return _chosen(_objection(database), writer, database)


def for_run(choice: ChosenWriter, writer: WriterName, experiment: Experiment, parent: Run) -> ChosenWriter:
    """Revise the choice once the experiment and the parent run are known.

    Raises:
        TrackingError: ``bulk`` is requested but cannot be used safely.
    """
    if choice.database is None:
        return choice
    workspace = getattr(experiment, "workspace", None)
    if workspace not in (None, "default"):
        return _chosen(f"the experiment {experiment.name!r} is in the workspace {workspace!r}", writer)
    with closing(choice.database.connect()) as connection:
        query = "SELECT experiment_id FROM runs WHERE run_uuid = ?"
        if connection.query(query, parent.info.run_id) != [(int(experiment.experiment_id),)]:
            return _chosen("the database does not contain the run that the tracking server has just created", writer)
    return choice


def check_server(database: Database, experiments: Iterable[Experiment]) -> None:
    """Check that a database belongs to the tracking server that has these experiments.

    Raises:
        TrackingError: the database does not belong to the server.
    """
    with closing(database.connect()) as connection:
        for experiment in experiments:
            query = "SELECT name, creation_time FROM experiments WHERE experiment_id = ?"
            found = connection.query(query, int(experiment.experiment_id))
            if found != [(experiment.name, experiment.creation_time)]:
                raise TrackingError(
                    "tracking.database is not the database of the tracking server: "
                    f"the server's experiment {experiment.name!r} is not in it"
                )


def _chosen(objection: str | None, writer: WriterName, database: Database | None = None) -> ChosenWriter:
    if objection is None:
        return ChosenWriter("bulk", f"MLflow's tables are as tested; {_version()}", database)
    if writer == "bulk":
        raise TrackingError(f"tracking.writer: bulk cannot be used: {objection}; use auto or client")
    return ChosenWriter("client", objection)


def _objection(database: Database) -> str | None:
    """Return why the bulk writer must not be used; None if it is safe."""
    try:
        connection = database.connect()
    except TrackingError as error:  # the URI can have options that only MLflow's driver knows
        return str(error)
    with closing(connection):
        objection = _table_objection(connection, database.fingerprints) or connection.refusal()
    return objection or _version_objection(database)


def _table_objection(connection: Connection, fingerprints: tuple[str, ...]) -> str | None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    if "alembic_version" not in connection.tables():
        return "the database has no MLflow tables"
    revisions = [row[0] for row in connection.query("SELECT version_num FROM alembic_version")]
    newest = _get_latest_schema_revision()  # type: ignore[no-untyped-call]
    if revisions != [newest]:
        return f"the database has MLflow schema {', '.join(revisions)}, the installed MLflow needs {newest}"
    found = connection.fingerprint()
    if found not in fingerprints:
        return f"MLflow's tables are not as tested (fingerprint {found})"
    return None


def _version_objection(database: Database) -> str | None:
    from mlflow.version import VERSION

    if VERSION in TESTED_MLFLOW:
        return None
    from sweeps.tracking.mlflow.self_test import differences

    try:
        found = differences(database)
    except TrackingError as error:
        return f"MLflow {VERSION} is not a tested version, and {error}"
    return f"with MLflow {VERSION} it writes different rows than the public client: {found}" if found else None


def _version() -> str:
    from mlflow.version import VERSION

    return f"MLflow {VERSION}" if VERSION in TESTED_MLFLOW else f"MLflow {VERSION}, tested on a scratch database"
