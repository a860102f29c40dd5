"""Reports of losses that can be negative: no logarithms; pandas and scipy judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sweeps.config.loader import parse
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.report import figures
from sweeps.report.files import render_report
from sweeps.report.tables import seeds_note
from sweeps.results.comparison import compare
from sweeps.results.importance import effects, main_effect
from sweeps.results.results import Results, load_results
from sweeps.results.seed_variance import seed_spread
from sweeps.store.store import Store, SweepFiles
from sweeps.verification.regression import Limits, check
from tests.support.documents import document
from tests.support.stores import computed_into


@pytest.fixture
def counts(tmp_path: Path, stored: Callable[[PreparedSweep], SweepFiles]) -> Results:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.uniform(-1, 1, 40)})
    table.assign(n=rng.poisson(np.exp(table["x"] + 3))).to_csv(tmp_path / "d.csv", index=False)
    task = {"dataset": {"kind": "csv", "path": "d.csv", "target": "n"}, "loss": "poisson_nll"}
    parameters = {"lr": {"values": [1e-4, 1e-3, 3e-3, 10]}, "momentum": {"values": [0, 0.5]}}
    config = parse(
        document(task=task, training={"epochs": 30, "batch_size": 8}, parameters=parameters, seeds=[0, 1, 2]),
        "c.yaml",
        tmp_path,
    )
    return load_results(stored(prepare(config)))


def trials(results: Results) -> pd.DataFrame:
    table = pd.concat([shard.to_pandas() for shard in results.files.shards.tables()])
    assert (table["final_loss"].min(), table["loss"].str[0].max()) < (0, 0)
    return table


def test_settings_are_compared_by_plain_means(counts: Results) -> None:
    table, spread = trials(counts), seed_spread(counts)
    settled = table[table["verdict"].isin(["converged", "converging", "stalled"])]
    groups = {key: part["final_loss"].to_numpy() for key, part in settled.groupby(["lr", "momentum"]) if len(part) == 3}
    assert len(groups) == len(spread) > 3
    best = groups[tuple(spread.iloc[0][["lr", "momentum"]])]
    for _, row in spread.iterrows():
        losses = groups[row["lr"], row["momentum"]]
        low, high = stats.t.interval(0.95, 2, losses.mean(), stats.sem(losses))
        assert row[["mean_loss", "low", "high"]].tolist() == pytest.approx([losses.mean(), low, high])
        p = stats.ttest_ind(losses, best, equal_var=False, alternative="greater").pvalue
        assert row["p"] == pytest.approx(p)
    assert spread["mean_loss"].is_monotonic_increasing
    assert "log10" not in seeds_note(counts)
    means = main_effect(counts, "lr").set_index("lr")["mean_log_loss"]
    pd.testing.assert_series_equal(means.dropna(), settled.groupby("lr")["final_loss"].mean(), check_names=False)
    of_loss = effects(counts).set_index("parameter")["of_log_loss"]["lr"]
    whole = ((settled["final_loss"] - settled["final_loss"].mean()) ** 2).sum()
    within = ((settled["final_loss"] - settled.groupby("lr")["final_loss"].transform("mean")) ** 2).sum()
    assert of_loss == pytest.approx(1 - within / whole)


def test_figures_have_linear_axes_that_hold_the_settled_trials(counts: Results) -> None:
    settled = trials(counts).query("verdict in ['converged', 'converging', 'stalled']")
    low, high = settled["loss"].map(min).min(), settled["loss"].map(max).max()
    for drawn in (figures.loss_curves(counts), figures.loss_curves(counts, settled["trial"].tolist())):
        axis = drawn.layout.yaxis
        assert axis.type == "linear"
        assert axis.range[0] < low < high < axis.range[1]
    assert figures.seed_intervals(counts).layout.xaxis.type != "log"
    effect = figures.main_effects(counts)
    shown = [np.asarray(trace.y) for trace in effect.select_traces(row=2)]
    assert (np.concatenate(shown) < 0).any()
    assert {axis.type for axis in effect.select_yaxes(row=2)} == {None}
    drawn = figures.stability_map(counts, "final loss")
    [scale] = [trace.colorbar for trace in drawn.data if trace.type == "heatmap" and trace.showscale and trace.visible]
    assert scale.ticktext[0].replace("\N{MINUS SIGN}", "-").startswith("-")


def test_reports_comparisons_and_checks_can_be_made(counts: Results, store: Store) -> None:
    for kind in ("html", "md", "json", "csv"):
        assert "poisson_nll" in render_report(counts, kind) or kind == "csv"
    other = computed_into(store, "ef567890", prepare(counts.config))
    assert figures.compared_curves(compare([counts.files, other])).layout.yaxis.type == "linear"
    checks = check(other, counts.files, Limits(max_loss_increase="5%"))
    assert all(each.passed for each in checks)
    [loss] = [each for each in checks if each.name == "max_loss_increase"]
    assert loss.measured < loss.allowed < 0
