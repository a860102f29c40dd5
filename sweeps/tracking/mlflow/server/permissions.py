"""Check early what a user may do on a tracking server that requires a login, with one-line errors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from sweeps.errors import TrackingError
from sweeps.text.redact import redact_uri

if TYPE_CHECKING:
    from mlflow.entities import Experiment

_PERMISSION = "/api/3.0/mlflow/users/permissions/get"  # provided by MLflow's basic-auth app; other servers return 404
_MAY_LOG = ("EDIT", "MANAGE")
_VARIABLES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def refusal(uri: str, error: Exception, wanted: str) -> TrackingError | None:
    """Convert HTTP errors 401 and 403 to a TrackingError; return None for any other error.

    Args:
        uri: URI of the server.
        error: The error raised by MLflow's client.
        wanted: What the call was meant to do, such as 'create experiments'.
    """
    code = getattr(error, "error_code", "")
    if code == "PERMISSION_DENIED":
        return TrackingError(f"{redact_uri(uri)}: {_user(uri)} is not allowed to {wanted}")
    if code != "UNAUTHENTICATED":
        return None
    if not os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return TrackingError(f"{redact_uri(uri)}: the tracking server requires a login: set {_VARIABLES}")
    return TrackingError(
        f"{redact_uri(uri)}: the tracking server rejects {_user(uri)} or the password: check {_VARIABLES}"
    )


def check_may_log(uri: str, experiment: Experiment) -> None:
    """Check that the user is allowed to log to an experiment, if the server can tell.

    Raises:
        TrackingError: the user has read access only.
    """
    credentials = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    if not credentials.username:
        return
    asked = {
        "username": credentials.username,
        "resource_type": "experiment",
        "resource_id": experiment.experiment_id,
    }
    try:
        answer = http_request(credentials, _PERMISSION, "GET", params=asked, raise_on_status=False)  # type: ignore[no-untyped-call]
        permission = answer.json()["permission"] if answer.status_code == 200 else None
    except (MlflowException, ValueError, KeyError, TypeError):
        return  # the server does not have this endpoint, so logging will show
    if permission is not None and permission not in _MAY_LOG:
        raise TrackingError(
            f"{redact_uri(uri)}: {_user(uri)} can read the experiment {experiment.name!r}, but not log to it"
        )


def _user(uri: str) -> str:
    name = get_default_host_creds(uri).username  # type: ignore[no-untyped-call]
    return f"the user {name!r}" if name else "this login"
