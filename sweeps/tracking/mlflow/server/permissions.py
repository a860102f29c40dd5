"""Access: what a tracking server that asks for a login lets us do, told in one line before anything is computed."""

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

_PERMISSION = "/api/3.0/mlflow/users/permissions/get"  # of MLflow's basic-auth app; other servers answer 404
_MAY_LOG = ("EDIT", "MANAGE")
_VARIABLES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def refusal(uri: str, error: Exception, wanted: str) -> TrackingError | None:
    """What to say of a server's answer 401 or 403; None of any other error.

    Args:
        uri: the server's.
        error: what MLflow's client made of the answer.
        wanted: what the call was to do, as in 'make experiments'.
    """
    code = getattr(error, "error_code", "")
    if code == "PERMISSION_DENIED":
        return TrackingError(f"{redact_uri(uri)}: {_user(uri)} may not {wanted}")
    if code != "UNAUTHENTICATED":
        return None
    if not os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return TrackingError(f"{redact_uri(uri)}: the tracking server asks for a login: set {_VARIABLES}")
    return TrackingError(
        f"{redact_uri(uri)}: the tracking server refuses {_user(uri)} or the password: see {_VARIABLES}"
    )


def check_may_log(uri: str, experiment: Experiment) -> None:
    """Whether the user may log to an experiment, as far as the server can be asked.

    Raises:
        TrackingError: the user may look only.
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
        return  # a server that does not know the question: logging will show
    if permission is not None and permission not in _MAY_LOG:
        raise TrackingError(
            f"{redact_uri(uri)}: {_user(uri)} may look at the experiment {experiment.name!r}, but not log to it"
        )


def _user(uri: str) -> str:
    name = get_default_host_creds(uri).username  # type: ignore[no-untyped-call]
    return f"the user {name!r}" if name else "this login"
