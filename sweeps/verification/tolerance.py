"""How far rounding may take a trial from torch.optim.SGD's, where sums run in another order than torch's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore import Task, Trajectories
from sgdcore.trajectories import NEVER
from sweeps.execution.training import start_values, train_trials
from sweeps.plan.plan import Trials
from sweeps.plan.prepared import PreparedSweep

ROUNDING = {"float32": 1e-5, "float64": 1e-12}  # of the largest value: allowed to any trial
AMPLIFIED = 10  # times what torch's own rounding changes: allowed to trials that amplify theirs
# No powers of two, which change no rounding; and so near one that few trials overflow at another step.
_UNITS = (0.97, 0.98, 0.99, 1.01, 1.02, 1.03)


@dataclass(frozen=True, eq=False)
class TrialOutcome:
    """What a trial came to; NaN is whatever is not finite."""

    stop: int  # first_nonfinite_step
    values: dict[str, Any]  # final parameters, and losses at the recorded steps

    def masked(self, where: dict[str, Any]) -> TrialOutcome:
        """The same, with NaN at some places."""
        return replace(self, values={name: np.where(where[name], np.nan, v) for name, v in self.values.items()})


def trained_by_torch(prepared: PreparedSweep, trials: Trials, **changes: Any) -> Trajectories:
    """Train some trials of the plan by torch.optim.SGD itself; ``changes`` override arguments of sgdcore.train."""
    return train_trials(prepared, trials, kernel="reference", device="cpu", **changes)


def trial_outcome(trained: Trajectories, row: int, factor: float = 1.0) -> TrialOutcome:
    """What the trial in a row came to, or the trial whose twin it is."""
    values = {"final": _plain(trained.params[row] / factor), "loss": _plain(trained.loss[row] / factor**2)}
    return TrialOutcome(int(trained.first_nonfinite_step[row]), values)


@dataclass(frozen=True, eq=False)
class Twins:
    """Trials that are the same but for rounding, with parameters ``factor`` times as large, losses its square times."""

    factor: float
    task: Task
    start: NDArray[np.float64]  # (T, P)

    def train(self, prepared: PreparedSweep, trials: Trials) -> Trajectories:
        """What torch makes of them."""
        return trained_by_torch(replace(prepared, task=self.task), trials, start=self.start)


def twins(prepared: PreparedSweep, trials: Trials) -> Iterator[Twins]:
    """Some for each trial: how far torch takes them from it shows how much the trial amplifies rounding.

    Of linear models with squared loss they are the trials in other units, in which every step rounds anew. Of others
    the start is moved at random, by as much as the rounding of all steps together may move the parameters.
    """
    if prepared.task.is_quadratic:
        yield from in_other_units(prepared, trials, _UNITS)
        return
    start = start_values(prepared, trials)
    size = (
        np.finfo(prepared.config.training.dtype).eps
        * np.sqrt(prepared.plan.steps)
        * np.abs(start).max(axis=1, keepdims=True)
    )
    for seed in range(len(_UNITS)):
        yield Twins(1.0, prepared.task, start + size * np.random.default_rng(seed).standard_normal(start.shape))


def in_other_units(prepared: PreparedSweep, trials: Trials, factors: Sequence[float]) -> Iterator[Twins]:
    """The trials with targets and start ``factor`` times as large, of a linear model with squared loss.

    A step of SGD, p - lr (2/n A^T (A p - z) + weight_decay p), with momentum or without, is homogeneous in parameters
    p and targets z together: all parameters are ``factor`` times, and the losses its square times, the trial's own.
    By powers of two they are so bit for bit, until something overflows.
    """
    start = start_values(prepared, trials)
    for factor in factors:
        dataset = replace(prepared.task.dataset, targets=prepared.task.dataset.targets * factor, validation=None)
        yield Twins(factor, replace(prepared.task, dataset=dataset), start * factor)


def overflow_steps(prepared: PreparedSweep, trial: Trials) -> tuple[int, int]:
    """The steps between which a trial may overflow, whatever the order of its sums; one more than it has is never.

    Sums of a batch, of which one order takes the mean first and another last, are apart by no more than its size. Of
    other tasks than a linear model's with squared loss, it is where the trial's twins overflow.
    """
    others = twins(prepared, trial)
    if prepared.task.is_quadratic:
        apart = 4 * min(prepared.config.training.batch_size, prepared.task.samples)
        largest = max(np.abs(prepared.task.dataset.targets).max(), np.abs(start_values(prepared, trial)).max())
        most = np.finfo(prepared.config.training.dtype).max / largest if largest else np.inf
        factor = 2.0 ** math.floor(math.log2(min(apart, most)))
        others = in_other_units(prepared, trial, (factor, 1 / factor))
    stops = [int(other.train(prepared, trial).first_nonfinite_step[0]) for other in others]
    stops = [prepared.plan.steps + 1 if stop == NEVER else stop for stop in stops]
    return min(stops), max(stops)


def outcome_differences(
    prepared: PreparedSweep, trial: Trials, ours: TrialOutcome, theirs: TrialOutcome
) -> Iterator[tuple[str, str, str]]:
    """What of a trial is not as torch has it, to rounding: its name, torch's value and ours."""
    if any(_distances(ours, theirs).values()):
        ours, theirs = _in_range(prepared, trial, ours, theirs)
    if ours.stop != theirs.stop:
        yield "first_nonfinite_step", str(theirs.stop), str(ours.stop)
    rounding = ROUNDING[prepared.config.training.dtype]
    allowed = {name: rounding * np.nanmax(np.abs(v), initial=0.0) for name, v in theirs.values.items()}
    if any(distance > allowed[name] for name, distance in _distances(ours, theirs).items()):
        amplified = _amplified(prepared, trial, theirs)
        allowed = {name: max(allowed[name], AMPLIFIED * amplified[name]) for name in allowed}
    for name, expected in theirs.values.items():
        found = ours.values[name]
        if not np.allclose(found, expected, rtol=0, atol=allowed[name], equal_nan=True):
            away = np.where(np.isnan(found) & np.isnan(expected), 0.0, np.abs(found - expected))
            worst = int(np.argmax(np.where(np.isnan(away), np.inf, away)))
            yield f"{name}[{worst}]", f"{expected[worst]}", f"{found[worst]}"


def _distances(one: TrialOutcome, other: TrialOutcome) -> dict[str, Any]:
    """The largest differences between values that are finite in both."""
    return {name: np.nanmax(np.abs(one.values[name] - other.values[name]), initial=0.0) for name in one.values}


def _in_range(
    prepared: PreparedSweep, trial: Trials, ours: TrialOutcome, theirs: TrialOutcome
) -> tuple[TrialOutcome, TrialOutcome]:
    """What is to be compared: both without what has overflowed in one only, where rounding decides that."""
    stops = [
        prepared.plan.steps + 1 if trial_outcome.stop == NEVER else trial_outcome.stop
        for trial_outcome in (ours, theirs)
    ]
    if min(stops) > prepared.plan.steps:
        return ours, theirs
    if stops[0] != stops[1]:
        first, last = overflow_steps(prepared, trial)
        if not min(first, stops[1]) <= stops[0] <= max(last, stops[1]):
            return ours, theirs
    in_one = {name: np.isnan(ours.values[name]) != np.isnan(theirs.values[name]) for name in ours.values}
    apart = stops[0] != stops[1]  # then the final parameters are of two steps
    gone = {"final": in_one["final"] | apart, "loss": in_one["loss"] & apart}
    return replace(ours, stop=theirs.stop).masked(gone), theirs.masked(gone)


def _amplified(prepared: PreparedSweep, trial: Trials, theirs: TrialOutcome) -> dict[str, Any]:
    """How far torch's own rounding takes it from its outcome of a trial."""
    farthest = dict.fromkeys(theirs.values, 0.0)
    for twin in twins(prepared, trial):
        again = trial_outcome(twin.train(prepared, trial), 0, twin.factor)
        distances = _distances(again, theirs)
        if again.stop != theirs.stop:
            distances["final"] = 0.0  # of another step
        farthest = {name: max(far, distances[name]) for name, far in farthest.items()}
    return farthest


def _plain(values: Any) -> Any:
    """As the store has it: NaN for all that is not finite."""
    return np.where(np.isfinite(values), values, np.nan)
