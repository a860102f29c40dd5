"""What the report concludes: edge of stability, effects of parameters, spread over seeds; scipy judges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sweeps.planning.prepared import PreparedSweep
from sweeps.report import figures
from sweeps.report.files import render_report
from sweeps.report.headline import lead_sentences
from sweeps.results.importance import REST, effects, main_effect
from sweeps.results.provenance import provenance
from sweeps.results.results import Results, load_results
from sweeps.results.seed_variance import seed_spread
from sweeps.results.stability_edge import edge_of_stability
from sweeps.store.store import SweepFiles

START = {"init.weight": {"value": 0}, "init.bias": {"value": 0}}
Make = Callable[..., PreparedSweep]
Store = Callable[[PreparedSweep], SweepFiles]


@pytest.fixture
def plane(make_prepared: Make, stored: Store) -> Results:
    axes = {"lr": {"min": 0.005, "max": 0.1, "count": 20}, "momentum": {"min": 0, "max": 0.9, "count": 10}}
    return load_results(stored(make_prepared(parameters=axes | START, training={"epochs": 60}, execution={})))


@pytest.fixture
def seeds(make_prepared: Make, stored: Store) -> Results:
    prepared = make_prepared(
        parameters={"lr": {"values": [0.001, 0.01, 0.02, 0.3]}, "momentum": {"values": [0, 0.5]}},
        task={"dataset": {"kind": "linear", "n": 30, "d": 3, "noise": 0.3}, "model": {"kind": "linear"}},
        training={"epochs": 12, "order": "shuffled", "batch_size": 4},
        seeds=[0, 1, 2, 3, 4],
        execution={"trials_per_shard": 7},
    )
    return load_results(stored(prepared))


class TestEdge:
    def test_where_a_full_batch_breaks(self, make_prepared: Make, stored: Store) -> None:
        """Without momentum it breaks at 2 over the largest eigenvalue (Polyak, 1964), with it later."""
        axes = {"lr": {"min": 0.02, "max": 0.3, "count": 141}, "momentum": {"values": [0, 0.5]}}
        prepared = make_prepared(parameters=axes | START, training={"epochs": 400, "batch_size": 5}, execution={})
        results = load_results(stored(prepared))
        design = np.column_stack([np.arange(1, 6), np.ones(5)])
        largest = np.linalg.eigvalsh(2 / 5 * design.T @ design).max()
        table = edge_of_stability(results).set_index("momentum")
        for momentum, row in table.iterrows():
            edge = 2 * (1 + float(str(momentum))) / largest
            assert row["settles_up_to"] < edge < row["breaks_at"]
            assert row["breaks_at"] - row["settles_up_to"] == pytest.approx(0.002)
            assert row["largest_settling"] == row["settles_up_to"]
            assert row["predicted_edge"] == pytest.approx(edge, abs=5e-4)
        settles, breaks = (f"{table[name].loc[0]:.4g}" for name in ("settles_up_to", "breaks_at"))
        told = lead_sentences(results)[1]
        assert told.startswith(
            f"The edge of stability: at momentum 0 trials settle up to lr {settles} and diverge at {breaks}"
        )

    def test_stability_that_comes_back(self, plane: Results) -> None:
        trials = plane.trials.assign(bad=lambda t: t["verdict"].isin(["diverging", "diverged"]))
        for _, row in edge_of_stability(plane).iterrows():
            some = trials[trials["momentum"] == row["momentum"]].sort_values("lr")
            if some["bad"].any():
                assert row["breaks_at"] == some["lr"][some["bad"]].min()
            assert row["largest_settling"] == some["lr"][~some["bad"]].max()
        assert "although some settle again up to" in " ".join(lead_sentences(plane))

    def test_what_to_use_is_the_fastest_of_the_converged_trials(self, plane: Results) -> None:
        converged = plane.settled[plane.settled["verdict"] == "converged"]
        best = converged.sort_values(["steps_to_tolerance", "predicted_radius", "trial"]).iloc[0]
        told = lead_sentences(plane)[2]
        assert told.startswith(f"Use lr {best['lr']:.6g}, momentum {best['momentum']:.6g}: final loss ")
        assert f"it reaches tolerance after {best['steps_to_tolerance']} steps" in told

    def test_only_lr(self, make_prepared: Make, stored: Store) -> None:
        axes = {"lr": {"values": [0.01, 0.02, 0.5]}, "momentum": {"value": 0}}
        results = load_results(stored(make_prepared(parameters=axes | START, training={"epochs": 200})))
        assert lead_sentences(results)[1] == ("The edge of stability: trials settle up to lr 0.02 and diverge at 0.5.")
        assert figures.stability_map(results) is None
        assert 'id="shares"' in render_report(results, "html")

    def test_cells_of_several_trials_are_told(self, make_prepared: Make, stored: Store) -> None:
        training = {"epochs": 200, "order": "shuffled"}
        prepared = make_prepared(parameters={"lr": {"values": [0.01, 0.5]}} | START, training=training, seeds=[0, 1])
        assert lead_sentences(load_results(stored(prepared)))[1] == (
            "The edge of stability, for the best trial of each setting: trials settle up to lr 0.01 and diverge at 0.5."
        )

    def test_no_lr_no_edge(self, make_prepared: Make, stored: Store) -> None:
        axes = {"lr": {"value": 0.01}, "momentum": {"values": [0, 0.5]}}
        results = load_results(stored(make_prepared(parameters=axes | START)))
        assert len(edge_of_stability(results)) == 0
        assert not any("edge" in line for line in lead_sentences(results))


class TestEffects:
    @pytest.mark.parametrize("name", ["lr", "momentum"])
    def test_eta_squared_is_that_of_a_one_way_analysis(self, plane: Results, name: str) -> None:
        trials = plane.trials.assign(
            settled=lambda t: (~t["verdict"].isin(["diverging", "diverged"])).astype(float),
            log=lambda t: np.log10(t["final_loss"].clip(lower=1e-300)),
        )
        row = effects(plane).set_index("parameter").loc[name]
        for column, values in (("of_settling", trials["settled"]), ("of_log_loss", trials["log"][plane.settled.index])):
            groups = [part.to_numpy() for _, part in values.groupby(trials[name])]
            found = stats.f_oneway(*groups).statistic * (len(groups) - 1)
            within = len(values) - len(groups)
            assert row[column] == pytest.approx(found / (found + within))

    def test_shares_of_settling_add_up(self, plane: Results) -> None:
        table = effects(plane)
        assert table["parameter"].iloc[-1] == REST
        assert table["of_settling"].sum() == pytest.approx(1)
        assert (table["of_settling"] >= 0).all()

    def test_main_effects_are_groups_means(self, plane: Results) -> None:
        found = main_effect(plane, "momentum").set_index("momentum")
        logs = plane.settled.assign(log=lambda t: np.log10(t["final_loss"])).groupby("momentum")["log"]
        np.testing.assert_allclose(found["mean_log_loss"], logs.mean())
        np.testing.assert_allclose(found["deviation"], logs.std())
        settled = plane.settled.groupby("momentum").size() / plane.trials.groupby("momentum").size()
        np.testing.assert_allclose(found["settles"], settled)
        figure = figures.main_effects(plane)
        assert figure is not None
        assert figure.layout.yaxis.title.text == "share that settles"

    def test_parameters_that_change_together_have_no_effects_of_their_own(
        self, make_prepared: Make, stored: Store
    ) -> None:
        together = [
            {"lr": {"value": lr}, "momentum": {"value": m}, "weight_decay": {"value": wd}, **START}
            for lr, m, wd in ((0.01, 0, 0), (0.02, 0.5, 0.1), (0.03, 0.9, 0.2))
        ]
        results = load_results(stored(make_prepared(parameters=together)))
        assert len(effects(results)) == 0
        assert figures.main_effects(results) is None


class TestSeeds:
    def test_intervals_and_tests_are_scipys(self, seeds: Results) -> None:
        logs = seeds.trials.assign(log=lambda t: np.log10(t["final_loss"])).groupby(["lr", "momentum"])
        every = {
            key: part["log"].to_numpy()
            for key, part in logs
            if not part["verdict"].isin(["diverging", "diverged"]).any()
        }
        table = seed_spread(seeds)
        assert len(table) == len(every) >= 4
        best = every[(table["lr"].iloc[0], table["momentum"].iloc[0])]
        assert best.mean() == min(part.mean() for part in every.values())
        for _, row in table.iterrows():
            part = every[(row["lr"], row["momentum"])]
            assert row["seeds"] == 5
            assert row["mean_loss"] == pytest.approx(10 ** part.mean())
            low, high = stats.t.interval(0.95, 4, part.mean(), stats.sem(part))
            assert (row["low"], row["high"]) == pytest.approx((10**low, 10**high))
            if part is not best:
                p = stats.ttest_ind(part, best, equal_var=False, alternative="greater").pvalue
                assert row["p"] == pytest.approx(p)
            assert row["tied"] == (row["p"] >= 0.05)
        assert not table["tied"].all()

    def test_the_page_says_how_many_are_tied(self, seeds: Results) -> None:
        table = seed_spread(seeds)
        page = render_report(seeds, "md")
        tied = (
            f"{table['tied'].sum()} of {len(table)} settings that settled with every seed are not significantly worse"
        )
        assert tied in page
        figure = figures.seed_intervals(seeds)
        assert figure is not None
        shown = {trace.name: len(trace.x) for trace in figure.data}
        assert shown["not significantly worse than the best"] == table["tied"].sum()
        assert sum(shown.values()) == len(table)

    def test_one_seed_has_no_spread(self, plane: Results) -> None:
        assert len(seed_spread(plane)) == 0
        assert figures.seed_intervals(plane) is None
        assert "How much the seed matters" not in render_report(plane, "html")


def test_how_to_reproduce_it_names_all_that_was_used(plane: Results) -> None:
    table = provenance(plane).set_index("what")["value"]
    assert table["data (digest)"] == plane.manifest["data"]["digest"]
    assert table["kernel"] == "numba"
    assert table["device"] == "cpu"
    assert isinstance(table["config.yaml (SHA-256)"], str)
    assert pd.Series(plane.manifest.get("versions", {})).isin(table).all()
