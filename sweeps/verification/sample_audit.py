"""Audit of a sample: train some trials again, with the engine and with torch.optim.SGD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sgdcore import Thresholds, judge
from sgdcore.trajectories import NEVER, EarlyStops
from sweeps.arrow_columns import matrix, numbers
from sweeps.execution.rungs import ended, train_rung
from sweeps.execution.shard_table import recorded_steps
from sweeps.execution.training import train_table
from sweeps.planning.plan import ADDED_COLUMNS, Trials
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Rung
from sweeps.store.store import SweepFiles
from sweeps.verification.differences import Audit, Difference, readable_table
from sweeps.verification.recorded_stops import pruned_epochs, recorded_stops
from sweeps.verification.tolerance import TrialOutcome, outcome_differences, trained_by_torch, trial_outcome

_ALONE = (b"numba", b"triton")  # kernels whose results for a trial do not depend on the other trials


def sample_differences(
    prepared: PreparedSweep, files: SweepFiles, audit: Audit, random: np.random.Generator, size: int
) -> Iterator[Difference]:
    """Retrain sampled trials with torch.optim.SGD and compare them, with the tolerance of ``sweeps replay``."""
    chosen = np.sort(random.choice(len(prepared.plan), min(size, len(prepared.plan)), replace=False))
    shards = prepared.plan.shards().holding(chosen)
    for index in sorted(set(shards.tolist()) & files.shards.done()):
        shard = prepared.plan.shards()[index]
        rows = chosen[shards == index] - shard.start
        table = readable_table(files, index)
        if table is None or len(table) != len(shard):
            continue  # reported by store_differences
        trials, sample = prepared.plan.trials(shard.start, shard.stop).take(rows), table.take(rows)
        own = prepared.at(trials)
        for epochs in sorted(set(pruned_epochs(sample))):
            some = np.flatnonzero(np.array(pruned_epochs(sample)) == epochs)
            part, found = trials.take(some), sample.take(some)
            # Both can find the same difference, such as a wrong verdict; report it once.
            yield from dict.fromkeys(
                [
                    *_engine_differences(own, part, found, epochs),
                    *_torch_differences(own.to_rung(epochs) if epochs else own, part, found, audit),
                ]
            )


def _engine_differences(prepared: PreparedSweep, trials: Trials, table: pa.Table, pruned: int) -> Iterator[Difference]:
    """Retrain trials with the engine and compare all columns of trials whose losses are the same.

    Losses are the same if the kernel's results do not depend on the other trials, unless linear algebra libraries
    differ between machines. Parameters and losses are compared with torch instead; verdicts that depend on all trials
    are checked separately.
    """
    if (table.schema.metadata or {}).get(b"kernel") not in _ALONE:
        return
    if pruned:
        rung = train_rung(prepared, trials, Rung(pruned), device="cpu", threads=1)
        again = ended(rung, recorded_steps(prepared), pruned, prepared.config.training.epochs)
    else:
        again = train_table(prepared, trials, device="cpu", threads=1)
    skipped = {"final", "loss"} if prepared.task.is_quadratic else {"final", "loss", "verdict", "steps_to_tolerance"}
    skipped |= set(ADDED_COLUMNS) - set(table.column_names)  # shards of earlier versions lack them
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
    early = recorded_stops(prepared, table)
    trained = trained_by_torch(prepared, trials, early_stopping=early)
    verdicts = judge(trained, Thresholds(**prepared.config.verdict.model_dump())).verdict
    stops = pc.fill_null(table["first_nonfinite_step"], NEVER).to_pylist()
    final, loss = matrix(table["final"], len(table)), _curves(prepared, table)
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
        one = np.array([row])
        own_stops = None if early is None else early.take(one)
        for what, *facts in outcome_differences(prepared, trials.take(one), ours, theirs, own_stops):
            yield Difference(what, where, *facts)
    if early is not None:
        yield from _stop_differences(prepared, trials, table, early)


def _curves(prepared: PreparedSweep, table: pa.Table) -> NDArray[Any]:
    """Return the losses at the recorded steps; for pruned trials, of a run to their rung, with the loss at its end."""
    loss = matrix(table["loss"], len(table))
    if prepared.listed is None:
        return loss
    known = loss[:, prepared.listed <= prepared.plan.steps]
    if prepared.plan.steps in prepared.listed:
        return known
    return np.concatenate([known, numbers(table["final_loss"])[:, np.newaxis]], axis=1)


def _stop_differences(
    prepared: PreparedSweep, trials: Trials, table: pa.Table, early: EarlyStops
) -> Iterator[Difference]:
    """Check that trials stopped where their recorded curves stop them."""
    found = numbers(table["stopped_epoch"]) * prepared.steps_per_epoch
    for row, (expected, step) in enumerate(zip(early.stopped_step.tolist(), found.tolist(), strict=True)):
        if (NEVER if np.isnan(step) else round(step)) != expected:
            where = f"trial {trials.number[row]}, by its curve"
            epoch = None if expected == NEVER else expected / prepared.steps_per_epoch
            yield Difference("stopped_epoch", where, str(epoch), str(table["stopped_epoch"][row].as_py()))
