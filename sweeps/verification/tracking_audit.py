"""Audit of the tracking: check for one parent run with the right totals and one child run per selected trial."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from sgdcore.verdict import VERDICTS
from sweeps.errors import StoreError
from sweeps.execution.shard_table import recorded_steps
from sweeps.planning.plan import ADDED_COLUMNS
from sweeps.planning.prepared import PreparedSweep
from sweeps.results.ranking import best_trials
from sweeps.store.store import SweepFiles
from sweeps.tracking.base import LoggedRun, TrackedSweep, Tracker
from sweeps.tracking.names import MAX_FINAL_METRICS
from sweeps.tracking.policy import runs_wanted
from sweeps.tracking.trial_runs import expected_runs
from sweeps.verification.differences import Audit, Difference, readable_table


def tracking_differences(
    prepared: PreparedSweep, files: SweepFiles, tracker: Tracker, audit: Audit
) -> Iterator[Difference]:
    """Check that there is one parent run with the right totals, and one matching child run per selected trial."""
    sweep = TrackedSweep.of(files, prepared)
    parents: list[LoggedRun] = []
    children: dict[str, list[tuple[str, bytes]]] = {}  # digests, because the facts of all runs might not fit in memory
    for run in map(partial(_comparable, sweep), tracker.logged_runs(sweep)):
        if not run.trial_id:
            parents.append(run)
            continue
        children.setdefault(run.trial_id, []).append((run.run_id, _digest(run)))
        for name in run.not_finite:
            yield Difference(f"mlflow: {name}", f"run {run.run_id}", "a finite value", str(run.facts[name]))
    deleted = tracker.deleted_trials(sweep) - children.keys()
    if not parents and "" in deleted:
        audit.deleted += 1
    else:
        yield from _parent_differences(parents, audit, prepared.config.metric_name, prepared.task.loss_scale)
    best, shards = _best(prepared, files), prepared.plan.shards()
    for index in sorted(files.shards.done()):
        if (table := readable_table(files, index)) is None:
            continue  # reported by store_differences
        among = np.full(len(table), prepared.config.tracking.trials == "all")
        if best is not None:
            among = np.isin(table["trial"].to_numpy(), best.get(index, []))
        there = [trial_id in children for trial_id in table["trial_id"].to_pylist()]
        looked_at = table.filter(pa.array(among | np.array(there, np.bool_)))
        if len(looked_at):
            steps = recorded_steps(prepared.at(prepared.plan.trials(shards[index].start, shards[index].start + 1)))
            for run in map(partial(_comparable, sweep), expected_runs(sweep, looked_at, steps)):
                if run.trial_id in deleted:
                    audit.deleted += 1
                    continue
                logged = children.pop(run.trial_id, [])
                found = list(_child_differences(run, logged, sweep, tracker, prepared.task.loss_scale))
                yield from found
                audit.logged += not found
    for trial_id, runs in children.items():
        yield Difference(f"mlflow: trial {trial_id}", "runs", "a trial of this sweep", ", ".join(r for r, _ in runs))


def _comparable(sweep: TrackedSweep, run: LoggedRun) -> LoggedRun:
    """Return the run without what only this version or only earlier ones log.

    Earlier versions logged the final/<name> metrics of models with many parameters. A sweep that they planned can have
    runs without the metrics of ADDED_COLUMNS.
    """
    differing = {f"metric {name}" for name in ADDED_COLUMNS if name not in sweep.manifest.get("added", ())}
    if len(sweep.parameter_names) > MAX_FINAL_METRICS:
        differing |= {name for name in run.facts if name.startswith("metric final/")}
    if not differing:
        return run
    return replace(run, facts={name: fact for name, fact in run.facts.items() if name not in differing})


def _best(prepared: PreparedSweep, files: SweepFiles) -> dict[int, list[int]] | None:
    """Return the trials to log, by shard, if only the best are logged; None if all or none are."""
    policy = prepared.config.tracking.trials
    if not policy.startswith("top:"):
        return None
    try:
        return best_trials(files, prepared.config, runs_wanted(policy, len(prepared.plan)))
    except StoreError:
        return {}  # unknown with a damaged shard, which store_differences reports


def _parent_differences(parents: list[LoggedRun], audit: Audit, metric: str, loss_scale: float) -> Iterator[Difference]:
    if len(parents) != 1:
        yield Difference("mlflow: parent run", "runs", "1", str(len(parents)))
        return
    facts: dict[str, str | float] = {"status": "FINISHED", "metric trials": float(audit.verdicts.total())}
    facts |= {f"metric trials/{verdict}": float(audit.verdicts[verdict]) for verdict in VERDICTS}
    if audit.best is not None:
        facts[f"metric best/{metric}"] = audit.best
    for name, fact in facts.items():
        if not _agree(name, parents[0].facts.get(name), fact, loss_scale):
            yield Difference(f"mlflow: {name}", "parent run", str(fact), str(parents[0].facts.get(name)))


def _child_differences(
    expected: LoggedRun, found: list[tuple[str, bytes]], sweep: TrackedSweep, tracker: Tracker, loss_scale: float
) -> Iterator[Difference]:
    where = f"trial {expected.trial_id}"
    if len(found) != 1:
        yield Difference("mlflow: runs", where, "1", str(len(found)))
    for run_id, digest in found:
        if digest == _digest(expected):
            continue
        facts = _comparable(sweep, tracker.read_run(run_id)).facts
        for name in sorted(facts.keys() | expected.facts.keys()):
            if not _agree(name, facts.get(name), expected.facts.get(name), loss_scale):
                yield Difference(f"mlflow: {name}", where, str(expected.facts.get(name)), str(facts.get(name)))


def _agree(name: str, found: str | float | None, expected: str | float | None, loss_scale: float) -> bool:
    """Compare two facts: losses and overshoot to rounding, others exactly.

    The last bits of losses depend on the processor, and a shard can be computed again on another one than the one whose
    results were logged.
    """
    if not (isinstance(found, float) and isinstance(expected, float) and name.endswith(("loss", "overshoot_percent"))):
        return found == expected
    size = loss_scale if name.endswith("loss") else 100.0
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12 * size)


def _digest(run: LoggedRun) -> bytes:
    return hashlib.blake2b(repr(sorted(run.facts.items())).encode(), digest_size=16).digest()
