"""Find or create the MLflow experiment of a sweep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

# Otherwise MLflow's UI guesses the kind. MLflow 3.17 ignores it and follows the switch saved in the browser.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


def find_or_create(client: MlflowClient, name: str, artifacts: Path | None, uri: str) -> Experiment:
    """Return the experiment with a name; create it if it does not exist.

    Args:
        client: MLflow's client.
        name: Name of the experiment.
        artifacts: Artifact folder of a new experiment; None leaves the choice to the server.
        uri: Tracking URI, for messages.

    Raises:
        TrackingError: the experiment is deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = f"{artifacts.as_uri()}/{_slug(name)}" if artifacts else None
        return client.get_experiment(client.create_experiment(name, location, _KIND))
    return usable(experiment, uri)


def usable(experiment: Experiment, uri: str) -> Experiment:
    """Return the experiment.

    Raises:
        TrackingError: it is deleted.
    """
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"{uri}: the experiment {experiment.name!r} is deleted; restore it, or name another one with 'experiment:'"
        )
    return experiment


def known_run(client: MlflowClient, run_id: str | None) -> Run | None:
    """Return the run with a stored id, deleted or not; None if the database does not have it."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # another database at the same address, or a run that 'mlflow gc' has removed
        raise


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "experiment"
