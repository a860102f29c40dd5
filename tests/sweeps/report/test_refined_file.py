"""The file that refines a sweep: it loads, runs, holds the best settings or the edge, and overwrites nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps.cli.commands.manage import refine
from sweeps.config.loader import load, loads
from sweeps.config.schema import SweepConfig
from sweeps.errors import InputError
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.report.refined_file import next_name, refined_file
from sweeps.results.recommendation import recommendation
from sweeps.results.results import Results, load_results
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli

Prepare = Callable[..., PreparedSweep]
Compute = Callable[[PreparedSweep], SweepFiles]
START = {"init.weight": {"value": 0}, "init.bias": {"value": 0}}
FULL_BATCH = {"epochs": 300, "batch_size": 5, "dtype": "float64"}
EDGE = 2 / np.linalg.eigvalsh(2 / 5 * np.array([[55, 15], [15, 5]]))[1]  # of a full batch without momentum


@pytest.fixture
def swept(make_prepared: Prepare, stored: Compute, store: Store) -> Callable[..., Results]:
    def run(parameters: Any, **changes: Any) -> Results:
        for files in store.sweeps():
            store.remove(files)
        changes = {"training": FULL_BATCH, "execution": {}} | changes
        return load_results(stored(make_prepared(parameters=parameters, **changes)))

    return run


def read(text: str) -> SweepConfig:
    config = loads(text, "refined.yaml")
    prepare(config)
    return config


def test_a_grid_is_zoomed_to_the_settings_that_are_as_good_and_about_as_fast(swept: Callable[..., Results]) -> None:
    grid = {"lr": {"min": 0.001, "max": 0.2, "count": 40, "scale": "log"}, "momentum": {"values": [0, 0.5, 0.8]}}
    results = swept(grid | START, expected=[{"case": "a", "where": {"lr": 0.001}, "final": {"weight": 0.8}}])
    text = refined_file(results)
    config = read(text)
    [mapping] = config.mappings()
    found = recommendation(results)
    assert found is not None
    near = results.trials[results.trials["steps_to_tolerance"] <= 2 * found.speed]
    lr = mapping["lr"]
    assert lr.min is not None
    assert lr.max is not None
    points = results.config.mappings()[0]["lr"].points()
    assert points[0] < lr.min <= found.setting["lr"] <= lr.max < points[-1]
    assert lr.min <= near["lr"].min()
    assert (lr.count, lr.scale) == (40, "log")
    assert found.setting["momentum"] in mapping["momentum"].points()
    assert (config.name, config.expected) == ("small-refined", ())
    assert "# lr: the best setting" in text
    assert config.training == results.config.training


def test_the_end_of_an_axis_is_extended(swept: Callable[..., Results]) -> None:
    results = swept({"lr": {"min": 0.001, "max": 0.01, "count": 10}} | START)
    [mapping] = read(refined_file(results)).mappings()
    assert mapping["lr"].max == pytest.approx(0.01225, rel=0.01)
    assert "extended, because the recommended one is the largest" in refined_file(results)


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_drawn_settings_are_zoomed_and_keep_their_distributions(swept: Callable[..., Results], method: str) -> None:
    space = {"lr": {"min": 1e-4, "max": 1, "scale": "log"}, "momentum": {"min": 0, "max": 0.95}}
    results = swept(space | START, method=method, run_cap=100)
    config = read(refined_file(results))
    [mapping], found = config.mappings(), recommendation(results)
    assert found is not None
    assert (config.method, config.run_cap) == (method, 100)
    for name, value in found.setting.items():
        assert mapping[name].distribution_name == results.config.mappings()[0][name].distribution_name
        low, high = mapping[name].named()
        assert low is not None
        assert high is not None
        assert low <= value <= high
    assert np.ptp(np.log(mapping["lr"].points())) < 0.7 * np.log(1e4)


def test_the_mapping_of_a_list_that_has_the_best_setting_is_zoomed(swept: Callable[..., Results]) -> None:
    good = {"lr": {"values": [0.01, 0.02, 0.04, 0.08]}, "momentum": {"value": 0.3}}
    results = swept([{"lr": {"values": [1e-6, 2e-6, 3e-6]}, "momentum": {"value": 0}} | START, good | START])
    config = read(refined_file(results))
    assert isinstance(config.parameters, dict)
    assert config.parameters["momentum"].value == 0.3
    assert "this is the one with the recommended setting" in refined_file(results)


@pytest.mark.parametrize("is_list", [False, True])
def test_the_edge_of_stability_is_between_the_new_ends(swept: Callable[..., Results], is_list: bool) -> None:
    """A full batch without momentum diverges from lr 2 / L on."""
    mapping = {"lr": {"min": 0.01, "max": 0.5, "count": 30, "scale": "log"}} | START
    far = {"lr": {"values": [1e-4, 2e-4]}, "momentum": {"value": 0.1}} | START
    results = swept([mapping, far] if is_list else mapping)
    config = read(refined_file(results, edge=True))
    for _ in range(2):
        lr = config.mappings()[0]["lr"]
        assert lr.min is not None
        assert lr.max is not None
        assert lr.min < EDGE < lr.max
        assert lr.max / lr.min < 1.16
        text = config.to_yaml()
        config = read(text)
    assert len(config.mappings()) == 1 + is_list


def test_without_a_region_the_error_says_what_to_do(swept: Callable[..., Results]) -> None:
    diverged = swept({"lr": {"values": [1, 2]}} | START)
    with pytest.raises(InputError, match="no region to zoom to"):
        refined_file(diverged)
    with pytest.raises(InputError, match="no trial settled: lower lr"):
        refined_file(diverged, edge=True)
    with pytest.raises(InputError, match="every stored trial settled"):
        refined_file(swept({"lr": {"values": [0.01, 0.02]}} | START), edge=True)
    with pytest.raises(InputError, match="lr is not an axis"):
        refined_file(swept({"momentum": {"values": [0, 0.1]}} | START), edge=True)


@pytest.mark.parametrize(
    ("name", "following"),
    [
        ("a", "a-refined"),
        ("a-refined", "a-refined-2"),
        ("a-refined-9", "a-refined-10"),
        ("b" * 200, "b" * 192 + "-refined"),
    ],
)
def test_the_next_name(name: str, following: str) -> None:
    assert next_name(name) == following


def test_the_command_writes_a_file_that_runs_and_overwrites_none(
    cli: Cli, swept: Callable[..., Results], stored: Compute, store: Store, tmp_path: Path
) -> None:
    results = swept({"lr": {"min": 0.01, "max": 0.2, "count": 8}} | START)
    out = tmp_path / "next.yaml"
    assert f"sweeps run {out}" in cli("refine", "small", "--output", out).stdout
    assert out.read_text() == refined_file(results)
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already; overwrite it with --force"):
        refine("small", output=out, store=store.where)
    with pytest.raises(InputError, match="cannot be written"):
        refine("small", output=tmp_path / "none" / "x.yaml", store=store.where)
    with pytest.raises(InputError, match="--force needs --output"):
        refine("small", force=True, store=store.where)
    assert out.read_text() == "mine"
    refine("small", edge=True, output=out, force=True, store=store.where)
    assert out.read_text() == refined_file(results, edge=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()].count("next.yaml") == 1
    store.remove(results.files)
    refined = load_results(stored(prepare(load(out))))
    assert (refined.config.name, refined.stored) == ("small-refined", 8)
