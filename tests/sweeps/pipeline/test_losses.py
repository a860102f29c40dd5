"""Losses, weights and several targets from the sweep file to the logged model; torch and pandas judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from torch import nn

from sweeps.config.loader import parse
from sweeps.errors import ConfigError, DataError
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from sweeps.verification.differences import Audit
from sweeps.verification.replay import replay_trial
from sweeps.verification.sample_audit import sample_differences
from sweeps.verification.store_audit import store_differences
from tests.support.command_line import Cli
from tests.support.documents import document
from tests.support.doubles import Silent

COLUMNS = list("abc")
LOSSES: dict[str, dict[str, Any]] = {
    "mse": {},
    "mae": {},
    "huber": {"huber_delta": 0.7},
    "log_cosh": {},
    "quantile": {"quantile": 0.9},
    "poisson_nll": {},
    "gaussian_nll": {},
}


def gaussian(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    mean, raw = outputs.chunk(2, dim=1)
    return nn.functional.gaussian_nll_loss(mean, targets, nn.functional.softplus(raw), reduction="none")


BY_TORCH: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse": nn.MSELoss(reduction="none"),
    "mae": nn.L1Loss(reduction="none"),
    "huber": nn.HuberLoss(reduction="none", delta=0.7),
    "log_cosh": lambda p, y: torch.log(torch.cosh(p - y)),
    "quantile": lambda p, y: torch.where(y > p, 0.9 * (y - p), 0.1 * (p - y)),
    "poisson_nll": nn.PoissonNLLLoss(reduction="none"),
    "gaussian_nll": gaussian,
}


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    made = pd.DataFrame(rng.standard_normal((30, 3)), columns=COLUMNS)
    made["n1"], made["n2"] = rng.poisson(np.exp(made["a"])), rng.poisson(np.exp(made["b"] / 2))
    made["w"] = rng.uniform(0, 2, 30).round(2)
    made.to_csv(tmp_path / "d.csv", index=False)
    return made


def sweep(folder: Path, loss: str, dataset: dict[str, Any], model: dict[str, Any] | None = None, **keys: Any) -> Any:
    data = {"kind": "csv", "path": "d.csv", "features": COLUMNS} | dataset
    task = {"dataset": data, "model": model or {"kind": "linear"}, "loss": loss} | LOSSES.get(loss, {})
    given = {
        "training": {"epochs": 12, "batch_size": 7, "order": "shuffled"},
        "parameters": {"lr": {"values": [0.005, 0.02]}, "momentum": {"values": [0, 0.9]}},
        "execution": {"trials_per_shard": 3},
    }
    return prepare(parse(document(task=task, **(given | keys)), "c.yaml", folder))


@pytest.mark.parametrize("model", [{"kind": "linear"}, {"kind": "mlp", "hidden": [4]}], ids=["linear", "mlp"])
@pytest.mark.parametrize("dataset", [{"target": "n1"}, {"target": ["n1", "n2"], "weights": "w"}], ids=["one", "two"])
@pytest.mark.parametrize("loss", LOSSES)
def test_stored_trials_are_torchs(
    loss: str,
    dataset: dict[str, Any],
    model: dict[str, Any],
    table: pd.DataFrame,
    tmp_path: Path,
    stored: Callable[[PreparedSweep], SweepFiles],
) -> None:
    prepared = sweep(tmp_path, loss, dataset, model)
    files = stored(prepared)
    audit = Audit(files.sweep_id, trials=4, steps=prepared.plan.steps)
    assert list(store_differences(prepared, files, audit)) == []
    assert list(sample_differences(prepared, files, audit, np.random.default_rng(0), 4)) == []
    assert audit.recomputed == 4
    assert replay_trial(files, "1").agrees
    x = torch.tensor(table[COLUMNS].to_numpy())
    y = torch.tensor(table[list(prepared.config.task.dataset.targets)].to_numpy(float))
    w = torch.tensor(table["w"].to_numpy())[:, None] if "weights" in dataset else 1.0
    outputs = prepared.task.model.outputs
    for row in (row for shard in files.shards.tables() for row in shard.to_pylist()):
        net: nn.Module = nn.Linear(3, outputs)
        if model["kind"] == "mlp":
            net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, outputs))
        nn.utils.vector_to_parameters(torch.tensor(row["final"], dtype=torch.float64), net.double().parameters())
        expected = (w * BY_TORCH[loss](net(x), y)).mean().item()
        assert row["final_loss"] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", ["two weighted targets", "counts", "means and variances"])
def test_the_logged_model_predicts_every_target(case: str, table: pd.DataFrame, tmp_path: Path, store: Store) -> None:
    prepared = {
        "two weighted targets": lambda: sweep(
            tmp_path, "mse", {"target": ["n2", "n1"], "weights": "w", "standardize": "all"}, tracking={"model": "best"}
        ),
        "counts": lambda: sweep(tmp_path, "poisson_nll", {"target": "n1"}, tracking={"model": "best"}),
        "means and variances": lambda: sweep(
            tmp_path,
            "gaussian_nll",
            {"target": ["n1", "n2"], "standardize": "all"},
            {"kind": "mlp", "hidden": [4]},
            tracking={"model": "best"},
        ),
    }[case]()
    tracker = MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    publish(outcome, tracker)
    assert outcome.tracking_error is None
    assert verify(files, tracker, sample=2).differences == []
    client = MlflowClient(store.tracking_uri)
    [logged] = client.search_logged_models([client.get_experiment_by_name("small").experiment_id])
    mlflow.set_tracking_uri(store.tracking_uri)
    try:
        loaded = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
        predicted = loaded.predict(table[COLUMNS])
    finally:
        mlflow.set_tracking_uri(None)
    rows = [row for shard in files.shards.tables() for row in shard.to_pylist()]
    final = min(rows, key=lambda row: row["final_loss"])["final"]
    x = table[COLUMNS].to_numpy()
    if case == "counts":
        expected = np.exp(x @ final[:3] + final[3])
        np.testing.assert_allclose(predicted, expected, rtol=1e-6)
        return
    names = prepared.config.task.dataset.targets
    x, y = (x - x.mean(axis=0)) / x.std(axis=0), table[list(names)].to_numpy(float)
    moments = np.array([y.mean(axis=0), y.std(axis=0)])
    if case == "two weighted targets":
        expected = x @ np.reshape(final[:6], (2, 3)).T + final[6:]
        assert list(predicted.columns) == ["n2", "n1"] == loaded.metadata.signature.outputs.input_names()
        np.testing.assert_allclose(predicted, expected * moments[1] + moments[0], rtol=1e-5, atol=1e-6)
        return
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4)).double()
    nn.utils.vector_to_parameters(torch.tensor(final, dtype=torch.float64), net.parameters())
    means, raw = np.split(net(torch.tensor(x)).detach().numpy(), 2, axis=1)
    assert list(predicted.columns) == ["n1", "n2", "n1_variance", "n2_variance"]
    np.testing.assert_allclose(predicted[["n1", "n2"]], means * moments[1] + moments[0], rtol=1e-4, atol=1e-5)
    variances = np.log1p(np.exp(raw)) * moments[1] ** 2
    np.testing.assert_allclose(predicted[["n1_variance", "n2_variance"]], variances, rtol=1e-4)


def test_ids_depend_on_loss_options_targets_and_weights(table: pd.DataFrame, tmp_path: Path) -> None:
    def first_id(loss: str, dataset: dict[str, Any]) -> str:
        plan = sweep(tmp_path, loss, dataset).plan
        return plan.ids(plan.trials(0, 1))[0]

    one = first_id("mse", {"target": "n1"})
    assert first_id("mse", {"target": ["n1"]}) == one
    others = [
        first_id("mse", {"target": "n1", "weights": "w"}),
        first_id("mse", {"target": ["n1", "n2"]}),
        first_id("mse", {"target": ["n2", "n1"]}),
        *(first_id(loss, {"target": "n1"}) for loss in LOSSES if loss != "mse"),
    ]
    LOSSES["quantile"], before = {"quantile": 0.8}, LOSSES["quantile"]
    try:
        others.append(first_id("quantile", {"target": "n1"}))
    finally:
        LOSSES["quantile"] = before
    assert len({one, *others}) == len(others) + 1


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"loss": "quantile", "quantile": 1}, "task.quantile: given 1; must be < 1"),
        ({"loss": "quantile", "quantile": 0}, "task.quantile: given 0; must be > 0"),
        ({"loss": "mse", "quantile": 0.9}, "task: .*quantile belongs to loss quantile, not to mse"),
        ({"loss": "quantil"}, "task.loss: given 'quantil'; allowed: mse, mae, huber, log_cosh, quantile, poisson_nll"),
        ({"loss": "quantile", "alpha": 0.9}, "task.alpha: unknown key"),
        ({"dataset": {"target": ["n1", "a"]}}, "'a' is a target and cannot be a feature"),
        ({"dataset": {"target": ["n1", "n1"]}}, "target lists 'n1' more than once"),
        ({"dataset": {"target": []}}, r"task.dataset.target: given \[\]; must have at least one entry"),
        ({"dataset": {"target": ["n1", 3]}}, r"task.dataset.target\[1\]: given 3; must be text: put it in quotes"),
        ({"dataset": {"weights": "n1"}}, "'n1' is the target and cannot hold the weights"),
        ({"dataset": {"weights": "a"}}, "'a' holds the weights and cannot be a feature"),
        ({"dataset": {"weights": "v"}}, "no column 'v'; its columns are a, b, c, n1, n2, w"),
        ({"dataset": {"target": ["n1", "m"]}}, "no column 'm'; its columns are"),
        (
            {"dataset": {"weights": "b", "features": ["a"]}},
            r"line \d+, column 'b': the weight is -\d.*; weights",
        ),
        (
            {"dataset": {"target": "a", "features": ["b"]}, "loss": "poisson_nll"},
            "needs targets >= 0, such",
        ),
        (
            {"dataset": {"standardize": "all"}, "loss": "poisson_nll"},
            "poisson_nll needs targets >= 0, which dataset.standardize all shifts: set it to features",
        ),
    ],
)
def test_wrong_input_is_one_line(task: dict[str, Any], message: str, table: pd.DataFrame, tmp_path: Path) -> None:
    data = {"kind": "csv", "path": "d.csv", "target": "n1", "features": COLUMNS} | task.get("dataset", {})
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        prepare(parse(document(task=task | {"dataset": data}, parameters={"lr": [0.1]}), "c.yaml", tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_columns_that_are_not_features(table: pd.DataFrame, tmp_path: Path) -> None:
    prepared = sweep(tmp_path, "mse", {"target": ["n1", "n2"], "weights": "w", "features": None})
    assert prepared.task.dataset.feature_names == ("a", "b", "c")
    np.testing.assert_array_equal(prepared.task.dataset.weights, table["w"])
    assert prepared.task.parameter_names[0] == "weight.0.0"


@pytest.mark.slow
def test_plan_names_kernel_targets_and_weights(table: pd.DataFrame, tmp_path: Path, cli: Cli) -> None:
    task = {"dataset": {"kind": "csv", "path": "d.csv", "target": ["n1", "n2"], "weights": "w"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(document(task=task, parameters={"lr": [0.1]})))
    out = cli("plan", "s.yaml").stdout
    assert "kernel: torch (a linear model with sample weights)" in out
    assert "features: a, b, c; targets: n1, n2; weights: w" in out
    first = table.iloc[0]
    assert f"weight {first['w']:g}; targets: n1 {first['n1']:g}, n2 {first['n2']:g}" in out
    assert (
        "kernel: numba (Linear layers and activations)"
        in cli("plan", "s.yaml", "--set", "task.dataset.target=n1", "--set", "task.model={kind: mlp}").stdout
    )
