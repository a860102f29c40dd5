"""Tallies: the same whatever the grouping, and the same as pandas finds with all rows at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from importlib import import_module
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdcore.verdict import VERDICTS
from sweeps.planning.prepared import PreparedSweep
from sweeps.report import figures
from sweeps.report.files import render_report, write_report
from sweeps.report.tables import report_tables
from sweeps.results import aggregate, results, top_k
from sweeps.results.aggregate import Aggregate, Scope
from sweeps.results.binning import MAX_MAP_CELLS, MapAxis, pair
from sweeps.results.heatmap import Cells, Outcomes
from sweeps.results.ranking import Ranking
from sweeps.results.results import Results, load_results
from sweeps.results.top_k import DistinctValues, TopK
from sweeps.store.shard_files import ShardFiles
from sweeps.store.store import SweepFiles
from tests.support.hypothesis_profiles import examples

SETTLED = ["converged", "converging", "stalled"]


def made_up(trials: int, seed: int = 0) -> pa.Table:
    """Rows as of a shard file, with many equal values, nulls and every verdict."""
    rng = np.random.default_rng(seed)

    def some(values: Any, missing: float = 0.0) -> pa.Array:
        return pa.array(rng.choice(values, trials), mask=rng.random(trials) < missing)

    return pa.table(
        {
            "trial": np.arange(trials),
            "lr": some([0.1, 0.2, 0.3]),
            "momentum": some([0.0, 0.9]),
            "nesterov": some([True, False]),
            "verdict": some(VERDICTS),
            "initial_loss": some([1.0, 2.0, 0.0]),
            "final_loss": some([0.0, 1e-3, 0.5, 3.0, 1e7], 0.1),
            "best_loss": some([0.0, 1e-3, 0.25]),
            "first_nonfinite_step": some([3, 5, 9], 0.4),
            "steps_to_tolerance": some([4, 6, 8], 0.4),
            "overshoot_percent": some([0.0, 5.0, 50.0], 0.2),
            "predicted_radius": some([0.0, 0.5, 0.995, 2.0], 0.1),
            "final": [[1.0, 2.0]] * trials,
        }
    )


def scope(table: pa.Table) -> Scope:
    axes = {name: MapAxis.of(table[name].to_pylist(), name) for name in ("lr", "momentum", "nesterov")}
    groups = ((axes["lr"],), (axes["lr"], axes["momentum"]))
    return Scope(ranking=Ranking("final_loss", 0.0), epochs=30, groups=groups, settings=tuple(axes.values()))


ROWS = made_up(400)
WHOLE = Aggregate.of(ROWS, scope(ROWS))


def rankings(of: Aggregate) -> dict[str, TopK]:
    named = {name: value for name, value in vars(of).items() if isinstance(value, TopK)}
    return named | of.samples


@examples(12, 100)
@given(cuts=st.sets(st.integers(1, 399), max_size=6), limit=st.sampled_from([3, 50, 1000]), order=st.randoms())
def test_any_grouping_of_the_trials_gives_the_same_tally(cuts: set[int], limit: int, order: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "SAMPLED", limit)
        patch.setattr(aggregate, "MAX_ROWS", limit)
        whole = Aggregate.of(ROWS, scope(ROWS))
        parts = [Aggregate.of(ROWS.slice(a, b - a), scope(ROWS)) for a, b in pairwise([0, *sorted(cuts), 400])]
        order.shuffle(parts)
        summed = reduce(add, parts)
    assert summed.trials == 400
    np.testing.assert_array_equal(summed.verdicts, whole.verdicts)
    for name, ranking in rankings(whole).items():
        assert rankings(summed)[name].table["trial"].to_pylist() == ranking.table["trial"].to_pylist(), name
        assert rankings(summed)[name].total == ranking.total
    assert summed.predictions.disagreeing == whole.predictions.disagreeing
    np.testing.assert_array_equal(summed.predictions.counts, whole.predictions.counts)
    np.testing.assert_array_equal(summed.predictions.contradicted, whole.predictions.contradicted)
    for mine, theirs in zip(
        [*summed.cells.values(), summed.settings], [*whole.cells.values(), whole.settings], strict=True
    ):
        for name in ("counts", "badness", "loss", "trial", "position", "measured"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(mine.squares, theirs.squares, rtol=1e-9, atol=1e-9)


class TestAgainstPandas:
    frame = ROWS.to_pandas()

    def test_rankings(self) -> None:
        frame = self.frame.assign(growth=(self.frame["final_loss"] / self.frame["initial_loss"]))
        frame["growth"] = frame["growth"].where(np.isfinite(frame["growth"]))
        bad = ~frame["verdict"].isin(SETTLED)
        best = frame[frame["verdict"] != "diverged"].dropna(subset=["final_loss"])
        best = best.sort_values(["final_loss", "steps_to_tolerance", "predicted_radius", "trial"])
        settled = best[best["verdict"].isin(SETTLED)]
        earliest = frame[bad].sort_values(["first_nonfinite_step", "growth", "trial"], ascending=[True, False, True])
        past = frame[~bad & (frame["overshoot_percent"] > 0)]
        past = past.sort_values(["overshoot_percent", "trial"], ascending=[False, True])
        oracle = {
            "best": best,
            "best_settled": settled[:1],
            "worst_settled": settled[-1:],
            "earliest": earliest,
            "overshoots": past,
            **{verdict: frame[frame["verdict"] == verdict] for verdict in VERDICTS},
        }
        for name, rows in oracle.items():
            found = rankings(WHOLE)[name].table["trial"].to_pylist()
            assert (sorted(found) if name in VERDICTS else found) == rows["trial"].tolist(), name

    def test_cells(self) -> None:
        for cells in (*WHOLE.cells.values(), WHOLE.settings):
            assert cells is not None
            names = [axis.name for axis in cells.axes]
            for key, rows in self.frame.groupby(names):
                at = tuple(axis.places([value])[0] for axis, value in zip(cells.axes, np.atleast_1d(key), strict=True))
                assert cells.trials[at] == len(rows)
                counts = rows["verdict"].value_counts()
                assert cells.counts[at].tolist() == [counts.get(verdict, 0) for verdict in VERDICTS]
                settled = rows[rows["verdict"].isin(SETTLED)]
                best = settled.sort_values(["final_loss", "trial"]).iloc[0]
                assert (cells.trial[at], cells.loss[at], cells.badness[at]) == (best["trial"], best["final_loss"], 0)
                assert cells.position[at].tolist() == [float(best[name]) for name in names]
                logs = np.log10(settled["final_loss"].dropna().clip(lower=1e-300))
                assert cells.measured[at] == len(logs)
                assert cells.mean[at] == pytest.approx(logs.mean())
                assert cells.squares[at] == pytest.approx(logs.var(ddof=0) * len(logs))

    def test_predictions(self) -> None:
        radius, bad = self.frame["predicted_radius"], ~self.frame["verdict"].isin(SETTLED)
        assert WHOLE.predictions.counts.sum(axis=1).tolist() == [
            (radius < 0.99).sum(),
            (radius == 0.995).sum(),
            (radius == 2).sum(),
        ]
        # 0.5 ** 30 and 2 ** 30 are farther from 1 than a million
        assert WHOLE.predictions.contradicted.tolist() == [
            (bad & (radius < 0.99)).sum(),
            0,
            (~bad & (radius == 2)).sum(),
        ]


def test_cells_without_a_trial_that_settled_hold_the_least_bad() -> None:
    table = pa.table(
        {
            "trial": [0, 1, 2, 3, 4],
            "lr": [0.1, 0.1, 0.1, 0.2, 0.3],
            "verdict": ["diverged", "diverging", "diverging", "diverged", "converged"],
            "final_loss": pa.array([1.0, 9.0, 8.0, None, None], pa.float64()),
            "predicted_radius": pa.array([1.5, 1.2, 1.3, None, 0.5], pa.float64()),
            "steps_to_tolerance": pa.array([None, None, None, None, 7], pa.int64()),
        }
    )
    axis = MapAxis.of([0.1, 0.2, 0.3, 0.4], "lr")
    cells = Cells.of((axis,), table, Outcomes.of(table, "final_loss"))
    assert cells.badness.tolist() == [1, 2, 0, 3]
    assert cells.trial.tolist() == [2, 3, 4, -1]
    assert cells.loss.tolist() == [8.0, np.inf, np.inf, np.inf]
    assert cells.settled.tolist() == [0, 0, 1, 0]
    assert cells.radius.tolist() == [1.2, np.inf, 0.5, np.inf]
    assert cells.steps.tolist() == [np.inf, np.inf, 7, np.inf]


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.5, 0.25, np.nan, 7.0]), max_size=12), min_size=1, max_size=4))
def test_leading_rows_are_those_of_a_stable_sort(groups: list[list[float]]) -> None:
    keys = np.array([key for group in groups for key in group])
    numbers = np.arange(len(keys))
    ends = np.cumsum([0, *map(len, groups)])
    table = pa.table({"number": numbers})
    parts = [TopK.of(table, numbers[a:b], (keys, numbers), 3) for a, b in pairwise(ends)]
    expected = pd.DataFrame({"key": keys, "number": numbers}).sort_values(["key", "number"])["number"][:3].tolist()
    found = reduce(add, reversed(parts))
    assert found.table["number"].to_pylist() == expected
    assert found.total == len(keys)


class TestDistinct:
    @given(st.lists(st.lists(st.integers(-20, 20)), min_size=1, max_size=4))
    def test_all_of_a_few(self, groups: list[list[int]]) -> None:
        found = reduce(add, [DistinctValues.of(np.array(group, dtype=np.int64)) for group in groups])
        assert found.values.tolist() == sorted({value for group in groups for value in group})
        assert len(found) == len(found.values)

    def test_of_many_the_ends_a_fair_sample_and_about_the_number(self) -> None:
        values = np.random.default_rng(0).permutation(np.linspace(0, 1, 400_000))
        whole = DistinctValues.of(values)
        summed = reduce(add, [DistinctValues.of(part) for part in np.array_split(values, 7)])
        np.testing.assert_array_equal(whole.values, summed.values)
        assert (whole.values[0], whole.values[-1]) == (0, 1)
        assert len(whole.values) <= top_k.MAX_DISTINCT + 2
        assert len(whole) == pytest.approx(400_000, rel=0.02)
        assert np.abs(np.quantile(whole.values, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.01


@pytest.mark.parametrize(("first", "second"), [(200, 100), (1000, 1000), (100_000, 3), (3, 100_000), (1, 1)])
def test_a_map_has_room_on_a_page(first: int, second: int) -> None:
    axes = pair("lr", np.arange(first), "momentum", np.arange(second))
    assert [axis.name for axis in axes] == ["lr", "momentum"]
    shape = [len(axis.labels) for axis in axes]
    assert np.prod(shape) <= MAX_MAP_CELLS
    assert max(shape) <= 200
    if first * second <= MAX_MAP_CELLS and max(first, second) <= 200:
        assert shape == [first, second]


class TestLargeSweeps:
    """What happens beyond a limit, with the limits lowered."""

    @pytest.fixture
    def loaded(
        self, make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
    ) -> Results:
        return load_results(stored(make_prepared(seeds=[0, 1, 2], training={"epochs": 20, "order": "shuffled"})))

    def test_no_page_needs_all_trials(self, loaded: Results, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Results) -> None:
            raise AssertionError("all rows at once")

        monkeypatch.setattr(results.Results, "trials", property(refuse))
        read = ShardFiles.read
        held: list[int] = []

        def counted(self: ShardFiles, index: int, columns: list[str] | None = None) -> pa.Table:
            held.append(index)
            return read(self, index, columns)

        monkeypatch.setattr(ShardFiles, "read", counted)
        write_report(loaded)
        passes = len(held) / len(loaded.shards)
        assert passes <= 7, "values, tally, recommendation, map, csv, and the curves and paths that are shown"

    def test_too_many_trials_for_a_csv(self, loaded: Results, monkeypatch: pytest.MonkeyPatch) -> None:
        write_report(loaded)
        csv = loaded.files.report.folder / "trials.csv"
        assert csv.exists()
        monkeypatch.setattr(import_module("sweeps.report.notices"), "MAX_CSV_TRIALS", 10)
        page = Path(write_report(loaded)).read_text(encoding="utf-8")
        assert not csv.exists()
        assert "All numbers are in the Parquet files of the sweep&#39;s shards folder" in page
        assert "--format csv" in render_report(loaded, "md")
        assert len(render_report(loaded, "csv").splitlines()) == 1 + loaded.stored

    def test_tables_say_what_they_are_the_first_of(self, loaded: Results) -> None:
        counts = loaded.aggregate.verdicts
        notes = {table.key: table.note for table in report_tables(loaded, n=2)}
        assert notes["best"].endswith(f"; the first 2 of {counts[:4].sum():,}")
        assert "first" not in {table.key: table.note for table in report_tables(loaded, n=1000)}["best"]

    def test_the_spread_over_seeds_of_each_setting(self, loaded: Results) -> None:
        cells = loaded.aggregate.settings
        assert cells is not None
        assert set(cells.trials.ravel()) == {3}
        names = [axis.name for axis in cells.axes]
        assert "seed" not in names
        losses = loaded.settled.assign(log=lambda t: np.log10(t["final_loss"])).groupby(names)["log"]
        for key, logs in losses:
            at = tuple(axis.places([value])[0] for axis, value in zip(cells.axes, key, strict=True))
            assert cells.mean[at] == pytest.approx(logs.mean())
            assert cells.squares[at] == pytest.approx(logs.var(ddof=0) * len(logs))

    def test_cells_with_facets(self, loaded: Results) -> None:
        axes = [MapAxis.of(loaded.values[name].values, name) for name in ("lr", "momentum", "weight_decay")]
        cells = loaded.cells(*axes)
        assert cells.counts.shape == (3, 2, 2, len(VERDICTS))
        assert cells.trials.sum() == loaded.stored

    def test_samples_are_the_same_whatever_the_shards(self, loaded: Results, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(aggregate, "SAMPLED", 9)
        drawn = figures.sampled_trials(load_results(loaded.files))
        assert drawn["trial"].tolist() == figures.sampled_trials(load_results(loaded.files))["trial"].tolist()
        counts = loaded.trials["verdict"].value_counts()
        assert (drawn["verdict"].value_counts() <= np.minimum(counts, 9) + 1).all()
        verdicts = loaded.trials.set_index("trial")["verdict"]
        assert (verdicts[drawn["trial"]].to_numpy() == drawn["verdict"].to_numpy()).all()


def test_the_page_of_a_large_map_is_under_6_mb(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles], tmp_path: Path
) -> None:
    parameters = {
        "lr": {"min": 5e-4, "max": 0.1, "count": 250, "scale": "log"},
        "momentum": {"min": 0, "max": 0.99, "count": 120},
        "nesterov": {"values": [False, True]},
        "init.weight": {"value": 0},
        "init.bias": {"value": 0},
    }
    loaded = load_results(stored(make_prepared(parameters=parameters, execution={}, training={"epochs": 20})))
    assert loaded.stored == 60_000 - 250
    assert len(render_report(loaded, "html").encode()) < 6_000_000
