"""Tolerances for comparing trials with torch.optim.SGD when sums run in a different order from torch's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore import Task, Trajectories
from sgdcore.trajectories import NEVER, EarlyStops
from sweeps.execution.training import start_values, train_trials
from sweeps.planning.plan import Trials
from sweeps.planning.prepared import PreparedSweep

ROUNDING = {"float32": 1e-5, "float64": 1e-12}  # tolerance for every trial, relative to the largest value
AMPLIFIED = 10  # tolerance for trials that amplify rounding, as a multiple of the effect of torch's own rounding
# Not powers of two, which leave rounding unchanged, and close to 1, so that few trials overflow at another step.
_UNITS = (0.97, 0.98, 0.99, 1.01, 1.02, 1.03)


@dataclass(frozen=True, eq=False)
class TrialOutcome:
    """The outcome of a trial; non-finite values are NaN."""

    stop: int  # first_nonfinite_step
    values: dict[str, Any]  # final parameters and losses at the recorded steps

    def masked(self, where: dict[str, Any]) -> TrialOutcome:
        """Return a copy with NaN where the masks are true."""
        return replace(self, values={name: np.where(where[name], np.nan, v) for name, v in self.values.items()})


def trained_by_torch(prepared: PreparedSweep, trials: Trials, **changes: Any) -> Trajectories:
    """Train trials of the plan with torch.optim.SGD; ``changes`` override arguments of sgdcore.train."""
    return train_trials(prepared, trials, kernel="reference", device="cpu", **changes)


def trial_outcome(trained: Trajectories, row: int, factor: float = 1.0) -> TrialOutcome:
    """Return the outcome of the trial in a row; for a twin, divide by its ``factor`` to get the original's outcome."""
    values = {"final": _plain(trained.params[row] / factor), "loss": _plain(trained.loss[row] / factor**2)}
    return TrialOutcome(int(trained.first_nonfinite_step[row]), values)


@dataclass(frozen=True, eq=False)
class Twins:
    """Trials equal to the originals up to rounding, with parameters scaled by ``factor``, losses by ``factor**2``."""

    factor: float
    task: Task
    start: NDArray[np.float64]  # (T, P)
    stops: EarlyStops | None = None  # where the originals stopped early

    def train(self, prepared: PreparedSweep, trials: Trials) -> Trajectories:
        """Train the twins with torch.optim.SGD."""
        return trained_by_torch(replace(prepared, task=self.task), trials, start=self.start, early_stopping=self.stops)


def twins(prepared: PreparedSweep, trials: Trials, stops: EarlyStops | None = None) -> Iterator[Twins]:
    """Yield twins of each trial; their distance from it under torch measures how much it amplifies rounding.

    For linear models with squared loss, twins are the trials in other units, so that every step rounds differently. For
    other tasks, and where gradients are clipped, the start is perturbed at random, by as much as the rounding of all
    steps can move the parameters.
    """
    if is_homogeneous(prepared, trials):
        yield from in_other_units(prepared, trials, _UNITS, stops)
        return
    start = start_values(prepared, trials)
    size = (
        np.finfo(prepared.config.training.dtype).eps
        * np.sqrt(prepared.plan.steps)
        * np.abs(start).max(axis=1, keepdims=True)
    )
    for seed in range(len(_UNITS)):
        moved = start + size * np.random.default_rng(seed).standard_normal(start.shape)
        yield Twins(1.0, prepared.task, moved, stops)


def is_homogeneous(prepared: PreparedSweep, trials: Trials) -> bool:
    """Return whether a step's change is proportional to parameters and targets together."""
    return prepared.task.is_quadratic and not trials.hyperparams.is_clipped.any()


def in_other_units(
    prepared: PreparedSweep, trials: Trials, factors: Sequence[float], stops: EarlyStops | None = None
) -> Iterator[Twins]:
    """Yield the trials of a linear model with squared loss, with targets and start scaled by each factor.

    A step of SGD, p - lr (2/n A^T (A p - z) + weight_decay p), with or without momentum, is homogeneous in parameters
    p and targets z together: parameters scale by ``factor`` and losses by its square. For powers of two this holds bit
    for bit until a value overflows.
    """
    start = start_values(prepared, trials)
    for factor in factors:
        dataset = replace(prepared.task.dataset, targets=prepared.task.dataset.targets * factor, validation=None)
        yield Twins(factor, replace(prepared.task, dataset=dataset), start * factor, stops)


def overflow_steps(prepared: PreparedSweep, trial: Trials, stops: EarlyStops | None = None) -> tuple[int, int]:
    """Return the first and last step at which a trial can overflow in any order of sums; steps + 1 means never.

    Sums over a batch that take the mean first or last differ by at most a factor of the batch size. For tasks other
    than linear models with squared loss, the range spans the steps at which the trial's twins overflow.
    """
    others = twins(prepared, trial, stops)
    if is_homogeneous(prepared, trial):
        apart = 4 * min(prepared.config.training.batch_size, prepared.task.samples)
        largest = max(np.abs(prepared.task.dataset.targets).max(), np.abs(start_values(prepared, trial)).max())
        most = np.finfo(prepared.config.training.dtype).max / largest if largest else np.inf
        factor = 2.0 ** math.floor(math.log2(min(apart, most)))
        others = in_other_units(prepared, trial, (factor, 1 / factor), stops)
    overflows = [int(other.train(prepared, trial).first_nonfinite_step[0]) for other in others]
    overflows = [prepared.plan.steps + 1 if step == NEVER else step for step in overflows]
    return min(overflows), max(overflows)


def outcome_differences(
    prepared: PreparedSweep,
    trial: Trials,
    ours: TrialOutcome,
    theirs: TrialOutcome,
    stops: EarlyStops | None = None,
) -> Iterator[tuple[str, str, str]]:
    """Yield the differences from torch beyond rounding: name, torch's value and ours.

    ``stops`` are where both stopped early.
    """
    if any(_distances(ours, theirs).values()):
        ours, theirs = _in_range(prepared, trial, ours, theirs, stops)
    if ours.stop != theirs.stop:
        yield "first_nonfinite_step", str(theirs.stop), str(ours.stop)
    rounding = ROUNDING[prepared.config.training.dtype]
    allowed = {name: rounding * np.nanmax(np.abs(v), initial=0.0) for name, v in theirs.values.items()}
    if any(distance > allowed[name] for name, distance in _distances(ours, theirs).items()):
        amplified = _amplified(prepared, trial, theirs, stops)
        allowed = {name: max(allowed[name], AMPLIFIED * amplified[name]) for name in allowed}
    for name, expected in theirs.values.items():
        found = ours.values[name]
        if not np.allclose(found, expected, rtol=0, atol=allowed[name], equal_nan=True):
            away = np.where(np.isnan(found) & np.isnan(expected), 0.0, np.abs(found - expected))
            worst = int(np.argmax(np.where(np.isnan(away), np.inf, away)))
            yield f"{name}[{worst}]", f"{expected[worst]}", f"{found[worst]}"


def _distances(one: TrialOutcome, other: TrialOutcome) -> dict[str, Any]:
    """Return the largest difference between values that are finite in both, by name."""
    return {name: np.nanmax(np.abs(one.values[name] - other.values[name]), initial=0.0) for name in one.values}


def _in_range(
    prepared: PreparedSweep, trial: Trials, ours: TrialOutcome, theirs: TrialOutcome, early: EarlyStops | None
) -> tuple[TrialOutcome, TrialOutcome]:
    """Return both outcomes without values that overflowed in only one, if rounding decides when they overflow."""
    stops = [prepared.plan.steps + 1 if outcome.stop == NEVER else outcome.stop for outcome in (ours, theirs)]
    if min(stops) > prepared.plan.steps:
        return ours, theirs
    if stops[0] != stops[1]:
        first, last = overflow_steps(prepared, trial, early)
        if not min(first, stops[1]) <= stops[0] <= max(last, stops[1]):
            return ours, theirs
    in_one = {name: np.isnan(ours.values[name]) != np.isnan(theirs.values[name]) for name in ours.values}
    apart = stops[0] != stops[1]  # then the final parameters belong to different steps
    gone = {"final": in_one["final"] | apart, "loss": in_one["loss"] & apart}
    return replace(ours, stop=theirs.stop).masked(gone), theirs.masked(gone)


def _amplified(
    prepared: PreparedSweep, trial: Trials, theirs: TrialOutcome, stops: EarlyStops | None
) -> dict[str, Any]:
    """Return how far torch's own rounding moves its outcome of a trial, by name."""
    farthest = dict.fromkeys(theirs.values, 0.0)
    for twin in twins(prepared, trial, stops):
        again = trial_outcome(twin.train(prepared, trial), 0, twin.factor)
        distances = _distances(again, theirs)
        if again.stop != theirs.stop:
            distances["final"] = 0.0  # final parameters of a different step
        farthest = {name: max(far, distances[name]) for name, far in farthest.items()}
    return farthest


def _plain(values: Any) -> Any:
    """Replace non-finite values with NaN, as in the store."""
    return np.where(np.isfinite(values), values, np.nan)
