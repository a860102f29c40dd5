"""Sweeps against each other: joins and counts against pandas, the same whatever the shards; figures and tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st

from sgdcore.verdict import VERDICTS
from sweeps.errors import InputError
from sweeps.planning.prepared import PreparedSweep
from sweeps.report import figures
from sweeps.report.comparison_tables import comparison_findings, comparison_sentences, comparison_tables
from sweeps.report.figures import comparison as comparison_figures
from sweeps.results import comparison as comparing
from sweeps.results.results import load_results
from sweeps.results.trial_matching import match
from sweeps.store.store import Store
from tests.support.hypothesis_profiles import examples
from tests.support.random_results import SETTING, stored, trials
from tests.support.stores import computed_into

Make = Callable[..., PreparedSweep]
BAD = ["diverging", "diverged"]
RANK = {verdict: BAD.index(verdict) + 1 if verdict in BAD else 0 for verdict in VERDICTS}


def check_against_pandas(pair: Any, first: pd.DataFrame, second: pd.DataFrame, on: list[str]) -> None:
    both = first.merge(second, on=on, suffixes=("_before", ""))
    table = pd.crosstab(both["verdict_before"], both["verdict"]).reindex(index=VERDICTS, columns=VERDICTS).fillna(0)
    np.testing.assert_array_equal(pair.common.transitions, table)
    was, now = (both[name].fillna(np.inf) for name in ("final_loss_before", "final_loss"))
    assert (pair.common.lower, pair.common.higher) == ((now < was).sum(), (now > was).sum())
    assert pair.common.trials == pair.common.lower + pair.common.equal + pair.common.higher == len(both)
    changed = both[both["verdict_before"] != both["verdict"]]
    found = comparing.verdict_changes(pair, 1000)
    assert pair.common.changed.total == len(changed)
    assert set(found["trial"]) == set(changed["trial"])
    worse = [RANK[now] - RANK[was] for was, now in zip(found["verdict_before"], found["verdict"], strict=True)]
    assert worse == sorted(worse, reverse=True)
    merged = found.merge(changed, on="trial", suffixes=("", "_oracle"))
    for name in ("trial_before", "verdict_before", "verdict", "lr", "momentum", "final_loss_before", "final_loss"):
        if f"{name}_oracle" in merged:
            pd.testing.assert_series_equal(merged[name], merged[f"{name}_oracle"], check_names=False)
    broken = both[(both["verdict_before"] == "converged") & both["verdict"].isin(BAD)]
    assert pair.common.broken == len(broken)
    assert set(comparing.loss_differences(pair, 1000)["trial"]) == set(both["trial"][was != now])


@examples(4, 40, phases=(Phase.generate,))
@given(
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    shares=st.tuples(st.sampled_from([0.1, 0.6, 1.0]), st.sampled_from([0.1, 0.6, 1.0])),
    cuts=st.tuples(st.sets(st.integers(1, 59), max_size=4), st.sets(st.integers(1, 59), max_size=4)),
    by=st.sampled_from(["trial", "setting"]),
)
def test_joins_are_those_of_pandas_whatever_the_shards(
    seeds: tuple[int, int], shares: tuple[float, float], cuts: tuple[set[int], set[int]], by: str
) -> None:
    other = "same" if by == "trial" else "other"
    first, second = trials(seeds[0], shares[0]), trials(seeds[1], shares[1], other)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        one = load_results(stored(store, "a1", first, sorted(cuts[0])))
        two = load_results(stored(store, "b2", second, sorted(cuts[1]), context=other))
        pair = match(one, two)
        assert pair.by == by
        check_against_pandas(pair, first, second, ["trial_id"] if by == "trial" else SETTING)
        itself = match(one, one)
        verdicts = [results.aggregate.verdicts for results in (one, two)]
    assert itself.common.changed.total == itself.common.differing.total == 0
    np.testing.assert_array_equal(itself.common.transitions, np.diag(verdicts[0]))
    if shares == (1.0, 1.0):  # every trial is in both: the table's margins are the verdicts' counts
        np.testing.assert_array_equal(pair.common.transitions.sum(axis=1), verdicts[0])
        np.testing.assert_array_equal(pair.common.transitions.sum(axis=0), verdicts[1])


def test_the_same_trial_in_another_grid(store: Store, make_prepared: Make) -> None:
    """Real trials: the second sweep has some of the first's, in another order and other shards, and one of its own."""
    start = {"init.weight": {"value": -0.5}, "init.bias": {"value": 0.5}}
    parameters = {"lr": {"values": [0.03, 0.01, 0.05]}, "momentum": {"values": [0.9, 0]}, **start}
    files = [
        computed_into(store, "a1", make_prepared()),
        computed_into(store, "b2", make_prepared(parameters=parameters)),
    ]
    comparison = comparing.compare(files)
    [row] = comparing.common_trials(comparison).to_dict("records")
    assert (row["matched_by"], row["common"], row["only_first"], row["only_this"]) == ("trial", 4, 8, 2)
    assert (row["other_verdict"], row["equal_loss"]) == (0, 4)
    assert comparison_findings(comparison) == []


def test_start_values_of_float32_are_those_of_float64(store: Store, make_prepared: Make) -> None:
    swept = {"lr": {"values": [0.01, 0.02]}, "init.weight": {"values": [-0.66, 0.1]}, "init.bias": {"value": 0.33}}
    works = [
        make_prepared(parameters=swept, training={"epochs": 4, "dtype": "float32"}),
        make_prepared(parameters=swept, training={"epochs": 4, "dtype": "float64"}),
        make_prepared(parameters=swept, training={"epochs": 9, "dtype": "float64"}),
    ]
    comparison = comparing.compare([computed_into(store, f"{i}", prepared) for i, prepared in enumerate(works)])
    assert [(pair.by, pair.common.trials) for pair in comparison.pairs] == [("setting", 4)] * 2
    assert all("start values" in pair.why for pair in comparison.pairs)
    different = comparing.different_settings(comparison).set_index("setting")
    assert different.loc["dtype"].tolist() == ["float32", "float64", "float64"]
    assert different.loc["epochs"].tolist() == ["4", "4", "9"]


def test_models_whose_start_values_differ_have_no_settings_in_common(store: Store, make_prepared: Make) -> None:
    swept = {"lr": {"values": [0.01, 0.02]}, "init.weight": {"values": [-0.66, 0.1]}}
    other = stored(store, "b2", trials(), context="other")  # of a large network start values are not stored
    comparison = comparing.compare([computed_into(store, "a1", make_prepared(parameters=swept)), other])
    [pair] = comparison.pairs
    assert pair.by == "nothing"
    assert "'weight'" in pair.why
    assert pair.common.trials == 0
    assert {table.key for table in comparison_tables(comparison)} == {"sweeps", "best", "settings", "common"}
    assert figures.changed_map(pair) is None


def test_a_sweep_without_trials(store: Store) -> None:
    rows = trials()
    files = [stored(store, "a1", rows), stored(store, "b2", rows, missing=1)]
    for given_files in (files, files[::-1]):
        comparison = comparing.compare(given_files)
        assert comparison.pairs[0].common.trials == 0
        assert "has no trial with a loss" in comparison_sentences(comparison)[0]
        assert len(comparing.best_settings(comparison)) == 1


def test_the_same_trials_with_other_losses_are_a_finding(store: Store) -> None:
    rows = trials()
    other = rows.assign(final_loss=rows["final_loss"].where(rows["trial"] != 7, 0.625))
    files = [stored(store, "a1", rows), stored(store, "b2", other, versions={"numpy": "9"})]
    comparison = comparing.compare(files)
    [finding] = comparison_findings(comparison)
    assert finding.startswith("1 of 60 trials that A and B have in common differ in final loss")
    assert "not deterministic" in finding
    assert comparing.loss_differences(comparison.pairs[0])["trial"].tolist() == [7]
    made = [stored(store, f"c{i}", r, versions={"numpy": str(i)}) for i, r in enumerate((rows, other))]
    assert "differ in numpy (0 and 1)" in comparison_findings(comparing.compare(made))[0]


def test_tables_are_those_of_pandas(store: Store) -> None:
    rows = [trials(1), trials(2, 0.5), trials(3, 0.5, "other")]
    contexts = ["same", "same", "other"]
    files = [stored(store, f"{i}", r, [20], context=c) for i, (r, c) in enumerate(zip(rows, contexts, strict=True))]
    comparison = comparing.compare(files)
    sweeps = comparing.compared_sweeps(comparison)
    assert sweeps["sweep"].tolist() == ["A", "B", "C"]
    for row, frame in zip(sweeps.to_dict("records"), rows, strict=True):
        assert row["stable_share"] == pytest.approx((~frame["verdict"].isin(BAD)).mean())
        assert [row[verdict] for verdict in VERDICTS] == [(frame["verdict"] == verdict).sum() for verdict in VERDICTS]
    best = comparing.best_settings(comparison)
    for row, frame in zip(best.to_dict("records"), rows, strict=True):
        oracle = frame[frame["verdict"] != "diverged"].sort_values(["final_loss", "trial"]).iloc[0]
        assert (row["trial"], row["final_loss"], row["lr"]) == (oracle["trial"], oracle["final_loss"], oracle["lr"])
    table = comparing.transitions(comparison.pairs[0])
    assert table["trials"].sum() == comparing.common_trials(comparison)["common"][0] == len(rows[1])


def test_too_few_and_too_many_sweeps(store: Store) -> None:
    files = stored(store, "a1", trials())
    for count in (1, 13):
        with pytest.raises(InputError, match=f"{count} given; compare needs 2 to 12 sweeps"):
            comparing.compare([files] * count)


def test_the_map_of_what_changed(store: Store, make_prepared: Make) -> None:
    parameters = {
        "lr": {"min": 0.005, "max": 0.08, "count": 12, "scale": "log"},
        "momentum": {"values": [0, 0.5, 0.9]},
        "init.weight": {"value": -0.66},
        "init.bias": {"value": 0.33},
    }
    orders = [
        {"epochs": 20, "order": order, "batch_size": size} for order, size in (("sequential", 1), ("shuffled", 2))
    ]
    files = [
        computed_into(store, f"{i}", make_prepared(parameters=parameters, training=training))
        for i, training in enumerate(orders)
    ]
    comparison = comparing.compare(files)
    [pair] = comparison.pairs
    figure = figures.changed_map(pair)
    assert figure is not None
    kinds = np.asarray(figure.data[0].z).T
    settles = [
        ~results.trials.pivot(index="lr", columns="momentum", values="verdict").isin(BAD).to_numpy()
        for results in comparison.sweeps
    ]
    oracle = np.select([settles[0] & settles[1], settles[1] & ~settles[0], settles[0] & ~settles[1]], [0, 1, 2], 3)
    np.testing.assert_array_equal(kinds, oracle)
    assert len(np.unique(kinds)) > 2
    ratio = figures.changed_map(pair, view="final loss ratio")
    assert ratio is not None
    assert [trace.visible for trace in figure.data] != [trace.visible for trace in ratio.data]
    with pytest.raises(ValueError, match="view must be one of what settles, final loss ratio"):
        figures.changed_map(pair, view="colour")
    maps = figures.compared_maps(comparison)
    assert maps is not None
    assert [a.text for a in maps.layout.annotations] == ["A (0)", "B (1)"]


def test_maps_with_other_axes_stand_side_by_side_but_are_not_subtracted(store: Store, make_prepared: Make) -> None:
    axes = [{"lr": {"values": [0.01, 0.02, 0.03]}, "momentum": {"values": [0, 0.9]}}]
    axes.append({"lr": {"values": [0.01, 0.04]}, "weight_decay": {"values": [0, 0.1, 0.2]}})
    comparison = comparing.compare(
        [computed_into(store, f"{i}", make_prepared(parameters=p)) for i, p in enumerate(axes)]
    )
    assert figures.changed_map(comparison.pairs[0]) is None
    maps = figures.compared_maps(comparison)
    assert maps is not None
    titles = {maps.layout[f"{axis}axis{i}"].title.text for axis in "xy" for i in ("", "2")}
    assert titles == {"lr", "momentum", "weight decay"}


def test_shares_and_curves(store: Store, make_prepared: Make) -> None:
    works = [make_prepared(training={"epochs": epochs}) for epochs in (4, 30)]
    comparison = comparing.compare([computed_into(store, f"{i}", prepared) for i, prepared in enumerate(works)])
    shares = figures.compared_shares(comparison)
    totals = np.sum([trace.x for trace in shares.data], axis=0)
    np.testing.assert_allclose(totals, 1.0)
    curves = figures.compared_curves(comparison)
    assert curves is not None
    for results, name in zip(comparison.sweeps, comparison.names, strict=True):
        settled = results.settled["trial"].tolist()
        losses = results.curves(settled, ["loss"]).pivot(index="trial", columns="step", values="loss")
        [median] = [trace for trace in curves.data if trace.name == f"{name}: median"]
        np.testing.assert_array_equal(median.y, np.quantile(losses, 0.5, axis=0, method="inverted_cdf"))


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
)
def test_weighted_quantiles_are_those_of_numpy(weights: list[float], seed: int) -> None:
    losses = np.random.default_rng(seed).random((len(weights), 3))
    w = np.array(weights)
    found = comparison_figures._quantiles(losses, w)
    share = np.cumsum(np.take_along_axis(np.broadcast_to(w[:, np.newaxis], losses.shape), losses.argsort(0), 0), 0)
    for quantile, row in zip((0.25, 0.5, 0.75), found, strict=True):
        if np.abs(share / w.sum() - quantile).min() > 1e-9:  # elsewhere rounding decides
            oracle = np.quantile(losses, quantile, axis=0, weights=w, method="inverted_cdf")
            np.testing.assert_array_equal(row, oracle)
