"""Training as people do it: schedules, batch sizes, parameter groups, clipping and folds, against plain torch loops."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from scipy import stats
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from sweeps.planning.prepared import PreparedSweep
from sweeps.report.headline import lead_sentences
from sweeps.results.cross_validation import fold_means
from sweeps.results.results import load_results
from sweeps.store.store import SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import document

EPOCHS = 4
SCHEDULE = [{"kind": "linear", "start_factor": 0.5, "total_iters": 2}, {"kind": "cosine", "T_max": 3}]


def training(**changes: Any) -> dict[str, Any]:
    """24 trials of diabetes with everything that a user sets beside the five hyperparameters."""
    return (
        document(
            task={"dataset": {"kind": "diabetes", "standardize": "all", "validation": {"folds": 3}}},
            training={
                "epochs": EPOCHS,
                "order": "shuffled",
                "dtype": "float64",
                "groups": {"bias": ["bias"]},
                "schedule": SCHEDULE,
            },
            parameters={
                "lr": {"value": 0.05},
                "momentum": {"value": 0.9},
                "weight_decay": {"value": 0.1},
                "weight_decay.bias": {"value": 0},
                "batch_size": {"values": [64, 300]},
                "clip_grad_norm": {"values": [None, 0.5]},
                "schedule.1.eta_min": {"values": [0, 0.01]},
            },
            seeds=[3],
        )
        | changes
    )


def by_torch(row: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Return the final parameters and the validation loss of a trial, as a user of torch and scikit-learn gets them."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    train, held_out = list(KFold(3, shuffle=True, random_state=0).split(x))[row["fold"]]
    features, targets = StandardScaler().fit(x[train]), StandardScaler().fit(y[train, None])
    x, y = torch.tensor(features.transform(x)), torch.tensor(targets.transform(y[:, None]))
    torch.manual_seed(row["seed"])
    model = torch.nn.Linear(x.shape[1], 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(
        [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": row["weight_decay.bias"]}],
        lr=row["lr"],
        momentum=row["momentum"],
        weight_decay=row["weight_decay"],
    )
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3, eta_min=row["schedule.1.eta_min"])
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[2])
    loader = DataLoader(
        TensorDataset(x[train], y[train]),
        int(row["batch_size"]),
        shuffle=True,
        generator=torch.Generator().manual_seed(row["seed"]),
    )
    loss = torch.nn.MSELoss()
    for _ in range(EPOCHS):
        for inputs, goals in loader:
            optimizer.zero_grad()
            loss(model(inputs), goals).backward()
            if not np.isinf(row["clip_grad_norm"]):
                torch.nn.utils.clip_grad_norm_(model.parameters(), row["clip_grad_norm"])
            optimizer.step()
        scheduler.step()
    params = torch.cat([model.weight[0], model.bias]).detach().numpy()
    return params, loss(model(x[held_out]), y[held_out]).item()


@pytest.mark.filterwarnings("ignore:.*lr_scheduler:UserWarning")
@pytest.mark.filterwarnings("ignore:.*epoch parameter:UserWarning")
def test_every_trial_is_that_of_a_plain_loop(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared(**training()))
    results = load_results(files)
    rows = results.trials.to_dict("records")
    assert len(rows) == 24
    final = results.final([row["trial"] for row in rows])
    for row in rows:
        params, validation = by_torch(row)
        np.testing.assert_allclose(final[row["trial"]], params, rtol=1e-9, atol=1e-12)
        assert row["final_validation_loss"] == pytest.approx(validation, rel=1e-9)
    clipped = results.trials.set_index("clip_grad_norm")["clipped_share"]
    assert (clipped[0.5] > 0).all()
    assert clipped[np.inf].isna().all()


def test_shards_hold_one_fold_and_batch_size_and_curves_have_the_same_epochs(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(make_prepared(**training(execution={"trials_per_shard": 3})))
    shards = [table.to_pandas() for table in files.shards.tables(["fold", "batch_size"])]
    assert [len(shard) for shard in shards] == [3, 1] * 6
    assert all(len(shard.drop_duplicates()) == 1 for shard in shards)
    results = load_results(files)
    curves = results.curves(results.trials["trial"].tolist())
    assert curves.groupby("trial")["epoch"].apply(tuple).nunique() == 1
    steps = curves.groupby("trial")["step"].max().to_numpy()
    assert set(steps) == {EPOCHS * 5, EPOCHS}  # 294 or 295 samples in batches of 64, and in one batch
    assert results.time == "epoch"


def test_a_setting_of_the_file_and_an_axis_of_one_value_are_the_same_trial(
    make_prepared: Callable[..., PreparedSweep],
) -> None:
    swept = make_prepared(**training()).plan
    fixed = document(
        **training(
            task={"dataset": {"kind": "diabetes", "standardize": "all", "validation": {"folds": 3}}},
            training=training()["training"]
            | {"batch_size": 300, "schedule": [SCHEDULE[0], SCHEDULE[1] | {"eta_min": 0.01}]},
            parameters={
                "lr": {"value": 0.05},
                "momentum": {"value": 0.9},
                "weight_decay": {"value": 0.1},
                "weight_decay.bias": {"value": 0},
            },
        )
    )
    plan = make_prepared(**fixed).plan
    ids = swept.ids(swept.trials(0, len(swept)))
    assert len(plan) == 3
    assert len(set(ids)) == 24
    assert set(plan.ids(plan.trials(0, 3))) < set(ids)


def test_ids_of_sweeps_without_these_keys_are_those_of_earlier_versions(
    make_prepared: Callable[..., PreparedSweep],
) -> None:
    plan = make_prepared(**document()).plan
    assert "schedule" not in json.dumps(plan.identity)
    assert "groups" not in json.dumps(plan.identity)


def test_a_sweep_is_run_verified_and_shown(cli: Cli, config: Callable[..., Any]) -> None:
    cli("run", config(**training()), "--executor", "inline")
    assert "24 of 24 trials match the plan" in cli("verify", "latest", "--sample", "24").stdout
    best = json.loads(cli("best", "latest", "--json").stdout)
    [row] = [run for run in runs_of(cli) if run.get("tags.sweeps.trial_id") == best["trial_id"]]
    for name in ("batch_size", "clip_grad_norm", "weight_decay.bias", "schedule.1.eta_min", "fold"):
        assert f"params.{name}" in row
    report = cli("report", "latest", "--format", "md").stdout
    assert "Settings over folds" in report
    replayed = json.loads(cli("replay", "latest", "23", "--json").stdout)
    lrs = [step["lr"] for step in replayed["steps"]]
    assert lrs == pytest.approx([0.025, 0.0375, 0.05, 0.04])
    assert replayed["agrees"]


def runs_of(cli: Cli) -> list[dict[str, Any]]:
    client = MlflowClient(f"sqlite:///{cli.folder / 'store' / 'mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return [
        {f"params.{k}": v for k, v in run.data.params.items()} | {f"tags.{k}": v for k, v in run.data.tags.items()}
        for run in runs
    ]


BAD = [
    (
        {"task": {"dataset": {"kind": "line", "validation": {"folds": 1}}}},
        "task.dataset.validation.folds: given 1; must be >= 2",
    ),
    (
        {"task": {"dataset": {"kind": "line", "validation": {"folds": 9}}}},
        "9 folds need at least 2 folds and as many samples",
    ),
    ({"parameters": {"batch_size": [0]}}, "parameters.batch_size.values[0]: given 0; must be a whole number >= 1"),
    ({"parameters": {"batch_size": [2.5]}}, "parameters.batch_size.values[0]: given 2.5; must be a whole number >= 1"),
    ({"parameters": {"clip_grad_norm": [0]}}, "clip_grad_norm must be > 0, or null for no limit"),
    ({"parameters": {"lr": [None]}}, "parameters.lr.values[0]: given nothing; must be a number"),
    ({"parameters": {"lr.bias": [0.1]}}, "define the group bias in training.groups"),
    ({"parameters": {"schedule.gamma": [0.1]}}, "the numbers of training.schedule can be axes"),
    (
        {"training": {"epochs": 3, "groups": {"b": ["bais"]}}},
        "group b: no parameter matches 'bais': they are weight, bias",
    ),
    (
        {"training": {"epochs": 3, "groups": {"a": ["*"], "b": ["bias"]}}},
        "the parameter bias is in two groups, a and b",
    ),
    ({"training": {"epochs": 3, "groups": {"1st": ["*"]}}}, "must be a name of letters, digits and underscores"),
    ({"training": {"epochs": 9, "schedule": {"kind": "onecycle", "total_steps": 5}}}, "at least the run's 9, not 5"),
    (
        {"training": {"epochs": 9, "schedule": {"kind": "cosinus"}}},
        "training.schedule.kind: given 'cosinus'; allowed: constant",
    ),
    ({"training": {"epochs": 9, "schedule": [{"kind": "step"}]}}, "training.schedule[0].step_size: missing"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_one_line(cli: Cli, config: Callable[..., Any], changes: dict[str, Any], message: str) -> None:
    result = cli("plan", config(**changes), code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_advice_is_the_fastest_of_the_settings_that_tie_with_the_best(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(
        make_prepared(
            **training(
                task={"dataset": {"kind": "linear", "n": 60, "d": 3, "noise": 0.5, "validation": {"folds": 3}}},
                training={"epochs": 40, "order": "shuffled", "batch_size": 20},
                parameters={"lr": {"values": [1e-4, 0.01, 0.05, 0.1]}},
                seeds=[0, 1],
            )
        )
    )
    results = load_results(files)
    means = fold_means(files, files.config())
    trials = results.trials
    for _, row in means.iterrows():
        own = trials[trials["lr"] == row["lr"]]
        assert (row["folds"], row["trial"]) == (6, own["trial"].min())
        assert row["mean"] == pytest.approx(own["final_validation_loss"].mean())
        assert row["standard_error"] == pytest.approx(stats.sem(own["final_validation_loss"]))
        best = trials[trials["lr"] == means["lr"].iloc[0]]
        if row["lr"] != means["lr"].iloc[0]:
            pair = [part.sort_values(["seed", "fold"])["final_validation_loss"].to_numpy() for part in (own, best)]
            assert row["p"] == pytest.approx(stats.ttest_rel(*pair, alternative="greater").pvalue)
    tied = means[means["tied"] & means["epochs_to_tolerance"].notna()]
    assert len(tied)
    fastest = tied.loc[tied["epochs_to_tolerance"].idxmin(), "lr"]
    assert f"Use lr {fastest:g}: mean final validation loss" in " ".join(lead_sentences(results))
    assert 1e-4 not in tied["lr"].to_numpy()
