"""The report: tables against pandas and numpy oracles, files that stand alone, any state of a sweep."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sgdcore.verdict import VERDICTS
from sweeps.config.loader import parse
from sweeps.errors import StoreError
from sweeps.execution.worker import run_shard
from sweeps.planning.planner import make_plan
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardResult
from sweeps.planning.task_loader import load_task
from sweeps.report import figures
from sweeps.report.expected_results import expected_sentence
from sweeps.report.files import FORMATS, render_report, write_report
from sweeps.report.headline import finding, headline
from sweeps.report.trial_tables import (
    best_trials,
    contradicting_trials,
    diverged_trials,
    overshoots,
    predictions,
    verdict_counts,
)
from sweeps.results.binning import MapAxis
from sweeps.results.loss_surface import loss_surface
from sweeps.results.provenance import dropped_and_merged, settings
from sweeps.results.results import Results, load_results
from sweeps.results.stability_map import stability_panels
from sweeps.store.shard_files import ShardFiles
from sweeps.store.store import Store, SweepFiles
from sweeps.text import formatting
from sweeps.verification.expected import check_expected
from tests.support.documents import ROOT

SEED = ROOT / "configs" / "seed.yaml"
LINE: dict[str, Any] = {
    "name": "line",
    "task": {"dataset": {"kind": "line"}},
    "training": {"epochs": 20},
    "parameters": {
        "lr": {"min": 1e-3, "max": 0.5, "count": 12, "scale": "log"},
        "momentum": {"values": [0, 0.5, 0.9, 0.99]},
        "dampening": {"values": [0, 0.5]},
        "nesterov": {"values": [False, True]},
        "init.weight": {"value": -0.66},
        "init.bias": {"value": 0.33},
    },
    "execution": {"trials_per_shard": 20},
}
PANELS = [("false", 0), ("false", 0.5), ("true", 0)]
HOSTILE = '<script>alert("x")</script> <img src=x onerror=alert(1)> *a* `b` | [c](http://evil.example)'


def sweep(folder: Path, document: dict[str, Any], shards: list[int] | None = None) -> tuple[PreparedSweep, SweepFiles]:
    config = parse(document, "test")
    task = load_task(config.task)
    plan = make_plan(config, task)
    prepared = PreparedSweep(config, task, plan)
    manifest = {"sweep_id": "abcd1234", "name": config.name, "created": "2026-01-02T03:04:05+00:00", **plan.summary()}
    files = Store(folder).create("abcd1234", config.to_yaml(), manifest)
    for shard in plan.shards():
        if shards is None or shard.index in shards:
            result = run_shard(prepared, shard)
            assert isinstance(result, ShardResult)
            files.shards.write(result)
    return prepared, files


def changed(**keys: Any) -> dict[str, Any]:
    return {**LINE, **keys}


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedSweep, Results]:
    from sweeps.config import strict_yaml

    prepared, files = sweep(tmp_path_factory.mktemp("seed"), strict_yaml.read(SEED.read_text(encoding="utf-8"), "seed"))
    return prepared, load_results(files)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load_results(sweep(tmp_path_factory.mktemp("line"), LINE)[1])


def raw(results: Results) -> pd.DataFrame:
    """The shards as pandas itself reads them."""
    paths = sorted(results.files.shards.folder.glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


class TestResults:
    def test_one_row_a_trial_and_scalar_columns_only(self, line: Results) -> None:
        oracle = raw(line)
        assert len(line.trials) == line.planned == len(oracle)
        assert not {"final", "loss", "param.weight"} & set(line.trials)
        for name in ("lr", "momentum", "final_loss", "overshoot_percent", "trial_id", "nesterov"):
            pd.testing.assert_series_equal(line.trials[name], oracle[name], check_dtype=False)

    def test_final_parameters_and_growth(self, line: Results) -> None:
        oracle = raw(line)
        final = np.stack(oracle["final"].map(lambda v: np.array(v, dtype=np.float32)))
        np.testing.assert_array_equal(line.trials[["final.weight", "final.bias"]], final)
        np.testing.assert_array_equal(line.trials["growth"], oracle["final_loss"] / oracle["initial_loss"])

    def test_axes(self, line: Results) -> None:
        assert line.axes[:2] == ["lr", "momentum"]
        assert line.swept == ["lr", "momentum", "dampening", "nesterov"]

    def test_curves_of_a_few_trials(self, line: Results) -> None:
        numbers = [3, 41, 59]
        oracle = raw(line).set_index("trial")
        curves = line.curves(numbers)
        assert list(curves) == ["trial", "step", "epoch", "loss", "param.weight", "param.bias"]
        for number in numbers:
            mine = curves[curves["trial"] == number]
            assert list(mine["step"]) == line.metadata["steps"]
            np.testing.assert_array_equal(mine["loss"], np.array(oracle["loss"][number], dtype=float))
            np.testing.assert_array_equal(mine["param.bias"], np.array(oracle["param.bias"][number], dtype=np.float32))

    def test_only_the_shards_that_are_needed_are_read(self, line: Results, monkeypatch: pytest.MonkeyPatch) -> None:
        read = ShardFiles.read
        seen = []
        monkeypatch.setattr(ShardFiles, "read", lambda self, i, c=None: seen.append(i) or read(self, i, c))
        line.curves([25, 21])
        assert seen == [1]

    def test_many_parameters_have_no_columns_of_their_own(self, tmp_path: Path) -> None:
        document = {
            "name": "wide",
            "task": {"dataset": {"kind": "linear", "n": 30, "d": 20}},
            "training": {"epochs": 2},
            "parameters": {"lr": {"values": [0.01, 0.02, 0.03]}},
            "expected": [{"case": "torch", "where": {"lr": 0.02}, "final": "torch.optim.SGD"}],
        }
        prepared, files = sweep(tmp_path, document)
        results = load_results(files)
        assert not [c for c in results.trials if c.startswith(("final.", "param."))]
        assert results.final([1])[1].shape == (21,)
        outcomes = check_expected(prepared, results)
        np.testing.assert_allclose(list(outcomes[0].final.values()), results.final([1])[1])
        assert figures.stability_map(results) is None
        write_report(results, outcomes)


class TestTables:
    def test_counts(self, line: Results) -> None:
        counts = verdict_counts(line)
        assert list(counts["verdict"]) == list(VERDICTS)
        oracle = raw(line)["verdict"].value_counts()
        assert [oracle.get(v, 0) for v in VERDICTS] == list(counts["trials"])
        assert counts["share"].sum() == pytest.approx(1)

    @pytest.mark.parametrize("metric", ["final_loss", "best_loss"])
    def test_best(self, tmp_path: Path, metric: str) -> None:
        results = load_results(sweep(tmp_path, changed(metric={"name": metric}))[1])
        best = best_trials(results, 7)
        oracle = raw(results).query("verdict != 'diverged'").nsmallest(7, metric)
        assert list(best[metric]) == list(oracle[metric])
        assert "seed" not in best
        assert {"lr", "momentum", "nesterov"} < set(best)

    def test_diverged_the_earliest_then_the_fastest(self, line: Results) -> None:
        diverged = diverged_trials(line, 1000)
        oracle = raw(line).query("verdict in ['diverged', 'diverging']")
        assert set(diverged["trial"]) == set(oracle["trial"])
        steps = diverged["first_nonfinite_step"].dropna()
        assert list(steps) == sorted(oracle["first_nonfinite_step"].dropna())
        assert diverged["first_nonfinite_step"].iloc[len(steps) :].isna().all()
        assert diverged["growth"].iloc[len(steps) :].is_monotonic_decreasing

    def test_overshoots(self, seed: tuple[PreparedSweep, Results]) -> None:
        settled = overshoots(seed[1])
        assert set(settled["verdict"]) <= {"converged", "converging", "stalled"}
        momentum = overshoots(seed[1], include_diverging=True).set_index("trial").loc[2]
        assert momentum["overshoot_parameter"] == "weight"
        assert momentum["peak"] == pytest.approx(5.5695, abs=5e-5)
        assert momentum["start"] == pytest.approx(-0.66162831)
        assert momentum["target"] == pytest.approx(0.8)
        assert momentum["overshoot_percent"] == pytest.approx(100 * (5.5695 - 0.8) / (0.8 + 0.66162831), rel=1e-4)

    def test_dropped_and_merged(self, line: Results) -> None:
        table = dropped_and_merged(line)
        assert dict(zip(table["reason"], table["combinations"], strict=True)) == {
            **line.manifest["dropped"],
            **line.manifest["merged"],
        }

    def test_headline(self, line: Results) -> None:
        counts = raw(line)["verdict"].value_counts()
        sentence = headline(line)
        assert sentence.startswith(f"{counts['converged']} of {len(line.trials)} trials converged (")
        assert f"{counts['diverged'] + counts.get('diverging', 0)} diverged" in sentence
        assert "; the best final loss is " in sentence
        assert ", at lr " in sentence
        assert sentence.endswith(".")

    def test_constants_stand_in_the_settings(self, line: Results) -> None:
        table = settings(line).set_index("setting")["value"]
        assert table["weight decay"] == "0"
        assert table["init.weight"] == "-0.66"
        assert "lr" not in table


class TestExpected:
    def test_the_published_cases(self, seed: tuple[PreparedSweep, Results]) -> None:
        outcomes = check_expected(*seed)
        assert [(o.case, o.trial, o.matches, o.reference) for o in outcomes] == [
            ("plain", 0, True, False),
            ("weight decay", 1, True, False),
            ("momentum", 2, True, False),
            ("both", 3, True, True),
        ]
        assert expected_sentence(outcomes[2]) == (
            "momentum: weight overshoots its target 0.8 by 326 % of the distance from its start, peaks at 5.57, "
            "and is diverging"
        )

    @pytest.mark.parametrize(
        ("where", "final", "matches", "trial"),
        [
            ({"momentum": 0, "init.weight": -0.5}, {"weight": 0.9559}, True, 0),  # compared in float32
            ({"momentum": 0, "init.weight": -0.5}, {"weight": 0.95592}, True, 0),  # to the same decimals
            ({"momentum": 0.9, "weight_decay": 0}, {"weight": 5.5696}, False, 2),
            ({"momentum": 0.8}, {"weight": 1.0}, False, None),
            ({"momentum": 0.8}, "torch.optim.SGD", False, None),
        ],
    )
    def test_other_expectations(
        self, tmp_path: Path, where: dict[str, float], final: Any, matches: bool, trial: int | None
    ) -> None:
        from sweeps.config import strict_yaml

        document = strict_yaml.read(SEED.read_text(encoding="utf-8"), "seed")
        assert isinstance(document, dict)
        prepared, files = sweep(tmp_path, {**document, "expected": [{"case": "c", "where": where, "final": final}]})
        (outcome,) = check_expected(prepared, load_results(files))
        assert (outcome.matches, outcome.trial) == (matches, trial)
        page = render_report(load_results(files), "html", [outcome])
        assert ("✗ no" in page) is not matches
        assert ("✓ " in page) is matches

    def test_a_point_of_a_range_is_found_by_its_decimal_value(self, tmp_path: Path) -> None:
        document = changed(
            parameters={"lr": {"value": 0.01}, "momentum": {"min": 0, "max": 1.2, "count": 5}},  # 0.8999999999999999
            expected=[{"case": "c", "where": {"momentum": 0.9}, "final": "torch.optim.SGD"}],
        )
        prepared, files = sweep(tmp_path, document)
        assert [(o.trial, o.matches) for o in check_expected(prepared, load_results(files))] == [(3, True)]

    def test_diverged_trials_are_those_of_torch(self, tmp_path: Path) -> None:
        document = changed(
            training={"epochs": 60},
            expected=[{"case": "gone", "where": {"momentum": 0.9, "nesterov": True}, "final": "torch.optim.SGD"}],
        )
        prepared, files = sweep(tmp_path, document)
        outcomes = check_expected(prepared, load_results(files))
        assert len(outcomes) == 12
        assert any(np.isnan(list(o.final.values())).any() for o in outcomes)
        assert all(o.matches for o in outcomes)


class _Page(HTMLParser):
    """What an HTML page would load, and its text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {k}={v}" for k, v in attrs if k in ("src", "href", "srcset", "data", "onerror")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in ("script", "style"):
            self.words += data


class TestFiles:
    def test_all_four_are_written_and_nothing_else(self, line: Results) -> None:
        path = write_report(line)
        write_report(line)
        assert path == str(line.files.report.folder / "report.html")
        assert {p.name for p in line.files.report.folder.iterdir()} == {
            "report.html",
            "report.md",
            "report.json",
            "trials.csv",
        }

    def test_html_loads_nothing(self, line: Results) -> None:
        page = render_report(line, "html")
        parsed = _Page(page)
        assert parsed.loads == []
        assert "link" not in parsed.tags
        assert "@import" not in page.split("</style>")[0]
        assert "default-src 'none'" in page
        assert page.count("* plotly.js v") == 1
        assert page.count("Plotly.newPlot(") >= 3
        assert headline(line) in parsed.words

    def test_hostile_names_are_shown_and_not_run(self, tmp_path: Path) -> None:
        expected = [{"case": HOSTILE, "where": {"lr": 1e-3}, "final": {"weight": 1.0}}]
        prepared, files = sweep(tmp_path, changed(name=HOSTILE, description=HOSTILE, expected=expected))
        results = load_results(files)
        outcomes = check_expected(prepared, results)
        parsed = _Page(render_report(results, "html", outcomes))
        assert parsed.loads == []
        assert parsed.words.count(HOSTILE) >= 3
        markdown = render_report(results, "md", outcomes)
        assert "<script" not in markdown
        assert "<img" not in markdown
        assert "\\*a\\* \\`b\\` \\| \\[c\\](" in markdown

    def test_csv_is_the_table(self, line: Results) -> None:
        table = pd.read_csv(io.StringIO(render_report(line, "csv")))
        assert list(table) == list(line.trials)
        pd.testing.assert_frame_equal(table, line.trials, check_dtype=False, check_categorical=False)

    def test_json_is_strict(self, seed: tuple[PreparedSweep, Results], line: Results) -> None:
        def refuse(word: str) -> None:
            raise AssertionError(word)

        for results, expected in ((seed[1], check_expected(*seed)), (line, [])):
            document = json.loads(render_report(results, "json", expected), parse_constant=refuse)
            assert document["headline"] == headline(results)
            assert document["manifest"] == results.manifest
            assert len(document["expected"]) == len(expected)
            counts = {row["verdict"]: row["trials"] for row in document["tables"]["verdicts"]}
            assert sum(counts.values()) == len(results.trials)

    def test_markdown_tables_are_rectangular(self, seed: tuple[PreparedSweep, Results]) -> None:
        page = render_report(seed[1], "md", check_expected(*seed))
        tables = [part.splitlines() for part in page.split("\n\n") if part.startswith("| ")]
        assert len(tables) >= 6
        assert all(len({line.replace("\\|", "").count("|") for line in table}) == 1 for table in tables)
        assert "5.5695" in page
        assert "by 326 % of the distance" in page

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        results = load_results(sweep(tmp_path, LINE, [0])[1])
        results.files.report.folder.touch()
        with pytest.raises(StoreError, match="report cannot be written"):
            write_report(results)

    def test_unknown_format(self, line: Results) -> None:
        with pytest.raises(ValueError, match="html, md, csv, json"):
            render_report(line, "pdf")

    def test_importing_the_report_does_not_import_plotly(self) -> None:
        program = "import sys, sweeps.report; print('plotly' in sys.modules, 'jinja2' in sys.modules)"
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert ran.stdout.split() == ["False", "False"]


class TestAnyState:
    @pytest.mark.parametrize("shards", [[], [1], [0, 2]])
    def test_partial_sweeps(self, tmp_path: Path, shards: list[int]) -> None:
        results = load_results(sweep(tmp_path, LINE, shards)[1])
        assert len(results.trials) == 20 * len(shards)
        for format in FORMATS:
            assert render_report(results, format)
        expected = f"{20 * len(shards)} of {results.planned}" if shards else f"None of the {results.planned} trials"
        assert headline(results).startswith(expected)
        assert len(results.curves([0, 25, 10_000])["trial"].unique()) == len({0, 1} & set(shards))
        for function in (best_trials, diverged_trials, overshoots, verdict_counts):
            assert isinstance(function(results), pd.DataFrame)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"lr": {"values": [5.0, 6.0, 7.0]}, "momentum": {"values": [0.9, 0.99]}},  # nothing settles
            {"lr": {"value": 0.01}},  # one trial
            {"lr": {"values": [0, 0.01]}, "nesterov": {"value": True}, "momentum": {"values": [0.5, 0.9]}},
            {"lr": {"value": 0.05}, "init.weight": {"values": [0.8, 1]}, "init.bias": {"value": 1.2}},  # a loss of 0
        ],
    )
    def test_odd_sweeps(self, tmp_path: Path, parameters: dict[str, Any]) -> None:
        task = {"dataset": {"kind": "line", "slope": 0.75, "intercept": 1.25}}
        results = load_results(sweep(tmp_path, {**LINE, "parameters": parameters, "task": task}, None)[1])
        for format in FORMATS:
            assert render_report(results, format)

    def test_validation_and_seeds(self, tmp_path: Path) -> None:
        document = changed(
            task={"dataset": {"kind": "linear", "n": 20, "d": 3, "noise": 0.1, "validation": 0.25}},
            training={"epochs": 3, "order": "shuffled", "batch_size": 4},
            parameters={"lr": {"values": [0.01, 0.1]}},
            seeds=[0, 1, 2],
        )
        results = load_results(sweep(tmp_path, document)[1])
        assert results.swept == ["lr", "seed"]
        assert "validation_loss" in results.curves([0])
        assert figures.stability_map(results) is None
        assert render_report(results, "html")


class TestFigures:
    def test_trials_that_diverged_do_not_stretch_the_axis(self, line: Results) -> None:
        figure = figures.loss_curves(line)
        drawn = line.curves(figures.sampled_trials(line)["trial"].tolist())
        settled = drawn[drawn["trial"].isin(line.settled["trial"])]["loss"]
        low, high = figure.layout.yaxis.range
        assert low < np.log10(settled[settled > 0].min())
        assert np.log10(settled.max()) < high < np.log10(settled.max()) + 3
        assert all(np.isfinite(np.log10(np.asarray(curve.y, dtype=float))).all() for curve in figure.data)
        assert all((np.asarray(curve.x, dtype=float) > 0).all() for curve in figure.data)

    def test_bands_are_quantiles(self, line: Results) -> None:
        drawn = {trace.name: trace for trace in figures.loss_curves(line).data if trace.name}
        numbers = line.trials[line.trials["verdict"] == "converged"]["trial"].tolist()
        losses = line.curves(numbers).pivot_table(index="trial", columns="step", values="loss").to_numpy()
        oracle = np.quantile(losses, [0.1, 0.25, 0.5, 0.75, 0.9], axis=0, method="nearest")
        (median,) = [trace for name, trace in drawn.items() if " converged, " in name]
        np.testing.assert_array_equal(median.customdata.T, oracle)
        assert f" converged, {len(numbers)}" in median.name

    def test_few_trials_are_drawn_one_by_one(self, seed: tuple[PreparedSweep, Results]) -> None:
        figure = figures.loss_curves(seed[1])
        drawn = figure.data
        assert figure.layout.yaxis.range[1] > np.log10(seed[1].curves([2])["loss"].max()), (
            "the diverging case is cut off"
        )
        assert [trace.name for trace in drawn] == [f"trial {i}, {v}" for i, v in enumerate(seed[1].trials["verdict"])]
        np.testing.assert_array_equal(drawn[2].y, seed[1].curves([2])["loss"])

    def test_the_map_has_the_pivot_tables_cells(self, line: Results) -> None:
        trials = raw(line)
        trials["settled"] = ~trials["verdict"].isin(["diverging", "diverged"])
        assert [p.title for p in stability_panels(line)] == [f"nesterov {n}, dampening {d}" for n, d in PANELS]
        for panel, (nesterov, dampening) in zip(stability_panels(line), PANELS, strict=True):
            some = trials[(trials["nesterov"] == (nesterov == "true")) & (trials["dampening"] == dampening)]
            loss = some[some["settled"]].pivot_table(index="lr", columns="momentum", values="final_loss", aggfunc="min")
            loss = loss.reindex(index=panel.cells.axes[0].labels, columns=panel.cells.axes[1].labels)
            np.testing.assert_array_equal(np.where(panel.cells.badness == 0, panel.cells.loss, np.nan), loss)
            radius = some.pivot_table(index="lr", columns="momentum", values="predicted_radius", aggfunc="min")
            radius = radius.reindex(index=loss.index, columns=loss.columns)
            np.testing.assert_array_equal(np.where(np.isfinite(panel.cells.radius), panel.cells.radius, np.nan), radius)
            verdict = some.pivot_table(index="lr", columns="momentum", values="verdict", aggfunc="first")
            verdict = verdict.reindex(index=loss.index, columns=loss.columns)
            shown = np.array([*VERDICTS, None], dtype=object)[panel.cells.verdict]
            assert (shown == verdict.astype(object).where(verdict.notna(), None).to_numpy()).all()

    def test_views_of_the_map(self, line: Results) -> None:
        for view in ("verdict", "final loss", "steps to tolerance"):
            figure = figures.stability_map(line, view)
            assert figure is not None
            (menu,) = figure.layout.updatemenus
            assert menu.buttons[menu.active].label == view.capitalize()
            assert [trace.visible for trace in figure.data] == list(menu.buttons[menu.active].args[1])
        assert figure.layout.xaxis.type == "log"
        assert list(figure.layout.yaxis.ticktext) == ["0", "0.5", "0.9", "0.99"]
        with pytest.raises(ValueError, match="view must be one of verdict, final loss, steps to tolerance"):
            figures.stability_map(line, "colour")

    def test_the_boundary_is_where_the_radius_is_1(
        self, make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
    ) -> None:
        """A full batch without momentum is stable for lr below 2 over the largest eigenvalue."""
        axes = {"lr": {"min": 0.05, "max": 0.2, "count": 40}, "weight_decay": {"min": 0, "max": 5, "count": 30}}
        prepared = make_prepared(
            parameters={**axes, "init.weight": {"value": 0}, "init.bias": {"value": 0}},
            training={"epochs": 2, "batch_size": 5},
            execution={},
        )
        figure = figures.stability_map(load_results(stored(prepared)))
        assert figure is not None
        (line,) = [
            trace for trace in figure.data if trace.name == "predicted boundary: radius = 1" and trace.showlegend
        ]
        lr, weight_decay = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
        design = np.column_stack([np.arange(1, 6), np.ones(5)])
        largest = np.linalg.eigvalsh(2 / 5 * design.T @ design).max()
        np.testing.assert_allclose(lr, 2 / (largest + weight_decay), atol=1e-3)  # a quarter of a cell
        assert weight_decay.min() == 0
        assert weight_decay.max() == 5

    def test_axes_that_were_not_crossed_make_no_map(self, seed: tuple[PreparedSweep, Results]) -> None:
        figure = figures.stability_map(seed[1])
        assert figure is not None
        assert {figure.layout.xaxis.title.text, figure.layout.yaxis.title.text} == {"momentum", "weight decay"}

    def test_verdict_shares(self, line: Results) -> None:
        figure = figures.verdict_shares(line, "lr")
        assert figure is not None
        np.testing.assert_allclose(np.sum([bar.y for bar in figure.data], axis=0), 1)
        oracle = pd.crosstab(raw(line)["lr"], raw(line)["verdict"], normalize="index")
        np.testing.assert_allclose(figure.data[0].y, oracle["converged"])

    def test_convergence_speed(self, line: Results) -> None:
        figure = figures.convergence_speed(line)
        assert figure is not None
        converged = raw(line).query("verdict == 'converged'")
        oracle = converged.pivot_table(index="lr", columns="momentum", values="steps_to_tolerance", aggfunc="min")
        oracle = oracle.reindex(sorted(raw(line)["lr"].unique()))
        for trace in figure.data:
            np.testing.assert_array_equal(trace.y, oracle[float(trace.name.removeprefix("momentum "))].astype("f4"))

    def test_paths_end_where_the_trials_do_and_stars_mark_peaks(self, seed: tuple[PreparedSweep, Results]) -> None:
        prepared, results = seed
        surface = loss_surface(results)
        assert surface is not None
        figure = figures.parameter_paths(results, surface)
        assert figure is not None
        traces = {trace.name: trace for trace in figure.data if trace.type == "scatter" and "lines" in trace.mode}
        momentum = traces["trial 2, diverging"]
        assert (momentum.x[-1], momentum.y[-1]) == pytest.approx((5.5695, 3.4704), abs=5e-5)
        (star,) = [t for t in figure.data if t.name == "trial 2, diverging" and "lines" not in t.mode]
        assert star.x[0] == pytest.approx(5.5695, abs=5e-5)
        contour = next(trace for trace in figure.data if trace.type == "contour")
        x, y = np.meshgrid(contour.x.astype(float), contour.y.astype(float))
        inputs, targets = prepared.task.dataset.inputs[:, 0], prepared.task.dataset.targets
        loss = np.mean([(x * one + y - target) ** 2 for one, target in zip(inputs, targets, strict=True)], axis=0)
        np.testing.assert_allclose(10 ** contour.z.astype(float), loss - surface.minimum, rtol=1e-3, atol=1e-6)

    def test_prediction_histogram_counts_every_trial(self, line: Results) -> None:
        figure = figures.prediction_histogram(line)
        assert figure is not None
        assert sum(int(np.sum(bar.y)) for bar in figure.data) == line.stored
        below = sum(int(bar.y[bar.x < 1].sum()) for bar in figure.data)
        assert below == (raw(line)["predicted_radius"] < 1).sum()

    def test_wide_axes_are_binned(self) -> None:
        values = pd.Series(np.geomspace(1e-4, 1, 1000))
        axis = MapAxis.of(values, "lr")
        assert axis.kind == "log"
        assert len(axis.labels) == 200
        counts = np.bincount(axis.places(values))
        assert (counts.min(), counts.max()) == (5, 5)
        assert (np.diff(axis.edges) > 0).all()


@pytest.mark.parametrize(
    ("value", "column", "shown"),
    [
        (31204, "trials", "31,204"),
        (31204, "trial", "31204"),
        (1.23456e-14, "final_loss", "1.235e-14"),
        (1.5e300, "growth", "1.5e300"),
        (np.nan, "growth", "–"),
        (pd.NA, "best_step", "–"),
        (None, "", "–"),
        (True, "nesterov", "true"),
        (0.0123456789, "lr", "0.0123457"),
        (0.7801, "share", "78.0 %"),
    ],
)
def test_cells(value: object, column: str, shown: str) -> None:
    assert formatting.cell(value, column) == shown


def test_many_trials_are_loaded_by_reading_each_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard's table, repeated under new trial numbers. Curves, most of a file, are read only on request."""
    prepared, files = sweep(tmp_path, LINE, [])
    plan = json.loads(files.plan_path.read_text())
    files.plan_path.write_text(json.dumps(plan | {"trials": 40_000, "shards": 8, "trials_per_shard": 5000}))
    result = run_shard(prepared, Shard(0, 0, 20))
    assert isinstance(result, ShardResult)
    table = pa.concat_tables([result.table] * 250).replace_schema_metadata(result.table.schema.metadata)
    for index in range(8):
        numbers = pa.array(np.arange(5000) + 5000 * index)
        shard = table.set_column(0, "trial", numbers)
        files.shards.write(ShardResult(Shard(index, 5000 * index, 5000 * (index + 1)), shard, 0.0))
    read = ShardFiles.read
    reads: list[tuple[int, list[str] | None]] = []
    monkeypatch.setattr(ShardFiles, "read", lambda self, i, c=None: reads.append((i, c)) or read(self, i, c))
    results = load_results(files)
    assert len(results.trials) == 40_000
    assert sorted(index for index, _ in reads) == list(range(8))
    assert all(columns and "loss" not in columns for _, columns in reads)
    assert results.trials["trial"].is_monotonic_increasing
    del reads[:]
    assert list(results.curves([39_999])["trial"].unique()) == [39_999]
    assert [index for index, _ in reads] == [7]


def test_predictions_are_held_against_outcomes(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    prepared = make_prepared(
        parameters={
            "lr": {"min": 0.005, "max": 0.1, "count": 20},
            "momentum": {"values": [0, 0.5, 0.9]},
            "init.weight": {"value": 0},
            "init.bias": {"value": 0},
        },
        training={"epochs": 300},
    )
    files = stored(prepared)
    table = predictions(load_results(files)).set_index("predicted")
    assert table["trials"].sum() == 60
    assert table["contradicted"].sum() == 0
    assert table.loc["diverges (radius > 1)", "converged"] == 0
    assert table.loc["settles (radius < 1)", ["diverging", "diverged"]].sum() == 0
    assert table.loc["settles (radius < 1)", "converged"] > 10
    assert "spectral radius of the epoch's map; 0 trials contradict it" in render_report(load_results(files), "md")


def test_a_contradiction_is_a_finding(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    files = stored(
        make_prepared(
            parameters={
                "lr": {"values": [0.01, 0.02, 0.03, 0.2]},
                "momentum": {"value": 0},
                "init.weight": {"value": 0},
            },
            training={"epochs": 1000},
        )
    )
    loaded = load_results(files)
    assert finding(loaded) is None
    assert "Finding" not in render_report(loaded, "md")
    table = files.shards.read(0)
    upside_down = pc.divide(1.0, table["predicted_radius"])
    files.shards.replace(
        0, table.set_column(table.column_names.index("predicted_radius"), "predicted_radius", upside_down)
    )
    loaded = load_results(files)
    assert sorted(contradicting_trials(loaded)["trial"]) == [0, 1, 2, 3]
    assert contradicting_trials(loaded, 2)["trial"].tolist() == [3, 2]
    found = finding(loaded)
    assert found is not None
    assert found.startswith("1 trial predicted to settle ended above the initial loss")
    assert "; 3 trials predicted to diverge did not" in found
    for page in (render_report(loaded, "md"), render_report(loaded, "html")):
        assert f"Finding: {found}." in page
        assert "Trials that contradict the prediction" in page
    training = loaded.config.training.model_copy(update={"epochs": 3})
    short = replace(loaded, config=loaded.config.model_copy(update={"training": training}))
    assert finding(short) is None
    assert "0 trials contradict it; 4 more disagree, but ran for too few epochs" in render_report(short, "md")


def test_a_noise_floor_above_the_start_is_told(
    make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]
) -> None:
    """Growth is about differences: with weight decay no two batches have a common optimum."""
    parameters = {
        "lr": {"value": 0.099},
        "weight_decay": {"values": [0, 0.1]},
        "init.weight": {"value": 0},
        "init.bias": {"value": 0},
    }
    files = stored(make_prepared(parameters=parameters, training={"epochs": 200, "order": "shuffled"}))
    loaded = load_results(files)
    assert list(loaded.trials["verdict"]) == ["converged", "diverging"]
    table = predictions(loaded).set_index("predicted")
    assert table.loc["settles (growth < 1)", ["trials", "contradicted"]].tolist() == [2, 1]
    assert "a noise floor" in str(finding(loaded))
    assert "growth per epoch over the drawn orders; one trial contradicts it" in render_report(loaded, "md")
