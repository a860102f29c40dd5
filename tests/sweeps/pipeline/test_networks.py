"""Sweeps over networks: modules by path, verdicts against the sweep's best, replay to rounding, clear refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from sgdcore import Thresholds
from sgdcore.kernels import perceptrons
from sweeps.errors import ConfigError, DataError
from sweeps.planning.prepared import PreparedSweep
from sweeps.results.final_verdicts import apply_final_verdicts
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import document

MODULE = """
import torch

def make(units=3, dropout=0.0):
    return torch.nn.Sequential(torch.nn.Linear(1, units), torch.nn.Tanh(), torch.nn.Dropout(dropout),
                               torch.nn.Linear(units, 1))
"""


def network(model: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """18 trials of a small network in 5 shards, some of which diverge."""
    return (
        document(
            task={"dataset": {"kind": "sine", "n": 12}, "model": model or {"kind": "mlp", "hidden": [3]}},
            training={"epochs": 6, "batch_size": 4, "order": "shuffled"},
            parameters={
                "lr": {"values": [0.01, 0.1, 1e6]},
                "momentum": {"values": [0, 0.5, 0.9]},
                "weight_decay": {"values": [0, 0.1]},
            },
        )
        | changes
    )


def trials_of(files: SweepFiles) -> pd.DataFrame:
    return pd.concat([table.to_pandas() for table in files.shards.tables()], ignore_index=True)


def test_verdicts_are_held_against_the_best_of_the_sweep(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    prepared = make_prepared(**network())
    files = stored(prepared)
    before = trials_of(files)
    apply_final_verdicts(files, Thresholds(rtol=0.05))
    after = trials_of(files)
    assert len(files.shards.done()) == 5
    assert (before["verdict"] != after["verdict"]).any()
    pd.testing.assert_frame_equal(
        before.drop(columns=["verdict", "steps_to_tolerance"]), after.drop(columns=["verdict", "steps_to_tolerance"])
    )
    # The definition, in pandas: J* is the least objective of all trials with this weight decay.
    objective = np.stack(after["objective"])
    best = after.assign(least=np.nanmin(objective, axis=1)).groupby("weight_decay")["least"].transform("min")
    first, last = objective[:, 0], objective[:, -1]
    converged = last - best <= 0.05 * (first - best) + 1e-12
    assert set(after.loc[converged, "verdict"]) == {"converged"}
    assert not (after.loc[~converged, "verdict"] == "converged").any()
    assert set(after.loc[after["lr"] == 1e6, "verdict"]) == {"diverged"}
    arrived = after["steps_to_tolerance"].notna()
    within = objective - best.to_numpy()[:, None] <= (0.05 * (first - best) + 1e-12).to_numpy()[:, None]
    steps = np.array(files.shards.metadata()["steps"])
    np.testing.assert_array_equal(arrived, within.any(axis=1))
    np.testing.assert_array_equal(
        after.loc[arrived, "steps_to_tolerance"], steps[within.argmax(axis=1)][arrived.to_numpy()]
    )


def test_settling_again_changes_no_file(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared(**network()))
    apply_final_verdicts(files, Thresholds())
    once = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files.shards.folder.iterdir()}
    apply_final_verdicts(files, Thresholds())
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files.shards.folder.iterdir()} == once


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "my_models.py").write_text(MODULE)
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_module_beside_the_sweep_file_is_trained_tracked_and_replayed(cli: Cli, store: Store, tmp_path: Path) -> None:
    model = {"kind": "module", "module": "my_models:make", "arguments": {"units": 4}}
    config = write(tmp_path, network(model))
    assert "kernel: numba (Linear layers and activations)" in cli("plan", config).stdout
    out = cli("run", config, "--executor", "inline").stdout
    assert "18 of 18" in out
    [sweep] = json.loads(cli("list", "--json").stdout)
    trials = trials_of(store.find(sweep["id"]))
    client = MlflowClient(store.tracking_uri)
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` != ''")
    tags = {run.data.tags["sweeps.trial_id"]: run.data.tags["sweeps.verdict"] for run in runs}
    assert tags == dict(zip(trials["trial_id"], trials["verdict"], strict=True))
    assert "converged" in set(trials["verdict"])
    assert all(
        "final/0.weight.3" in run.data.metrics for run in runs if tags[run.data.tags["sweeps.trial_id"]] != "diverged"
    )
    replayed = cli("replay", sweep["id"], 1).stdout
    assert "18 steps, " in replayed
    assert "torch.optim.SGD" in replayed
    assert "the stored values match" in replayed
    assert "module, 13 parameters" in cli("report", sweep["id"], "--format", "md").stdout


def test_plan_names_the_node_that_the_kernel_of_perceptrons_lacks(cli: Cli, tmp_path: Path) -> None:
    model = {"kind": "module", "module": "tests.support.network_modules:normalised"}
    task = {"dataset": {"kind": "linear", "n": 12, "d": 2}, "model": model}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(network() | {"task": task}))
    reason = "node _1 (LayerNorm) is not a Linear layer or a known activation"
    assert f"kernel: torch ({reason})" in " ".join(cli("plan", path).stdout.split())
    assert json.loads(cli("plan", path, "--json").stdout)["kernel"] == {"name": "torch", "reason": reason}


def test_sweeps_of_the_torch_kernel_go_on_with_that_of_perceptrons(
    cli: Cli,
    make_prepared: Callable[..., PreparedSweep],
    stored: Callable[[PreparedSweep], SweepFiles],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sweeps of modules that earlier versions trained with the torch kernel."""
    model = {"kind": "module", "module": "tests.support.network_modules:small", "arguments": {"activation": "ReLU"}}
    task = {"dataset": {"kind": "linear", "n": 12, "d": 2}, "model": model}
    with monkeypatch.context() as earlier:
        earlier.setattr(perceptrons, "_recognised", lambda model, width: "not by this version")
        prepared = make_prepared(**network() | {"task": task})
        files = stored(prepared)
    assert files.shards.metadata(1)["kernel"] == "torch"
    (files.shards.folder / "00001.parquet").unlink()
    again = make_prepared(**network() | {"task": task})
    assert (again.plan.context, len(again.plan.shards())) == (prepared.plan.context, len(prepared.plan.shards()))
    cli("resume", files.sweep_id, "--executor", "inline")
    assert [files.shards.metadata(index)["kernel"] for index in (0, 1)] == ["torch", "numba"]
    cli("verify", files.sweep_id)
    assert "the stored values match" in cli("replay", files.sweep_id, 1).stdout


def test_a_module_that_changes_makes_other_trials(
    make_prepared: Callable[..., PreparedSweep], tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "changing.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    config = network({"kind": "module", "module": "changing:make"})
    before = make_prepared(**config).plan
    assert make_prepared(**config).plan.context == before.context
    (tmp_path / "changing.py").write_text(MODULE + "# another text may be another model\n")
    assert make_prepared(**config).plan.context != before.context


def test_the_seed_of_a_network_is_its_start(make_prepared: Callable[..., PreparedSweep]) -> None:
    config = network(seeds=[0, 1], training={"epochs": 2, "order": "sequential"})
    assert len(make_prepared(**config).plan) == 36


def test_start_values_of_a_small_network_are_axes(make_prepared: Callable[..., PreparedSweep]) -> None:
    parameters = {"lr": {"value": 0.1}, "init.0.weight": {"values": [0, 1]}, "init.0.weight.2": {"value": 5}}
    plan = make_prepared(**network(parameters=parameters)).plan
    start = plan.trials(0, len(plan)).start
    assert plan.starts == plan.parameter_names
    assert len(plan) == 4  # weights 0 and 1; the third has an axis of its own
    assert set(start[:, 2]) == {5.0}
    assert np.isnan(start[:, 3:]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"kind": "mlp", "hidden": []}}, r"task\.model\.hidden: given \[\]; must have at least one entry"),
        ({"model": {"kind": "mlp", "hidden": [0]}}, r"task\.model\.hidden\[0\]: given 0; must be >= 1"),
        ({"model": {"kind": "mlp", "activation": "step"}}, r"given 'step'; allowed: relu, tanh, sigmoid, gelu, silu"),
        (
            {"model": {"kind": "module", "module": "nothing"}},
            r"task\.model\.module: given 'nothing'; must have the form package\.module:call",
        ),
        ({"model": {"kind": "module"}}, r"task\.model\.module: missing"),
        ({"loss": "huber", "huber_delta": 0}, r"task\.huber_delta: given 0; must be > 0"),
        (
            {"model": {"kind": "mlp", "hidden": [64]}, "init": True},
            r"parameters\.init\.0\.bias: start values are allowed for networks of up to 16 parameters; "
            "this one has 193",
        ),
        (
            {"model": {"kind": "mlp", "hidden": [2]}, "init": True, "name": "init.1.bias"},
            r"parameters\.init\.1\.bias: the model's parameters are 0\.weight\.0, 0\.weight\.1, 0\.bias\.0",
        ),
        (
            {"model": {"kind": "module", "module": "tests.support.network_modules:dropout"}},
            r"task: module: it (draws random numbers|fails on a batch)",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    make_prepared: Callable[..., PreparedSweep], changes: dict, message: str
) -> None:
    config = network()
    axis = changes.pop("name", "init.0.bias")
    if changes.pop("init", False):
        config["parameters"][axis] = {"value": 0}
    config["task"] |= changes
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        make_prepared(**config)
    assert "\n" not in str(caught.value)


def test_a_refused_module_leaves_nothing_behind(cli: Cli, store: Store, tmp_path: Path) -> None:
    model = {"kind": "module", "module": "my_models:make", "arguments": {"dropout": 0.5}}
    error = cli("run", write(tmp_path, network(model)), code=2).stderr
    assert error.count("\n") == 1
    assert "it draws random numbers in training" in error
    assert not (store.root / "sweeps").exists()


def test_a_sweep_whose_trials_all_raise_looks_failed_everywhere(cli: Cli, store: Store, tmp_path: Path) -> None:
    model = {"kind": "module", "module": "tests.support.network_modules:Unevaluated"}
    task = {"dataset": {"kind": "linear", "n": 12, "d": 2}, "model": model}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(network() | {"task": task}))
    done = cli("run", path, "--executor", "inline", code=3)
    [files] = store.sweeps()
    assert "18 trials could not be run: RuntimeError: no evaluation today:; see " in done.stderr
    assert f"retry with: sweeps resume {files.sweep_id}" in done.stderr
    assert files.state() == "failed"
    [row] = json.loads(cli("list", "--json").stdout)
    assert (row["state"], row["failed shards"]) == ("failed", 5)
    shown = json.loads(cli("show", files.sweep_id, "--json").stdout)
    assert (shown["state"], shown["missing"][0]) == ("failed", "18 of 18 trials")
    said = " ".join(cli("show", files.sweep_id).stdout.split())
    assert "failed: RuntimeError: no evaluation today:; see " in said
    assert "missing: 18 of 18 trials; some runs in MLflow; complete the sweep with: sweeps resume" in said
    assert 'sweeps_sweeps{state="failed"} 1.0' in cli("metrics").stdout
    client = MlflowClient(store.tracking_uri)
    [parent] = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert parent.info.status == "FAILED"


def test_a_sweep_killed_before_its_report_says_what_is_missing(
    cli: Cli, make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared())
    said = " ".join(cli("show", files.sweep_id).stdout.split())
    assert "missing: some runs in MLflow; the report; complete the sweep with: sweeps resume" in said
    cli("resume", files.sweep_id, "--executor", "inline")
    assert "missing:" not in cli("show", files.sweep_id).stdout
    assert files.missing() == []
