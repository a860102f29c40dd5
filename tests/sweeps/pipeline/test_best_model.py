"""The best trial's model in MLflow: it loads anywhere, predicts as the engine's parameters do, and is there once."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from sgdcore.tasks.initialisation import initialised
from sweeps.config.schema import SweepConfig
from sweeps.errors import ConfigError
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import SweepOutcome
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support.doubles import Silent

MakePrepared = Callable[..., PreparedSweep]
LOAD = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
example = model.input_example
table = pandas.read_csv(sys.argv[3], float_precision="round_trip")
one = [float(model.predict(table.iloc[[row]])[0]) for row in range(3)]
assert not [name for name in sys.modules if name.startswith(("sweeps", "sgdcore"))]
print(json.dumps({
    "predicted": [float(y).hex() for y in model.predict(table)], "one": [y.hex() for y in one],
    "example": list(example.columns), "inputs": model.metadata.signature.inputs.input_names(),
}))
"""


def tracked(store: Store, prepared: PreparedSweep) -> tuple[SweepFiles, SweepOutcome]:
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    publish(outcome, tracker)
    assert outcome.tracking_error is None
    return files, outcome


def models(store: Store, name: str = "small") -> list[LoggedModel]:
    client = MlflowClient(store.tracking_uri)
    return list(client.search_logged_models([client.get_experiment_by_name(name).experiment_id]))


def loaded(store: Store, uri: str, table: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """What a fresh process that knows nothing of this project makes of the model."""
    given = folder / "table.csv"
    table.to_csv(given, index=False)
    command = [sys.executable, "-I", "-c", LOAD, store.tracking_uri, uri, str(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def best_row(files: SweepFiles) -> dict[str, Any]:
    rows = [row for table in files.shards.tables() for row in table.to_pylist() if row["verdict"] != "diverged"]
    return min(rows, key=lambda row: (row["final_loss"], row["trial"]))


CASES: dict[str, dict[str, Any]] = {
    "linear": {
        "task": {"dataset": {"kind": "csv", "path": "data.csv", "target": "y", "standardize": "all"}},
        "parameters": {"lr": {"values": [0.01, 0.05]}},
    },
    "polynomial": {
        "task": {"dataset": {"kind": "sine", "n": 12}, "model": {"kind": "polynomial", "degree": 3}},
        "parameters": {"lr": {"values": [1e-4, 1e-3]}},
    },
    "mlp": {
        "task": {
            "dataset": {"kind": "csv", "path": "data.csv", "target": "y", "standardize": "features"},
            "model": {"kind": "mlp", "hidden": [4], "activation": "tanh"},
        },
        "parameters": {"lr": {"values": [0.01, 0.05]}},
        "training": {"epochs": 4, "batch_size": 4},
    },
    "module": {
        "task": {
            "dataset": {"kind": "csv", "path": "data.csv", "target": "y"},
            "model": {"kind": "module", "module": "my_network_of_a_test:make", "arguments": {"hidden": 3}},
        },
        "parameters": {"lr": {"values": [1e-4, 1e-3]}},
        "training": {"epochs": 2, "dtype": "float64"},
    },
}
MODULE = """
from torch import nn

def make(hidden):
    return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1))
"""


def predictions(prepared: PreparedSweep, row: dict[str, Any], raw: np.ndarray) -> list[float]:
    """What the engine's parameters predict: a linear model in Python's own floats, a network as torch's module."""
    data, dtype = prepared.config.task.dataset, prepared.config.training.dtype
    inputs, shift, scale, y_shift, y_scale = raw, 0.0, 1.0, 0.0, 1.0
    if data.standardize != "none":
        whole = pd.read_csv(data.path).to_numpy()
        shift, scale = whole[:, :-1].mean(axis=0), whole[:, :-1].std(axis=0)
        if data.standardize == "all":
            y_shift, y_scale = whole[:, -1].mean(), whole[:, -1].std()
    features = prepared.task.model.features((inputs - shift) / scale).astype(dtype)
    if not prepared.task.model.linear:
        module = initialised(prepared.task.model, features.shape[1], row["seed"], dtype)
        torch.nn.utils.vector_to_parameters(
            torch.tensor(row["final"], dtype=getattr(torch, dtype)), module.parameters()
        )
        with torch.no_grad():
            found = module(torch.from_numpy(features)).reshape(-1).double().tolist()
    else:
        *weights, bias = row["final"]
        found = []
        for sample in features.astype(np.float64).tolist():
            total = 0.0
            for x, weight in zip(sample, weights, strict=True):
                total += x * weight
            found.append(total + bias)
    return [y * float(y_scale) + float(y_shift) for y in found]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CASES))
def test_it_predicts_from_raw_features_what_the_engines_parameters_predict(
    kind: str, store: Store, make_config: Callable[..., SweepConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"größe": random.normal(3, 2, 9), "a <b>": random.normal(-1, 9, 9)})
    table.assign(y=table["größe"] * 2 - table["a <b>"] + random.normal(0, 1, 9)).to_csv(
        tmp_path / "data.csv", index=False
    )
    (tmp_path / "my_network_of_a_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    prepared = prepare(make_config(tracking={"model": "best"}, **CASES[kind]))
    files, _ = tracked(store, prepared)
    if kind == "polynomial":
        table = pd.DataFrame({"x": [-1.25, 0.5, 3.0]})
    [model] = models(store)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = loaded(store, f"models:/{model.model_id}", table, elsewhere)
    row = best_row(files)
    assert model.tags["sweeps.trial_id"] == row["trial_id"]
    assert model.params["lr"] == str(row["lr"])
    expected = predictions(prepared, row, table.to_numpy())
    assert found["predicted"] == [y.hex() for y in expected]
    assert found["example"] == found["inputs"] == list(table.columns)
    if prepared.task.model.linear:
        assert found["one"] == found["predicted"][:3]  # whatever stands beside a row
    run_of_best = MlflowClient(store.tracking_uri).get_run(model.source_run_id)
    assert run_of_best.info.run_name == f"trial {row['trial']}"
    assert [output.model_id for output in run_of_best.outputs.model_outputs] == [model.model_id]


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.mark.slow
@pytest.mark.parametrize("at", ["log_model_artifacts", "finalize_logged_model", "log_outputs", "create_model_version"])
def test_it_is_logged_and_registered_once_whatever_is_killed_in_between(
    at: str, store: Store, make_prepared: MakePrepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = {"model": "best", "trials": "none", "register": True, "writer": "client"}
    prepared = make_prepared(name="a/b: <i>", tracking=tracking)
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    with monkeypatch.context() as patch:

        def kill(*_: object, **__: object) -> None:
            raise Killed

        patch.setattr(tracker.client, at, kill)
        with pytest.raises(Killed):
            publish(outcome, tracker)
    for _ in range(2):
        again = MlflowTracker(store.tracking_uri, store.artifacts)
        outcome = resume(files, InlineExecutor(), again, Silent())
        publish(outcome, again)
        assert outcome.tracking_error is None
    [model] = models(store, "a/b: <i>")
    client = MlflowClient(store.tracking_uri)
    [version] = client.search_model_versions("name = 'a-b- <i>'")
    assert version.source == model.artifact_location
    parent = client.get_run(model.source_run_id)  # no trial has a run of its own
    assert parent.data.tags["sweeps.kind"] == "sweep"
    assert len(parent.outputs.model_outputs) == 1
    assert verify(files, MlflowTracker(store.tracking_uri, store.artifacts), sample=2).differences == []


def test_a_fault_of_it_loses_nothing_and_resume_logs_it(
    store: Store, make_prepared: MakePrepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = make_prepared(tracking={"model": "best"})
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no room for models")

    monkeypatch.setattr(tracker.client, "log_model_artifacts", refuse)
    publish(outcome, tracker)
    assert "no room for models" in str(outcome.tracking_error)
    assert files.state() == "computed"
    again = MlflowTracker(store.tracking_uri, store.artifacts)
    outcome = resume(files, InlineExecutor(), again, Silent())
    publish(outcome, again)
    assert files.tracking_record.first()["complete"]
    assert [str(model.status) for model in models(store)] == ["READY"]


def test_its_requirements_are_known_and_not_inferred(
    store: Store, make_prepared: MakePrepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would read the files of all installed packages, which takes most of the time of a small sweep's model."""

    surveys: list[str] = []
    monkeypatch.setattr("importlib_metadata.packages_distributions", lambda: surveys.append("") or {})
    monkeypatch.setattr("mlflow.utils.requirements_utils._MODULES_TO_PACKAGES", None)
    tracked(store, make_prepared(tracking={"model": "best"}))
    assert not surveys
    [model] = models(store)
    path = Path(mlflow.artifacts.download_artifacts(f"{model.artifact_location}/requirements.txt"))
    assert path.read_text().split() == [
        f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "numpy", "pandas")
    ]


def test_none_is_logged_where_none_is_asked_for(store: Store, make_prepared: MakePrepared) -> None:
    tracked(store, make_prepared(tracking={"model": "none"}))
    assert models(store) == []


@pytest.mark.parametrize(
    ("tracking", "problem"),
    [
        ({"register": "a/b"}, "tracking.register: .*true, false or a model name without / and :"),
        ({"register": 1}, "tracking.register: .*true, false or a model name"),
        ({"model": "all"}, "tracking.model"),
        ({"model": "none", "register": True}, "tracking.register: no model to register"),
    ],
)
def test_what_cannot_be_is_told(
    make_config: Callable[..., SweepConfig], tracking: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_config(tracking=tracking)
