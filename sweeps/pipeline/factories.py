"""Factories: the tracker and the executor that a command asks for."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from sweeps.errors import TrackingError
from sweeps.execution.executor import Executor
from sweeps.store.store import Store, SweepFiles
from sweeps.text.redact import REDACTED, redact_uri
from sweeps.tracking.mlflow.connection import is_server

if TYPE_CHECKING:
    from sweeps.tracking.mlflow.tracker import MlflowTracker


def tracker_for(
    store: Store, uri: str | None, files: SweepFiles | None = None, database: str | None = None
) -> MlflowTracker:
    """The tracker of a URI: by default where the sweep was tracked before, else the store's embedded MLflow.

    Args:
        store: whose MLflow it is by default.
        uri: where to.
        files: the sweep, if it was tracked before.
        database: the URI of the database behind the tracking server, or the variable that holds it, as $NAME; of no
            use, and so not looked at, where there is no server.

    Raises:
        TrackingError: the sweep was tracked at a URI with a password, which is not kept; or there is no such variable,
            or no such URI in it; or the store has no MLflow of its own, and none is named.
    """
    from sweeps.tracking.mlflow.tracker import MlflowTracker

    known = files.tracking_record.first().get("uri") if files else None
    own = None if store.is_shared else redact_uri(store.tracking_uri)
    if uri is None and known not in (None, own):
        if REDACTED in known:
            raise TrackingError(f"the sweep is tracked at {known}: pass it again with its password (--tracking-uri)")
        uri = known
    if uri is None:
        return MlflowTracker(store.tracking_uri, store.artifacts)
    return MlflowTracker(uri, None, database_uri(database) if database and is_server(uri) else None)


def database_uri(given: str) -> str:
    """The URI of a database: as given, or what the variable holds whose name is given as $NAME.

    Raises:
        TrackingError: there is no such variable, or no such URI in it.
    """
    name = given.removeprefix("$")
    uri = given if name == given else os.environ.get(name)
    if not uri:
        raise TrackingError(f"tracking.database: the environment variable {name} is not set")
    if not re.match(r"(postgresql|sqlite)(\+\w+)?://", uri):
        raise TrackingError("tracking.database: a postgresql:// or sqlite:/// URI is needed")
    return uri


def executor_for(kind: str, address: str | None) -> Executor:
    """The executor of a name."""
    if kind == "inline":
        from sweeps.execution.inline import InlineExecutor

        return InlineExecutor()
    from sweeps.execution.ray import RayExecutor

    return RayExecutor(address)
