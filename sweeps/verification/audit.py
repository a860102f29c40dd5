"""Audit a sweep: check the store against the plan, MLflow against the store, and a sample against torch.optim.SGD."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sgdcore import Thresholds, judge
from sgdcore.trajectories import NEVER
from sgdcore.verdict import VERDICTS
from sweeps.arrow_columns import matrix
from sweeps.config.schema import HYPERPARAMETERS
from sweeps.errors import StoreError, SweepHeld
from sweeps.execution.shard_table import recorded_steps, shard_metadata
from sweeps.execution.training import train_table
from sweeps.plan.plan import Trials
from sweeps.plan.prepared import PreparedSweep, prepare
from sweeps.plan.shards import Shard
from sweeps.results.final_verdicts import final_verdicts
from sweeps.results.ranking import best_trials
from sweeps.search.trial_table import TrialTable
from sweeps.store.next_stage import next_stage
from sweeps.store.reopen import with_stored_stages
from sweeps.store.store import SweepFiles
from sweeps.tracking.base import LoggedRun, TrackedSweep, Tracker
from sweeps.tracking.policy import runs_wanted
from sweeps.tracking.trial_runs import expected_runs
from sweeps.verification.tolerance import TrialOutcome, outcome_differences, trained_by_torch, trial_outcome

_SAMPLE = 20  # default number of trials to recompute
# Maximum torch steps of the default sample: half a minute, or seven times that if all trials amplify rounding.
_SAMPLE_STEPS = 100_000
_OUTCOME = {"verdict", "final_loss", "first_nonfinite_step", "final", "loss"}
_COLUMNS = {"trial", "trial_id", *HYPERPARAMETERS, "seed", *_OUTCOME}
_ALONE = (b"numba", b"triton")  # kernels whose results for a trial do not depend on the other trials


@dataclass(frozen=True)
class Difference:
    """A difference between what is expected and what was found."""

    what: str
    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        """Return the difference as one line."""
        return f"{self.what} ({self.where}): expected {self.expected}, found {self.found}"


@dataclass
class Audit:
    """The result of an audit: what was checked and what differs."""

    sweep_id: str
    trials: int = 0  # planned trials
    steps: int = 0  # steps per trial
    stored: int = 0  # stored trials that match the plan
    logged: int = 0  # trials with exactly one MLflow run that matches the store
    recomputed: int = 0  # trials recomputed for the sample
    curtailed: bool = False  # whether the sample was reduced because its trials take many steps
    exact: int = 0  # recomputed trials that are equal bit for bit
    verdicts: Counter[str] = field(default_factory=Counter)  # stored trials by verdict
    best: float | None = None  # best metric of the stored trials that did not diverge
    differences: list[Difference] = field(default_factory=list)


def verify(files: SweepFiles, tracker: Tracker, sample: int | None = None, seed: int = 0) -> Audit:
    """Audit a sweep without writing anything.

    Args:
        files: Files of the sweep.
        tracker: Tracker to which the sweep is logged.
        sample: Number of trials to retrain with torch.optim.SGD; by default 20, or fewer if they take many steps.
        seed: Seed for choosing the sample.

    Raises:
        SweepHeld: another process holds the sweep.
        InputError: the plan cannot be read, or the tracking URI cannot be reached.
    """
    if (holder := files.holder()) is not None:
        raise SweepHeld(f"sweep {files.sweep_id} is held by {holder}; verify it when that process is done")
    manifest = files.manifest()
    prepared = prepare(files.config(), files.config_location, int(manifest["trials_per_shard"]))
    plan_differences = list(_plan_differences(prepared, manifest))
    if not plan_differences:
        prepared = with_stored_stages(prepared, files)
    audit = Audit(files.sweep_id, trials=len(prepared.plan), steps=prepared.plan.steps)
    if sample is None:
        sample = min(_SAMPLE, _SAMPLE_STEPS // max(1, prepared.plan.steps))
        audit.curtailed = sample < min(_SAMPLE, len(prepared.plan))
    audit.differences += plan_differences
    if audit.differences:
        return audit  # the store cannot be compared with a different plan
    tracker.check()
    audit.differences += _store_differences(prepared, files, audit)
    if not audit.differences:
        audit.differences += _stage_differences(prepared, files)
    if not (prepared.task.is_quadratic or audit.differences):
        audit.differences += _verdict_differences(prepared, files)
    audit.differences += _tracking_differences(prepared, files, tracker, audit)
    audit.differences += _sample_differences(prepared, files, audit, np.random.default_rng(seed), sample)
    return audit


def _plan_differences(prepared: PreparedSweep, manifest: dict[str, Any]) -> Iterator[Difference]:
    names = {"context": "digest of data, model and training", "data": "digest of the data"}
    facts = prepared.plan.summary() | {"data": prepared.task.dataset.digest}
    found = manifest | {"data": manifest.get("data", {}).get("digest")}
    for key in ("data", "context", "trials", "shards", "steps", "parameters"):
        if found.get(key) != facts[key]:
            yield Difference(names.get(key, key), "plan.json", str(found.get(key)), f"{facts[key]} when planned again")


def _stage_differences(prepared: PreparedSweep, files: SweepFiles) -> Iterator[Difference]:
    """Check that each stage follows from the config and the results of earlier stages; requires all shards."""
    stages = prepared.plan.stages
    for index in range(1, len(stages) + 1):
        follows = next_stage(files, prepared, index)
        expected = [] if follows is None else list(TrialTable.of(follows.trials).keys())
        found = [] if index == len(stages) else list(TrialTable.of(stages[index].trials).keys())
        if expected != found:
            yield Difference("stage", f"stage {index}", f"{len(expected):,} trials", f"{len(found):,} different trials")
            return
    if not files.planned().is_complete:
        yield Difference("stages", "stages.json", "a complete search", "an incomplete search")


def _store_differences(prepared: PreparedSweep, files: SweepFiles, audit: Audit) -> Iterator[Difference]:
    """Check that every planned trial is stored once, in its row, and that numbers are finite or null."""
    done = files.shards.done()
    planned = range(len(prepared.plan.shards()))
    for index in sorted(done - set(planned)):
        yield Difference("shard", f"{index:05}.parquet", "no shard with this number", "a file")
    for shard in prepared.plan.shards():
        where = f"{shard.index:05}.parquet"
        if shard.index not in done:
            tries = files.shards.tries(shard.index)
            yield Difference(
                "shard", where, f"{len(shard)} trials", f"no file after {tries} tries" if tries else "no file"
            )
            continue
        table = _table(files, shard.index)
        if table is None:
            yield Difference("shard", where, f"{len(shard)} trials", "a damaged file; remove it and resume the sweep")
            continue
        found = [Difference(what, where, *facts) for what, *facts in _shard_differences(prepared, shard, table)]
        yield from found
        audit.stored += 0 if found else len(shard)
        audit.verdicts.update(table["verdict"].to_pylist())
        settled = table.filter(pc.not_equal(table["verdict"], "diverged"))[prepared.config.metric.name]
        audit.best = min((v for v in (audit.best, pc.min(settled).as_py()) if v is not None), default=None)


def _verdict_differences(prepared: PreparedSweep, files: SweepFiles) -> Iterator[Difference]:
    """Check verdicts that depend on the best loss of the whole sweep."""
    for index, table, judged in final_verdicts(files, Thresholds(**prepared.config.verdict.model_dump())):
        if not table.equals(judged):
            yield Difference("verdicts", f"{index:05}.parquet", "verdicts from the sweep's losses", "others")


def _table(files: SweepFiles, index: int) -> pa.Table | None:
    """Return a shard's table, or None if the file is damaged."""
    try:
        table = files.shards.read(index)
    except StoreError:
        return None
    return table if set(table.column_names) >= _COLUMNS else None


def _shard_differences(prepared: PreparedSweep, shard: Shard, table: pa.Table) -> Iterator[tuple[str, str, str]]:
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    for key, fact in shard_metadata(prepared, metadata.get("kernel", ""), metadata.get("device", "")).items():
        if metadata.get(key) != fact:
            yield key, fact, str(metadata.get(key))
    trials = prepared.plan.trials(shard.start, shard.stop)
    columns: dict[str, list[Any]] = {"trial": trials.number.tolist(), "trial_id": prepared.plan.ids(trials)}
    columns |= {name: getattr(trials.hyperparams, name).tolist() for name in HYPERPARAMETERS}
    columns["seed"] = trials.seed.tolist()
    for name, values in columns.items():
        found = table[name].to_pylist() if name in table.column_names else []
        if len(found) != len(values):
            yield f"rows of {name}", str(len(values)), str(len(found))
        elif found != values:
            row = next(row for row, pair in enumerate(zip(values, found, strict=True)) if pair[0] != pair[1])
            yield f"{name} of trial {shard.start + row}", str(values[row]), str(found[row])
    for name in table.column_names:
        flat = table[name].combine_chunks()
        flat = flat.flatten() if pa.types.is_list(flat.type) else flat
        if pa.types.is_floating(flat.type) and not pc.all(pc.is_finite(flat), min_count=0).as_py():
            yield name, "finite values or nulls", "non-finite values"
    if strange := set(table["verdict"].to_pylist()) - set(VERDICTS):
        yield "verdict", f"one of {', '.join(VERDICTS)}", ", ".join(map(str, strange))


def _tracking_differences(
    prepared: PreparedSweep, files: SweepFiles, tracker: Tracker, audit: Audit
) -> Iterator[Difference]:
    """Check that there is one parent run with the right totals, and one matching child run per selected trial."""
    sweep = TrackedSweep(files, prepared.config, files.manifest(), prepared.plan.parameter_names)
    parents: list[LoggedRun] = []
    children: dict[str, list[tuple[str, bytes]]] = {}  # digests, because the facts of all runs might not fit in memory
    for run in tracker.logged_runs(sweep):
        if not run.trial_id:
            parents.append(run)
            continue
        children.setdefault(run.trial_id, []).append((run.run_id, _digest(run)))
        for name in run.not_finite:
            yield Difference(f"mlflow: {name}", f"run {run.run_id}", "a finite value", str(run.facts[name]))
    yield from _parent_differences(parents, audit, prepared.config.metric.name)
    steps, best = recorded_steps(prepared), _best(prepared, files)
    for index in sorted(files.shards.done()):
        if (table := _table(files, index)) is None:
            continue  # reported by _store_differences
        among = np.full(len(table), prepared.config.tracking.trials == "all")
        if best is not None:
            among = np.isin(table["trial"].to_numpy(), best.get(index, []))
        there = [trial_id in children for trial_id in table["trial_id"].to_pylist()]
        looked_at = table.filter(pa.array(among | np.array(there, np.bool_)))
        if len(looked_at):
            for run in expected_runs(sweep, looked_at, steps):
                found = list(_child_differences(run, children.pop(run.trial_id, []), tracker))
                yield from found
                audit.logged += not found
    for trial_id, runs in children.items():
        yield Difference(f"mlflow: trial {trial_id}", "runs", "a trial of this sweep", ", ".join(r for r, _ in runs))


def _best(prepared: PreparedSweep, files: SweepFiles) -> dict[int, list[int]] | None:
    """Return the trials to log, by shard, if only the best are logged; None if all or none are."""
    policy = prepared.config.tracking.trials
    if not policy.startswith("top:"):
        return None
    try:
        return best_trials(files, prepared.config.metric.name, runs_wanted(policy, len(prepared.plan)))
    except StoreError:
        return {}  # unknown with a damaged shard, which _store_differences reports


def _parent_differences(parents: list[LoggedRun], audit: Audit, metric: str) -> Iterator[Difference]:
    if len(parents) != 1:
        yield Difference("mlflow: parent run", "runs", "1", str(len(parents)))
        return
    facts: dict[str, str | float] = {"status": "FINISHED", "metric trials": float(audit.verdicts.total())}
    facts |= {f"metric trials/{verdict}": float(audit.verdicts[verdict]) for verdict in VERDICTS}
    if audit.best is not None:
        facts[f"metric best/{metric}"] = audit.best
    for name, fact in facts.items():
        if parents[0].facts.get(name) != fact:
            yield Difference(f"mlflow: {name}", "parent run", str(fact), str(parents[0].facts.get(name)))


def _child_differences(expected: LoggedRun, found: list[tuple[str, bytes]], tracker: Tracker) -> Iterator[Difference]:
    where = f"trial {expected.trial_id}"
    if len(found) != 1:
        yield Difference("mlflow: runs", where, "1", str(len(found)))
    for run_id, digest in found:
        if digest == _digest(expected):
            continue
        facts = tracker.read_run(run_id).facts
        for name in sorted(facts.keys() | expected.facts.keys()):
            if facts.get(name) != expected.facts.get(name):
                yield Difference(f"mlflow: {name}", where, str(expected.facts.get(name)), str(facts.get(name)))


def _digest(run: LoggedRun) -> bytes:
    return hashlib.blake2b(repr(sorted(run.facts.items())).encode(), digest_size=16).digest()


def _sample_differences(
    prepared: PreparedSweep, files: SweepFiles, audit: Audit, random: np.random.Generator, size: int
) -> Iterator[Difference]:
    """Retrain sampled trials with torch.optim.SGD and compare them, with the tolerance of ``sweeps replay``."""
    chosen = np.sort(random.choice(len(prepared.plan), min(size, len(prepared.plan)), replace=False))
    shards = prepared.plan.shards().holding(chosen)
    for index in sorted(set(shards.tolist()) & files.shards.done()):
        shard = prepared.plan.shards()[index]
        rows = chosen[shards == index] - shard.start
        table = _table(files, index)
        if table is None or len(table) != len(shard):
            continue  # reported by _store_differences
        trials, sample = prepared.plan.trials(shard.start, shard.stop).take(rows), table.take(rows)
        # Both can find the same difference, such as a wrong verdict; report it once.
        yield from dict.fromkeys(
            [*_engine_differences(prepared, trials, sample), *_torch_differences(prepared, trials, sample, audit)]
        )


def _engine_differences(prepared: PreparedSweep, trials: Trials, table: pa.Table) -> Iterator[Difference]:
    """Retrain trials with the engine and compare all columns of trials whose losses are the same.

    Losses are the same if the kernel's results do not depend on the other trials, unless linear algebra libraries
    differ between machines. Parameters and losses are compared with torch instead; verdicts that depend on all trials
    are checked separately.
    """
    if (table.schema.metadata or {}).get(b"kernel") not in _ALONE:
        return
    again = train_table(prepared, trials, device="cpu", threads=1)
    skipped = {"final", "loss"} if prepared.task.is_quadratic else {"final", "loss", "verdict", "steps_to_tolerance"}
    same = [ours == theirs for ours, theirs in zip(table["loss"].to_pylist(), again["loss"].to_pylist(), strict=True)]
    for name in [name for name in again.column_names if name not in skipped]:
        expected = again[name].to_pylist()
        found = table[name].to_pylist() if name in table.column_names else [None] * len(expected)
        for row in np.flatnonzero(same):
            if not _is_as(found[row], expected[row]):
                where = f"trial {trials.number[row]}, recomputed"
                yield Difference(name, where, str(expected[row]), str(found[row]))


def _is_as(found: Any, expected: Any) -> bool:
    """Compare two values: floats to six digits, lists of floats to six digits of the largest, others exactly."""
    if not isinstance(expected, float | list) or type(found) is not type(expected):
        return bool(found == expected)
    ours, theirs = np.array(found, dtype=np.float64), np.array(expected, dtype=np.float64)
    size = np.nanmax(np.abs(theirs), initial=0.0)
    return ours.shape == theirs.shape and np.allclose(ours, theirs, rtol=0, atol=1e-6 * size, equal_nan=True)


def _torch_differences(prepared: PreparedSweep, trials: Trials, table: pa.Table, audit: Audit) -> Iterator[Difference]:
    trained = trained_by_torch(prepared, trials)
    verdicts = judge(trained, Thresholds(**prepared.config.verdict.model_dump())).verdict
    stops = pc.fill_null(table["first_nonfinite_step"], NEVER).to_pylist()
    final, loss = matrix(table["final"], len(table)), matrix(table["loss"], len(table))
    for row, verdict in enumerate(table["verdict"].to_pylist()):
        where = f"trial {trials.number[row]}, recomputed"
        ours, theirs = TrialOutcome(stops[row], {"final": final[row], "loss": loss[row]}), trial_outcome(trained, row)
        exact = np.array_equal(ours.values["final"], theirs.values["final"], equal_nan=True)
        audit.recomputed += 1
        audit.exact += exact
        if exact and prepared.task.is_quadratic and verdict != verdicts[row]:
            yield Difference("verdict", where, str(verdicts[row]), verdict)
        if verdict in ("diverging", "diverged") and not prepared.task.is_quadratic:
            continue  # a diverging network amplifies rounding beyond any tolerance
        for what, *facts in outcome_differences(prepared, trials.take(np.array([row])), ours, theirs):
            yield Difference(what, where, *facts)
