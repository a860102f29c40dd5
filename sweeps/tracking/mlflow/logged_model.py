"""Log the best trial's model to MLflow once, with its public client, and optionally register it."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.tracking.base import ModelPlace
from sweeps.tracking.names import SWEEP_ID, TRIAL_ID

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

    from sweeps.tracking.base import BestModel

MODEL_NAME = "best-model"
_SURVEY = "warn_dependency_requirement_mismatches"
_PREDICTOR = Path(__file__).with_name("pyfunc_model.py")


def log_model(
    client: MlflowClient, experiment_id: str, run_id: str, sweep_id: str, model: BestModel, register: str | None
) -> ModelPlace:
    """Log a model to a run, or complete a partially logged model.

    Args:
        client: MLflow's client.
        experiment_id: Experiment of the run.
        run_id: The run that the model is an output of, if the model is not logged yet.
        sweep_id: The sweep whose best model it is.
        model: The model.
        register: Name of the registered model to add a version to; None does not register it.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    there = _logged(client, experiment_id, sweep_id, model)
    if there is None:
        tags = {SWEEP_ID: sweep_id, TRIAL_ID: model.trial_id}
        there = client.create_logged_model(experiment_id, MODEL_NAME, run_id, tags, model.params, "sgd-sweeps")
    if there.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory(prefix="sweeps-model-") as folder:
            path = Path(folder) / "model"
            with warnings.catch_warnings(), _without_survey():
                warnings.simplefilter("ignore")  # MLflow warns about its own type hints and use of pandas
                _save(model, path, there, Path(folder))
            client.log_model_artifacts(there.model_id, str(path))
        client.finalize_logged_model(there.model_id, LoggedModelStatus.READY)
    run_id = there.source_run_id or run_id
    outputs = client.get_run(run_id).outputs
    if not any(output.model_id == there.model_id for output in (outputs.model_outputs if outputs else ())):
        client.log_outputs(run_id, [LoggedModelOutput(there.model_id, 0)])
    version = _registered(client, there, run_id, register) if register else None
    return ModelPlace(there.model_id, experiment_id, register, version)


def _logged(client: MlflowClient, experiment_id: str, sweep_id: str, model: BestModel) -> LoggedModel | None:
    """Return the model logged by an earlier attempt, preferring a complete one; None if there is none."""
    named = f"tags.`{SWEEP_ID}` = '{sweep_id}' AND tags.`{TRIAL_ID}` = '{model.trial_id}'"
    found = client.search_logged_models([experiment_id], named)
    return min(found, key=lambda there: (str(there.status) != "READY", there.creation_timestamp), default=None)


def _save(model: BestModel, path: Path, there: LoggedModel, scratch: Path) -> None:
    """Save an MLflow model from code to a folder; nothing in it is pickled."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, infer_signature
    from mlflow.version import VERSION

    data = scratch / "data"
    data.mkdir()
    np.savez(data / "arrays.npz", **model.arrays)  # type: ignore[arg-type, unused-ignore]
    (data / "model.json").write_text(json.dumps(model.settings, indent=2), encoding="utf-8")
    for place, file in model.code.items():
        target = scratch / "code" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    example = pd.DataFrame(model.example, columns=model.settings["features"])
    example = example.loc[:, ~example.columns.duplicated()]
    pyfunc.save_model(
        path,
        python_model=str(_PREDICTOR),
        artifacts={"model": str(data)},
        code_paths=[str(top) for top in sorted((scratch / "code").iterdir())] if model.code else None,
        signature=infer_signature(example, _predictions(model, len(example))),
        input_example=example,
        pip_requirements=[f"mlflow=={VERSION}", *model.requirements],
        mlflow_model=Model(
            artifact_path=there.artifact_location,
            model_uuid=there.model_id,
            run_id=there.source_run_id,
            model_id=there.model_id,
        ),
    )
    for cache in path.rglob("__pycache__"):
        shutil.rmtree(cache)


def _predictions(model: BestModel, rows: int) -> Any:
    """Return predictions of zero: one per row, or a table if the model has several columns of predictions."""
    import pandas as pd

    columns = model.settings.get("columns")
    return pd.DataFrame(np.zeros((rows, len(columns))), columns=columns) if columns else np.zeros(rows)


@contextmanager
def _without_survey() -> Iterator[None]:
    """Skip MLflow's check of the requirements, which reads the files of all installed packages.

    The requirements are the versions that this process runs with. A version of MLflow without this function is slower,
    not wrong.
    """
    from mlflow.utils import environment

    survey = getattr(environment, _SURVEY, None)
    if survey is None:
        yield
        return
    setattr(environment, _SURVEY, lambda requirements: None)
    try:
        yield
    finally:
        setattr(environment, _SURVEY, survey)


def _registered(client: MlflowClient, there: LoggedModel, run_id: str, name: str) -> str:
    """Return the version of the registered model for this model; create it if it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == name and version.tags.get(TRIAL_ID) == there.tags[TRIAL_ID]:
            return str(version.version)
    tags = {key: there.tags[key] for key in (SWEEP_ID, TRIAL_ID)}
    made = client.create_model_version(name, there.artifact_location, run_id, tags=tags, model_id=there.model_id)
    return str(made.version)
