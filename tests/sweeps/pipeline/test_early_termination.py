"""Early termination: who stops when, with the bits of undisturbed training, however often the sweep is killed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sweeps.config.early_termination import EarlyTermination
from sweeps.config.loader import parse
from sweeps.errors import ConfigError
from sweeps.execution.executor import ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted, SweepOutcome
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard, ShardFailure
from sweeps.report.headline import lead_sentences
from sweeps.results.results import load_results
from sweeps.search.early_termination import first_rungs, rungs
from sweeps.store.store import Store, SweepFiles
from sweeps.verification.audit import verify
from sweeps.verification.replay import replay_trial
from tests.support.documents import document
from tests.support.doubles import Silent, Untracked
from tests.support.json_lines_tracker import JsonLinesTracker
from tests.support.stores import contents

HALVING = {"type": "successive_halving"}
EPOCHS = 9
LR = {"lr": {"min": 1e-3, "max": 1, "count": 12, "scale": "log"}}
DIABETES: dict[str, Any] = {"dataset": {"kind": "diabetes", "standardize": "all", "validation": 0.3}}
TASKS: dict[str, dict[str, Any]] = {
    "line": {"parameters": LR | {"momentum": {"values": [0, 0.9]}, "weight_decay": {"values": [0, 0.1]}}},
    "everything": {
        "task": DIABETES,
        "training": {
            "epochs": EPOCHS,
            "order": "shuffled",
            "batch_size": 32,
            "dtype": "float64",
            "groups": {"bias": ["bias"]},
            "schedule": {"kind": "cosine", "T_max": EPOCHS},
        },
        "parameters": LR
        | {
            "momentum": {"value": 0.9},
            "weight_decay": {"value": 0.1},
            "weight_decay.bias": {"value": 0},
            "clip_grad_norm": {"values": [None, 0.5]},
            "batch_size": {"values": [32, 100]},
        },
        "seeds": [1, 2],
    },
    "folds": {
        "task": {"dataset": {"kind": "linear", "n": 30, "d": 3, "noise": 0.3, "validation": {"folds": 3}}},
        "training": {"epochs": EPOCHS, "order": "shuffled", "batch_size": 5},
        "parameters": LR,
        "seeds": [1, 2],
    },
    "network": {
        "task": {"dataset": {"kind": "sine", "n": 40}, "model": {"kind": "mlp", "hidden": [6]}},
        "training": {"epochs": EPOCHS, "batch_size": 8, "order": "shuffled"},
        "parameters": LR | {"weight_decay": {"values": [0, 0.1]}},
    },
}


def prepared_of(task: str = "line", rule: dict[str, Any] | None = HALVING, **changes: Any) -> PreparedSweep:
    given = {"training": {"epochs": EPOCHS}, "execution": {"trials_per_shard": 7}} | TASKS[task] | changes
    return prepare(parse(document(**given | ({"early_terminate": rule} if rule else {})), "c.yaml"))


class Interrupting(InlineExecutor):
    """An executor that is interrupted after some packs."""

    def __init__(self, packs: int) -> None:
        self.left = packs

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        for outcome in islice(super().run(prepared, shards), self.left):
            self.left -= 1
            yield outcome
        if self.left == 0:
            raise KeyboardInterrupt


class Failing(InlineExecutor):
    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        first, *rest = shards
        yield ShardFailure(first, "RuntimeError: no")
        yield from super().run(prepared, rest)


def started(store: Store, prepared: PreparedSweep, sweep_id: str) -> SweepFiles:
    return create(prepared, store, InlineExecutor(), Untracked(), fresh=True, sweep_id=sweep_id)


def swept(store: Store, prepared: PreparedSweep, sweep_id: str = "aa") -> SweepFiles:
    files = started(store, prepared, sweep_id)
    run(files, prepared, InlineExecutor(), Untracked(), Silent())
    return files


def rows(files: SweepFiles) -> pa.Table:
    return pa.concat_tables(table.replace_schema_metadata() for table in files.shards.tables())


@pytest.mark.parametrize("rule", ["successive_halving", "hyperband", "median"])
@pytest.mark.parametrize("task", TASKS)
def test_trials_have_the_bits_of_undisturbed_training(task: str, rule: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    pruned = rows(swept(store, prepared_of(task, {"type": rule})))
    whole = rows(swept(store, prepared_of(task, None), "bb"))
    stopped = pruned["stopped_epoch"].to_pylist()
    complete = np.flatnonzero([epoch is None for epoch in stopped])
    assert 0 < len(complete) < len(pruned) == len(whole)
    relative = ("verdict", "steps_to_tolerance") if task == "network" else ()  # to the best trial of the sweep
    for name in set(whole.column_names) - set(relative):
        assert pruned[name].take(complete).equals(whole[name].take(complete)), name
    for epochs in set(stopped) - {None}:
        training = TASKS[task].get("training", {}) | {"epochs": int(epochs)}
        short = rows(swept(store, prepared_of(task, None, training=training), f"c{int(epochs)}"))
        there = np.flatnonzero([epoch == epochs for epoch in stopped])
        for name in ("final", "final_loss", "first_nonfinite_step", *(["final_validation_loss"] * (task != "line"))):
            if name in short.column_names:
                assert pruned[name].take(there).equals(short[name].take(there)), name


@pytest.mark.parametrize("task", ["line", "folds"])
def test_halving_keeps_the_best_third_at_every_rung(task: str, tmp_path: Path) -> None:
    store, prepared = Store(tmp_path), prepared_of(task)
    metric, columns = prepared.config.metric_name, ["lr", "momentum", "weight_decay"]
    trials = load_results(swept(store, prepared)).trials
    training = TASKS[task].get("training", {})
    alive = trials[["trial", *columns]]
    for epochs, following in ((1, 3), (3, 9)):
        short = prepared_of(task, None, training=training | {"epochs": epochs})
        then = load_results(swept(store, short, f"b{epochs}")).trials
        then = then[then["trial"].isin(alive["trial"])]
        finite = then["first_nonfinite_step"].isna().groupby([then[c] for c in columns]).all()
        means = then.groupby(columns)[metric].mean()[finite].sort_values(kind="stable")
        kept = means.head(max(1, alive.groupby(columns).ngroups // 3)).index
        alive = alive[pd.MultiIndex.from_frame(alive[columns]).isin(kept)]
        reached = trials["stopped_epoch"].isna() | (trials["stopped_epoch"] >= following)
        assert sorted(trials["trial"][reached & trials["first_nonfinite_step"].isna()]) == sorted(alive["trial"])


def test_rungs_and_brackets_are_those_of_hyperband() -> None:
    """Li et al. (2018), table 1: R = 81 and eta = 3."""
    rule = EarlyTermination(type="hyperband")
    assert rungs(rule, 81) == [1, 3, 9, 27, 81]
    assert rungs(rule, 100) == [1, 4, 11, 33, 100]
    assert rungs(EarlyTermination(type="hyperband", eta=2, min_epochs=3), 20) == [5, 10, 20]
    first = first_rungs(rule, 5, 137_000, seed=3)
    published = np.array([81, 34, 15, 8])  # n of the brackets s = 4 ... 1
    assert np.bincount(first) / len(first) == pytest.approx(published / published.sum(), abs=0.01)
    assert not first_rungs(EarlyTermination(type="successive_halving"), 5, 100, seed=3).any()


def test_hyperband_stops_no_trial_before_its_bracket_and_halves_each_bracket(tmp_path: Path) -> None:
    lr = {"lr": {"min": 1e-3, "max": 0.05, "count": 270, "scale": "log"}}
    prepared = prepared_of("line", {"type": "hyperband"}, parameters=lr, execution={})
    trials = load_results(swept(Store(tmp_path), prepared)).trials
    first = first_rungs(EarlyTermination(type="hyperband"), 3, 270, seed=0)
    for rung, rest in ((0, [1, 3]), (1, [3])):
        stopped = trials["stopped_epoch"][first == rung]
        assert set(stopped.dropna()) == set(rest)
        left = int((first == rung).sum())
        for epochs in rest:
            left = left // 3
            assert (stopped.isna() | (stopped > epochs)).sum() == left


@pytest.mark.parametrize("task", ["everything", "network"])
@pytest.mark.parametrize("packs", [1, 5])
def test_a_killed_sweep_has_the_shards_of_an_undisturbed_one(task: str, packs: int, tmp_path: Path) -> None:
    store, prepared = Store(tmp_path), prepared_of(task)
    files = started(store, prepared, "aa")
    with pytest.raises(Interrupted):
        run(files, prepared, Interrupting(packs), Untracked(), Silent())
    while not files.is_computed():
        with suppress(Interrupted):
            resume(files, Interrupting(packs), Untracked(), Silent())
    assert contents(files) == contents(swept(store, prepared, "bb"))
    assert not files.storage.files("rungs")


def test_a_pack_that_fails_makes_the_sweep_fail_and_resume_completes_it(tmp_path: Path) -> None:
    store, prepared = Store(tmp_path), prepared_of()
    files = started(store, prepared, "aa")
    outcome = run(files, prepared, Failing(), Untracked(), Silent())
    assert outcome.failed_trials == 7
    assert [failure.reason for failure in files.shards.failures()] == ["RuntimeError: no"]
    assert not files.shards.done()
    assert resume(files, InlineExecutor(), Untracked(), Silent()).failed_trials == 0
    assert not files.shards.failures()
    assert contents(files) == contents(swept(store, prepared, "bb"))


def tracked(tmp_path: Path, prepared: PreparedSweep) -> tuple[SweepOutcome, JsonLinesTracker]:
    tracker = JsonLinesTracker(tmp_path / "runs.jsonl")
    files = create(prepared, Store(tmp_path / "store"), InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    publish(outcome, tracker)
    return outcome, tracker


@pytest.mark.parametrize("task", TASKS)
def test_the_sweep_verifies_and_its_trials_are_logged_once(task: str, tmp_path: Path) -> None:
    outcome, tracker = tracked(tmp_path, prepared_of(task))
    audit = verify(outcome.files, tracker, sample=12)
    assert audit.differences == []
    assert audit.logged == audit.trials == audit.stored == len(outcome.prepared.plan)
    assert audit.recomputed == 12
    trials = load_results(outcome.files).trials
    for pruned in (True, False):
        chosen = trials[(trials["pruned"] == pruned) & trials["first_nonfinite_step"].isna()].iloc[0]
        replay = replay_trial(outcome.files, str(chosen["trial"]))
        assert replay.agrees
        assert replay.facts["store_holds_the_same"]


def test_pruned_trials_are_not_ranked(tmp_path: Path) -> None:
    files = swept(Store(tmp_path), prepared_of())
    results = load_results(files)
    pruned = results.trials["trial"][results.trials["pruned"]]
    best = results.shown(results.aggregate.best)
    ranked = ~results.trials["pruned"] & (results.trials["verdict"] != "diverged")
    assert sorted(best["trial"]) == results.trials["trial"][ranked].tolist()
    epochs = results.trials["stopped_epoch"].fillna(EPOCHS)
    saved = f"{EPOCHS * len(epochs) / epochs.sum():.3g} times fewer epochs"
    assert f"pruned {len(pruned)} of 48 trials, for {saved}" in " ".join(lead_sentences(results))


def test_states_are_kept_on_request(tmp_path: Path) -> None:
    files = swept(Store(tmp_path), prepared_of(rule=HALVING | {"keep_states": True}))
    assert files.storage.files("rungs")
    states = files.rungs.read(0, 2, ["trial", "final", "state.momentum_buffers"])
    trials = load_results(files).trials
    assert states is not None
    complete = trials["stopped_epoch"].isna() & trials["first_nonfinite_step"].isna()
    assert states["trial"].to_pylist() == trials["trial"][complete].tolist()


@pytest.mark.parametrize(("method", "batch"), [("random", {}), ("tpe", {"batch": 8})])
def test_other_methods_prune_too(method: str, batch: dict[str, int], tmp_path: Path) -> None:
    space = {"lr": {"min": 1e-3, "max": 0.1, "scale": "log"}, "momentum": {"min": 0, "max": 0.9}}
    prepared = prepared_of(parameters=space, method=method, run_cap=24, **batch)
    trials = load_results(swept(Store(tmp_path), prepared)).trials
    assert len(trials) == 24
    assert trials["pruned"].sum() >= 20 if method == "random" else trials["pruned"].sum() >= 18


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "type": ({"type": "asha"}, "early_terminate.type: given 'asha'; allowed: hyperband, successive_halving, median"),
    "eta": (HALVING | {"eta": 1}, "early_terminate.eta: given 1; must be >= 1.5"),
    "key": (
        HALVING | {"min_iter": 3},
        "early_terminate.min_iter: unknown key; allowed: type, eta, min_epochs, keep_states",
    ),
    "epochs": (HALVING | {"min_epochs": 9}, "early_terminate.min_epochs: given 9; must be < training.epochs, 9"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_rule_is_one_clear_line(case: str) -> None:
    rule, message = WRONG[case]
    with pytest.raises(ConfigError) as error:
        prepared_of(rule=rule)
    assert message in str(error.value)


def test_patience_and_early_termination_exclude_each_other(make_prepared: Callable[..., PreparedSweep]) -> None:
    training = {"epochs": 9, "early_stopping": {"patience": 2}}
    with pytest.raises(ConfigError, match=r"early_terminate: cannot be combined with training\.early_stopping"):
        make_prepared(training=training, early_terminate=HALVING)
