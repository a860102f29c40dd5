"""Factories for the tracker and the executor of a command."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from sweeps.errors import TrackingError
from sweeps.execution.executor import Executor
from sweeps.store.store import Store, SweepFiles
from sweeps.text.redact import REDACTED, redact_uri
from sweeps.text.uris import absolute_uri
from sweeps.tracking.mlflow.connection import is_server

if TYPE_CHECKING:
    from sweeps.tracking.mlflow.tracker import MlflowTracker

AUTO_SECONDS = 10.0  # starting Ray takes about half of that


def tracker_for(
    store: Store, uri: str | None, files: SweepFiles | None = None, database: str | None = None
) -> MlflowTracker:
    """Return the tracker for a URI; by default for the sweep's earlier URI, else for the store's embedded MLflow.

    Args:
        store: the store whose embedded MLflow is the default.
        uri: the tracking URI.
        files: the sweep, if it was logged before.
        database: the URI of the tracking server's database, or $NAME of a variable that holds it; ignored if ``uri``
            is not a server.

    Raises:
        TrackingError: the earlier URI had a password, which is not stored, or its file does not exist; the database's
            variable is not set or holds no database URI; or a shared store, which has no embedded MLflow, is used
            without a URI.
    """
    from sweeps.tracking.mlflow.tracker import MlflowTracker

    place = files.tracking_record.first() if files else {}
    known = place.get("uri")
    own = None if store.is_shared else redact_uri(store.tracking_uri)
    if uri is None and known not in (None, own):
        if REDACTED in known:
            raise TrackingError(f"the sweep is logged to {known}; pass this URI with its password as --tracking-uri")
        uri = known
        if "run_id" in place and (path := MlflowTracker(absolute_uri(uri)).missing_file) is not None:
            raise TrackingError(
                f"{path}: the database that the sweep was logged to does not exist; pass --tracking-uri"
            )
    if uri is None:
        return MlflowTracker(store.tracking_uri, store.artifacts)
    return MlflowTracker(absolute_uri(uri), None, database_uri(database) if database and is_server(uri) else None)


def database_uri(given: str) -> str:
    """Return the URI of a database, given as such or as $NAME of a variable that holds it.

    Raises:
        TrackingError: the variable is not set, or the value is not a database URI.
    """
    name = given.removeprefix("$")
    uri = given if name == given else os.environ.get(name)
    if not uri:
        raise TrackingError(f"tracking.database: the environment variable {name} is not set")
    if not re.match(r"(postgresql|sqlite)(\+\w+)?://", uri):
        raise TrackingError("tracking.database: must be a postgresql:// or sqlite:/// URI")
    return uri


def chosen_executor(kind: str, address: str | None, seconds: float) -> tuple[str, str]:
    """Return the name of the executor, ``inline`` or ``ray``, and why ``auto`` chooses it; no reason for the others.

    Args:
        kind: ``auto``, ``inline`` or ``ray``.
        address: the address of a Ray cluster, if one is given.
        seconds: the predicted work on one core (sweeps.planning.work).
    """
    if kind != "auto":
        return kind, ""
    if address is not None:
        return "ray", f"joining {address}"
    work = "under a second" if seconds < 1 else f"about {seconds:,.0f} s"
    if seconds < AUTO_SECONDS:
        return "inline", f"{work} of work on one core; from {AUTO_SECONDS:.0f} s on, a local Ray"
    return "ray", f"{work} of work on one core"


def executor_for(kind: str, address: str | None) -> Executor:
    """Return the executor with this name, ``inline`` or ``ray``."""
    if kind == "inline":
        from sweeps.execution.inline import InlineExecutor

        return InlineExecutor()
    from sweeps.execution.ray import RayExecutor

    return RayExecutor(None if address == "local" else address)  # Ray's word for a cluster of its own
