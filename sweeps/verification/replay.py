"""Replay a stored trial step by step with torch.optim.SGD, and compare the result with the store."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sgdcore import Task
from sgdcore.replay import Step, replay
from sgdcore.trajectories import NEVER, EarlyStops
from sweeps.arrow_columns import PRUNED, STOPPED_EPOCH, matrix
from sweeps.config.schema import HYPERPARAMETERS
from sweeps.errors import StoreError
from sweeps.execution.training import start_values, train_trials
from sweeps.planning.plan import Trials
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.reopen import reopen
from sweeps.store.store import SweepFiles
from sweeps.text.formatting import cell
from sweeps.verification.recorded_stops import pruned_epochs, recorded_stops
from sweeps.verification.tolerance import AMPLIFIED, ROUNDING, overflow_steps, twins

_WHOLE_ID = 32  # characters of a complete trial id
_MAX_SHOWN = 4  # models with more parameters are shown as norms


@dataclass(frozen=True, eq=False)
class Replay:
    """The result of replaying a trial."""

    title: str
    facts: dict[str, Any]
    frame: pd.DataFrame  # one row per step; norms instead of values for models with many parameters
    exact: bool  # whether the trial equals torch's and the stored one bit for bit
    agrees: bool  # whether it is exact, or equal within rounding if sums run in another order
    conclusion: str


def replay_trial(files: SweepFiles, trial: str, most: int | None = None) -> Replay:
    """Replay a trial.

    Args:
        files: Files of the sweep.
        trial: Number of the trial, its id, or a unique prefix of the id.
        most: Maximum number of steps; if the trial has more, its end is not compared with the store.

    Raises:
        StoreError: no trial or several trials match, or the data set has changed.
    """
    prepared = reopen(files)
    number = _number(files, prepared, trial)
    trials = prepared.plan.trials(number, number + 1)
    prepared = prepared.at(trials)
    training = prepared.config.training
    row = _stored(files, prepared, number)
    if row is not None and (epochs := pruned_epochs(row)[0]):
        prepared = prepared.to_rung(epochs)
        training = prepared.config.training
    early = _early_stops(prepared, trials, row)
    start = start_values(prepared, trials)
    all_steps = islice(_steps(prepared, trials, prepared.task, start), _end(early))
    steps = list(islice(all_steps, most))
    cut = len(steps) == most and next(all_steps, None) is not None
    verdict = "" if row is None else row["verdict"][0].as_py()
    stored = None if cut or row is None else matrix(row["final"], 1)[0].astype(training.dtype)
    from_stored = 0.0
    if stored is not None:
        first = np.asarray(start[0]).astype(training.dtype)
        from_stored = _distance(stored, _final(first, steps, early))
    # All kernels give the same bits for a linear model. A network's bits depend on how many trials are trained
    # together, and if it diverges, its rounding has no bound.
    quadratic = prepared.task.has_linear_kernel
    allowed = ROUNDING[training.dtype] if quadratic or verdict not in ("diverging", "diverged") else math.inf
    compared = _compared(prepared, trials, steps, allowed)
    deviation = max((step.deviation for step in compared), default=0.0)
    from_torch = max((step.relative_deviation for step in compared), default=0.0)
    amplified = None
    if max(from_torch, 0.0 if quadratic else from_stored) > allowed:
        amplified = _amplified(prepared, trials, steps)
        allowed = max(allowed, AMPLIFIED * amplified)
    same = from_stored <= (0.0 if quadratic else allowed)
    exact = deviation == 0 and same
    agrees = same and from_torch <= allowed
    findings: dict[str, Any] = {
        "largest_deviation": deviation,
        "store_holds_the_same": same,
        "exact": exact,
        "agrees": agrees,
    }
    options = {
        name: None if np.isinf(value[0]) else float(value[0])
        for name, value in prepared.plan.options.effective(trials.hyperparams, trials.options).items()
    }
    given = {**trials.hyperparams.arguments(0), **options, "seed": int(trials.seed[0])}
    setting = ", ".join(f"{name} {cell(given[name], name)}" for name in (*HYPERPARAMETERS, *options))
    restored = None
    if early is not None:
        restored = None if cut or not np.isfinite(steps[-1].params).all() else int(early.best_step[0])
        findings |= {"stopped_early": _end(early) is not None, "restored_step": restored}
    return Replay(
        title=f"trial {number} ({prepared.plan.ids(trials)[0]}): {setting}",
        facts={"trial": number, **given, **findings},
        frame=pd.DataFrame([_row(step, prepared) for step in steps]),
        exact=exact,
        agrees=agrees,
        conclusion=("the first " if cut else "")
        + _conclusion(len(steps), deviation, from_torch, allowed, amplified, stored is not None, same)
        + _stop_note(early, restored),
    )


def _steps(prepared: PreparedSweep, trials: Trials, task: Task, start: np.ndarray) -> Iterator[Step]:
    training = prepared.config.training
    return replay(
        task,
        trials.hyperparams,
        epochs=training.epochs,
        batch_size=training.batch_size,
        order=training.order,
        dtype=training.dtype,
        seed=int(trials.seed[0]),
        start=start,
        groups=training.groups,
    )


def _early_stops(prepared: PreparedSweep, trials: Trials, row: pa.Table | None) -> EarlyStops | None:
    """Return where a trial stopped early: as stored, or if it is not, as trained again."""
    if row is not None:
        return recorded_stops(prepared, row)
    return train_trials(prepared, trials, device="cpu").early_stops if prepared.early_stopping else None


def _end(early: EarlyStops | None) -> int | None:
    """Return the step at which a trial stopped early, or None."""
    return None if early is None or early.stopped_step[0] == NEVER else int(early.stopped_step[0])


def _final(start: np.ndarray, steps: list[Step], early: EarlyStops | None) -> np.ndarray:
    """Return the parameters that the trial ends with."""
    last = steps[-1].params if steps else start
    if early is None or not np.isfinite(last).all():
        return last
    best = int(early.best_step[0])
    return steps[best - 1].params if best else start


def _stop_note(early: EarlyStops | None, restored: int | None) -> str:
    if restored is None:
        return ""
    ended = "it stopped early" if _end(early) is not None else "it ran to its end"
    return f"; {ended} and has the parameters of its best point, step {restored:,}"


def _compared(prepared: PreparedSweep, trials: Trials, steps: list[Step], allowed: float) -> list[Step]:
    """Return the steps to compare: all, or those before the first overflow if rounding decides when it happens."""
    finite = [step for step in steps if np.isfinite(step.deviation)]
    if len(finite) == len(steps) or not any(step.deviation for step in finite):
        return steps
    if allowed == math.inf:
        return finite
    first, last = overflow_steps(prepared, trials)
    overflow = next(step.step for step in steps if not np.isfinite(step.deviation))
    return finite if first <= overflow and steps[-1].step <= last else steps


def _amplified(prepared: PreparedSweep, trials: Trials, steps: list[Step]) -> float:
    """Return how far torch's own rounding moves the trial, relative to the largest value."""
    farthest = 0.0
    for twin in twins(prepared, trials):
        for mine, theirs in zip(steps, _steps(prepared, trials, twin.task, twin.start), strict=False):
            params, buffers = (v / twin.factor for v in (theirs.torch_params, theirs.torch_momentum_buffers))
            deviation = replace(mine, params=params, momentum_buffers=buffers).relative_deviation
            if np.isfinite(deviation):  # the twin can overflow at a different step
                farthest = max(farthest, deviation)
    return farthest


def _distance(stored: np.ndarray, last: np.ndarray) -> float:
    """Return the largest difference relative to the largest value; inf if only one of two values is finite."""
    finite = np.isfinite(last)
    if not np.array_equal(finite, np.isfinite(stored)):
        return math.inf
    apart = np.abs(stored[finite].astype(np.float64) - last[finite]).max(initial=0.0)
    size = np.abs(last[finite]).max(initial=0.0)
    return float(apart / size) if size else float(apart)


def _number(files: SweepFiles, prepared: PreparedSweep, trial: str) -> int:
    if trial.isascii() and trial.isdigit() and len(trial) < 10:
        if int(trial) < len(prepared.plan):
            return int(trial)
        raise StoreError(f"trial {trial}: no such trial; give a number from 0 to {len(prepared.plan) - 1}")
    matches = []
    for table in files.shards.tables(["trial", "trial_id"]):
        matches += table.filter(pc.starts_with(table["trial_id"], trial))["trial"].to_pylist()
        if matches and len(trial) == _WHOLE_ID:
            break
    if len(matches) == 1:
        return int(matches[0])
    problem = "no trial has" if not matches else f"{len(matches)} trials have"
    next_step = "give its number or a prefix of its id" if not matches else "give more characters"
    raise StoreError(f"trial {trial!r}: {problem} an id with this prefix in sweep {files.sweep_id}; {next_step}")


def _stored(files: SweepFiles, prepared: PreparedSweep, number: int) -> pa.Table | None:
    """Return a trial's row of its shard file; None if the shard is not stored."""
    index = int(prepared.plan.shards().holding(np.array([number]))[0])
    if index not in files.shards.done():
        return None
    curve = [prepared.config.stopping_loss] if prepared.early_stopping else []
    stops = [PRUNED, STOPPED_EPOCH] if prepared.config.early_terminate is not None else []
    table = files.shards.read(index, ["trial", "final", "verdict", "first_nonfinite_step", *curve, *stops])
    row = table.filter(pc.equal(table["trial"], number))
    if len(row) != 1:
        raise StoreError(
            f"trial {number}: {len(row)} rows in shard {index:05}.parquet; run 'sweeps verify' for details"
        )
    return row


def _row(step: Step, prepared: PreparedSweep) -> dict[str, Any]:
    names = prepared.plan.parameter_names
    row: dict[str, Any] = {
        "step": step.step,
        "samples": " ".join(map(str, step.samples[:4])) + (" ..." if len(step.samples) > 4 else ""),
        **({} if prepared.plan.options.schedule is None else {"lr": step.lr}),
        "loss": step.loss,
        **({"clipped": step.was_clipped} if prepared.plan.options.clips else {}),
    }
    if len(names) > _MAX_SHOWN:
        norms = {"|gradient|": step.gradients, "|params|": step.params, "|torch params|": step.torch_params}
        row |= {name: float(np.linalg.norm(values.astype(np.float64))) for name, values in norms.items()}
        names = ()
    for j, name in enumerate(names):
        row[f"{name}.grad"] = float(step.gradients[j])
        row[f"{name}.buffer"] = float(step.momentum_buffers[j])
        row[name] = float(step.params[j])
        row[f"torch {name}"] = float(step.torch_params[j])
    row["deviation"] = step.deviation
    return row


def _conclusion(
    steps: int,
    deviation: float,
    relative: float,
    allowed: float,
    amplified: float | None,
    is_stored: bool,
    same: bool,
) -> str:
    equal = "bit for bit equal to torch.optim.SGD"
    if deviation:
        equal = f"largest deviation from torch.optim.SGD {deviation:.3g}, {relative:.2g} of the largest value"
        equal += "; the trial diverges, so its rounding errors are unbounded" if allowed == math.inf else ""
    if amplified is not None:
        equal += f"; the trial amplifies rounding, torch's own errors to {amplified:.2g}"
    store = "" if not is_stored else "; the stored values match" if same else "; the STORED VALUES DIFFER"
    return f"{steps:,} steps, {equal}{store}"
