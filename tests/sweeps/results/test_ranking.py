"""The order of best trials: by the validation loss where there is one, and without regard to rounding."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sweeps.config.loader import parse
from sweeps.errors import ConfigError, InputError
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.task_loader import load_dataset
from sweeps.report.headline import advice, lead_sentences
from sweeps.report.trial_tables import best_trials as best_table
from sweeps.results.comparison import best_settings, compare
from sweeps.results.ranking import Ranking, best_trial, best_trials
from sweeps.results.results import load_results
from sweeps.store.store import Store, SweepFiles
from tests.support.documents import document
from tests.support.stores import computed_into, without_key

Prepare = Callable[..., PreparedSweep]
Compute = Callable[[PreparedSweep], SweepFiles]

# Few noisy samples and many features: what fits the training set best predicts worst.
OVERFITTING = {
    "task": {"dataset": {"kind": "linear", "n": 24, "d": 9, "noise": 1.0, "validation": 0.5}},
    "training": {"epochs": 60, "batch_size": 12},
    "parameters": {"lr": {"min": 0.001, "max": 0.5, "count": 12, "scale": "log"}, "momentum": {"values": [0, 0.9]}},
}
# A full batch without noise: many settings reach the optimum up to rounding.
EXACT = {
    "task": {"dataset": {"kind": "linear", "n": 50, "d": 2, "condition": 100}},
    "training": {"epochs": 3000, "batch_size": 50, "dtype": "float64"},
    "record": {"points": 600},
    "parameters": {
        "lr": {"min": 0.2, "max": 2, "count": 10},
        "momentum": {"values": [0.5, 0.7, 0.8, 0.85, 0.9]},
        "init.weight.0": {"value": 1},
        "init.weight.1": {"value": -1},
        "init.bias": {"value": 0.5},
    },
}


def chosen(files: SweepFiles, count: int) -> list[int]:
    return [trial for trials in best_trials(files, files.config(), count).values() for trial in trials]


def test_the_validation_loss_ranks_where_there_is_one(make_prepared: Prepare, stored: Compute) -> None:
    files = stored(make_prepared(**OVERFITTING))
    results = load_results(files)
    rows = results.trials[results.trials["verdict"] != "diverged"]
    best, overfitted = (rows.loc[rows[name].idxmin(), "trial"] for name in ("final_validation_loss", "final_loss"))
    assert best != overfitted
    found = best_trial(files, files.config())
    assert found is not None
    assert (found.number, found.value) == (best, rows["final_validation_loss"].min())
    assert best_table(results, 1)["trial"].tolist() == [best]
    assert results.shown(results.aggregate.best_settled)["trial"].tolist() == [best]
    assert "the best final validation loss is" in " ".join(lead_sentences(results))


def test_losses_of_validation_are_those_of_the_curves(make_prepared: Prepare, stored: Compute) -> None:
    results = load_results(stored(make_prepared(**OVERFITTING)))
    curves = results.curves(results.trials["trial"].tolist()).dropna(subset=["validation_loss"])
    by_trial = curves.groupby("trial")["validation_loss"]
    pd.testing.assert_series_equal(
        by_trial.last(), results.trials.set_index("trial")["final_validation_loss"], check_names=False
    )
    pd.testing.assert_series_equal(
        by_trial.min(), results.trials.set_index("trial")["best_validation_loss"], check_names=False
    )


@pytest.mark.parametrize("metric", ["final_loss", "best_loss", "best_validation_loss"])
def test_a_metric_that_is_chosen_ranks(metric: str, make_prepared: Prepare, stored: Compute) -> None:
    files = stored(make_prepared(**OVERFITTING, metric={"name": metric}))
    rows = load_results(files).trials
    rows = rows[rows["verdict"] != "diverged"]
    found = best_trial(files, files.config())
    assert found is not None
    assert found.value == rows[metric].min()


def test_a_metric_of_validation_needs_a_validation_set() -> None:
    with pytest.raises(
        ConfigError, match=r"final_validation_loss needs a validation set: set task\.dataset\.validation"
    ):
        parse(document(metric={"name": "final_validation_loss"}), "sweep.yaml")


def test_the_stored_config_names_the_metric(make_prepared: Prepare, stored: Compute) -> None:
    assert stored(make_prepared(**OVERFITTING)).config().metric.name == "final_validation_loss"


def test_sweeps_of_earlier_versions_rank_as_before(make_prepared: Prepare, stored: Compute) -> None:
    files = stored(make_prepared(**OVERFITTING))
    whole = load_results(files)
    expected = whole.trials
    for path in files.shards.folder.glob("*.parquet"):
        table = pq.read_table(path)
        metadata = {key: value for key, value in table.schema.metadata.items() if key != b"loss_scale"}
        earlier = table.drop_columns(["final_validation_loss", "best_validation_loss"])
        pq.write_table(earlier.replace_schema_metadata(metadata), path)
    without_key(files, "metric:\n  name: final_validation_loss\n")
    results = load_results(files)
    assert results.metric == "final_loss"
    for name in ("final_validation_loss", "best_validation_loss"):
        np.testing.assert_array_equal(results.trials[name], expected[name])
    ranked = expected[expected["verdict"] != "diverged"].sort_values(["final_loss", "trial"])
    assert chosen(files, 3) == ranked["trial"].head(3).tolist()


def test_losses_that_only_rounding_tells_apart_go_to_the_faster_trial(make_prepared: Prepare, stored: Compute) -> None:
    files = stored(make_prepared(**EXACT))
    results = load_results(files)
    rows = results.trials
    targets = load_dataset(files.config().task.dataset).targets
    exact = rows[rows["final_loss"] < (16 * np.finfo(np.float64).eps) ** 2 * np.square(targets).mean()]
    assert exact["final_loss"].nunique() > 5
    fastest = exact[exact["steps_to_tolerance"] == exact["steps_to_tolerance"].min()]
    widest = fastest.sort_values(["predicted_radius", "trial"])
    assert exact["trial"][exact["final_loss"].idxmin()] not in fastest["trial"].tolist()
    assert chosen(files, len(widest)) == widest["trial"].tolist()
    assert best_table(results, len(widest))["trial"].tolist() == widest["trial"].tolist()
    converged = rows[rows["verdict"] == "converged"]
    steepest = converged.sort_values(["predicted_radius", "steps_to_tolerance", "trial"]).iloc[0]
    assert f"tolerance after {steepest['steps_to_tolerance']:,} steps" in str(advice(results))


def test_differences_beyond_rounding_still_decide() -> None:
    losses = np.array([0.5, 0.5 * (1 + 1e-13), 0.5 * (1 + 1e-16), 3e-30, 4e-29, 1e-20, 2e-20])
    found = Ranking("final_loss", 1e-28).comparable(losses)
    assert found[0] == found[2] < found[1]
    assert found[3] == found[4] < found[5] < found[6]


@pytest.mark.parametrize("size", [1, 5, 50])
def test_the_order_does_not_depend_on_the_shards(size: int, make_prepared: Prepare, store: Store) -> None:
    found = {
        trials: chosen(
            computed_into(store, f"{trials:08}", make_prepared(**EXACT, execution={"trials_per_shard": trials})), 50
        )
        for trials in (7, size)
    }
    assert sorted(found[7]) == sorted(found[size])
    assert len(found[7]) > 5


def test_unlike_losses_are_not_compared(make_prepared: Prepare, store: Store) -> None:
    huber = {"dataset": {"kind": "line"}, "model": {"kind": "linear"}, "loss": "huber", "huber_delta": 0.5}
    one, other = (
        computed_into(store, "aaaaaaaa", make_prepared()),
        computed_into(store, "bbbbbbbb", make_prepared(task=huber)),
    )
    with pytest.raises(
        InputError, match=r"sweep bbbbbbbb: its loss is huber with huber_delta 0.5, that of aaaaaaaa is mse"
    ):
        compare([one, other])


def test_sweeps_with_different_metrics_are_compared_by_the_training_loss(make_prepared: Prepare, store: Store) -> None:
    one = computed_into(store, "aaaaaaaa", make_prepared(**OVERFITTING))
    other = computed_into(store, "bbbbbbbb", make_prepared(**OVERFITTING, metric={"name": "best_loss"}))
    comparison = compare([one, other])
    rows = load_results(one).trials
    least = rows.loc[rows[rows["verdict"] != "diverged"]["final_loss"].idxmin()]
    assert best_settings(comparison)["trial"].tolist() == [least["trial"]] * 2
