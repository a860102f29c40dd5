"""All search methods: the cap holds, a killed sweep has the trials of an undisturbed one, and verify agrees."""

import importlib.util
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scipy.optimize import rosen

from sweeps.config.axis import Axis
from sweeps.config.loader import parse
from sweeps.config.schema import SweepConfig
from sweeps.errors import ConfigError
from sweeps.execution.executor import ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard
from sweeps.results.results import load_results
from sweeps.search.base import search_method
from sweeps.search.rounds import Observations, RoundsSearch
from sweeps.store.store import Store, SweepFiles
from sweeps.verification.audit import verify
from tests.support.documents import document
from tests.support.doubles import Silent, Untracked
from tests.support.json_lines_tracker import JsonLinesTracker
from tests.support.stores import contents

METHODS = get_args(SweepConfig.model_fields["method"].annotation)
DRAWING = [name for name in METHODS if name not in ("grid", "boundary")]
LEARNING = [name for name in METHODS if isinstance(search_method(name), RoundsSearch)]
CAP = 22
SPACE: dict[str, Any] = {
    "lr": {"min": 1e-3, "max": 2, "scale": "log"},  # the largest overflow
    "momentum": {"min": 0, "max": 0.99},
    "nesterov": {"values": [False, True]},
    "weight_decay": {"values": [0, 0.01, 0.1]},
    "init.bias": {"distribution": "normal"},
    "clip_grad_norm": {"values": [None, 1.0]},
}
GRID = {"lr": {"min": 1e-3, "max": 2, "count": 11, "scale": "log"}, "momentum": {"values": [0, 0.9]}}


EDGES = {
    "lr": {"min": 1e-3, "max": 0.5, "count": 12, "scale": "log", "tolerance": 0.001},
    "momentum": {"values": [0, 0.9]},
    "init.weight": {"value": 0},
    "init.bias": {"value": 0},
}


def prepared_of(method: str, **changes: Any) -> PreparedSweep:
    given: dict[str, Any] = {"method": method, "parameters": GRID} if method == "grid" else {}
    if method == "boundary":
        given = {"method": method, "parameters": EDGES}
    elif method != "grid":
        given = {"method": method, "run_cap": CAP, "parameters": SPACE}
        given |= {"batch": 8} if method in LEARNING else {}
    return prepare(parse(document(training={"epochs": 40}, **given | changes), "c.yaml"))


class Killed(InlineExecutor):
    """An executor that is interrupted after some shards."""

    def __init__(self, shards: int) -> None:
        self.left = shards

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        for outcome in islice(super().run(prepared, shards), self.left):
            self.left -= 1
            yield outcome
        if self.left == 0:
            raise KeyboardInterrupt


def swept(store: Store, prepared: PreparedSweep, sweep_id: str = "aa", kill_after: int | None = None) -> SweepFiles:
    """Run a sweep; with ``kill_after``, interrupted after every so many shards and resumed."""
    files = create(prepared, store, InlineExecutor(), Untracked(), fresh=True, sweep_id=sweep_id)
    if kill_after is None:
        run(files, prepared, InlineExecutor(), Untracked(), Silent())
        return files
    try:
        run(files, prepared, Killed(kill_after), Untracked(), Silent())
    except Interrupted:
        while not (files.planned().is_complete and not files.shards.missing(files_plan(files))):
            try:
                resume(files, Killed(kill_after), Untracked(), Silent())
            except Interrupted:
                continue
    return files


def files_plan(files: SweepFiles) -> Any:
    from sweeps.store.reopen import reopen

    return reopen(files).plan.shards()


@pytest.mark.parametrize("method", METHODS)
def test_the_sweep_runs_and_verifies(method: str, tmp_path: Path) -> None:
    tracker, prepared = JsonLinesTracker(tmp_path / "runs.jsonl"), prepared_of(method)
    files = create(prepared, Store(tmp_path), InlineExecutor(), tracker)
    publish(run(files, prepared, InlineExecutor(), tracker, Silent()), tracker)
    results = load_results(files)
    assert len(results.trials) == results.planned
    assert results.planned == CAP or method == "boundary"
    assert results.trials["trial_id"].is_unique
    audit = verify(files, tracker, sample=5)
    assert audit.differences == []
    assert (audit.exact, audit.logged) == (5, results.planned)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kill_after", [1, 3])
def test_a_killed_sweep_has_the_trials_of_an_undisturbed_one(method: str, kill_after: int, tmp_path: Path) -> None:
    prepared = prepared_of(method)
    whole = swept(Store(tmp_path), prepared)
    killed = swept(Store(tmp_path), prepared, "bb", kill_after)
    tables = [load_results(files).trials.drop(columns="verdict") for files in (whole, killed)]
    assert tables[0].equals(tables[1])
    assert contents(whole).keys() == contents(killed).keys()


@pytest.mark.parametrize("method", DRAWING)
def test_another_seed_draws_other_trials(method: str, tmp_path: Path) -> None:
    first, second = (prepared_of(method, search_seed=seed).plan for seed in (0, 1))
    assert not set(first.ids(first.trials(0, 8))) & set(second.ids(second.trials(0, 8)))


@pytest.mark.parametrize("method", DRAWING)
def test_settings_are_repeated_with_seeds_and_folds(method: str, tmp_path: Path) -> None:
    prepared = prepared_of(
        method,
        task={"dataset": {"kind": "linear", "n": 12, "d": 1, "validation": {"folds": 2}}},
        parameters={name: SPACE[name] for name in ("lr", "momentum")},
        seeds=[3, 4],
        **({"batch": 4} if method in LEARNING else {}),
    )
    trials = load_results(swept(Store(tmp_path), prepared)).trials
    assert len(trials) == 20
    for _, setting in trials.groupby(["lr", "momentum"]):
        assert sorted(zip(setting["seed"], setting["fold"], strict=True)) == [(3, 0), (3, 1), (4, 0), (4, 1)]


@pytest.mark.parametrize("method", LEARNING)
def test_a_missing_package_is_named(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=rf"method: {method} needs the package \w+: pip install 'sgd-sweeps\[search\]'"
    ):
        prepared_of(method)


@pytest.mark.parametrize("method", LEARNING)
def test_a_method_that_learns_finds_better_settings_than_the_first_round(method: str) -> None:
    """On Rosenbrock's function over [0, 1]^2, whose minimum lies at an end of both axes and along a curved valley."""
    axes = {name: Axis.model_validate({"min": 0, "max": 1}) for name in ("x", "y")}
    search = search_method(method)
    assert isinstance(search, RoundsSearch)
    points = np.random.default_rng(0).random((16, 2))
    values, rounds = rosen(points.T), np.zeros(16)
    first = values.min()
    for index in range(1, 8):
        levels = {"x": points[:, 0], "y": points[:, 1]}
        seen = Observations(levels, np.argsort(np.argsort(values)).astype(np.float64), rounds)
        found = search.suggest(axes, seen, 16, index)
        new = np.column_stack([found["x"], found["y"]])
        assert ((new >= 0) & (new <= 1)).all()
        points, values = np.concatenate([points, new]), np.concatenate([values, rosen(new.T)])
        rounds = np.concatenate([rounds, np.full(16, index)])
    assert values.min() < first / 3
