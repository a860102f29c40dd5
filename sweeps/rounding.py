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
from sweeps.plan import Trials
from sweeps.worker import Work, start_values, train_trials

ROUNDING = {"float32": 1e-5, "float64": 1e-12}  # of the largest value: allowed to any trial
AMPLIFIED = 10  # times what torch's own rounding changes: allowed to trials that amplify theirs
# No powers of two, which change no rounding; and so near one that few trials overflow at another step.
_UNITS = (0.97, 0.98, 0.99, 1.01, 1.02, 1.03)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a trial came to; NaN is whatever is not finite."""

    stop: int  # first_nonfinite_step
    values: dict[str, Any]  # final parameters, and losses at the recorded steps

    def masked(self, where: dict[str, Any]) -> Outcome:
        """The same, with NaN at some places."""
        return replace(self, values={name: np.where(where[name], np.nan, v) for name, v in self.values.items()})


def trained_by_torch(work: Work, trials: Trials, **changes: Any) -> Trajectories:
    """Train some trials of the plan by torch.optim.SGD itself; ``changes`` override arguments of sgdcore.train."""
    return train_trials(work, trials, kernel="reference", device="cpu", **changes)


def outcome(trained: Trajectories, row: int, unit: float = 1.0) -> Outcome:
    """What the trial in a row came to, of parameters that were given in another unit."""
    values = {"final": _plain(trained.params[row] / unit), "loss": _plain(trained.loss[row] / unit**2)}
    return Outcome(int(trained.first_nonfinite_step[row]), values)


@dataclass(frozen=True, eq=False)
class OtherUnits:
    """Trials whose targets, and so their start and all parameters, are given in a unit ``1 / factor`` as large."""

    factor: float
    task: Task
    start: NDArray[np.float64]  # (T, P)


def in_other_units(work: Work, trials: Trials, factors: Sequence[float] = _UNITS) -> Iterator[OtherUnits]:
    """The same trials, but for their rounding: what torch makes of them shows how much a trial amplifies its own.

    A step of SGD on a squared loss, p - lr (2/n A^T (A p - z) + weight_decay p), with momentum or without, is
    homogeneous in parameters p and targets z together. In exact arithmetic the parameters are therefore ``factor``
    times, and the losses its square times, those of the trials themselves. By powers of two their rounding is the same
    too: only overflow comes sooner or later.
    """
    start = start_values(work, trials)
    for factor in factors:
        dataset = replace(work.task.dataset, targets=work.task.dataset.targets * factor, validation=None)
        yield OtherUnits(factor, replace(work.task, dataset=dataset), start * factor)


def overflow_steps(work: Work, trial: Trials) -> tuple[int, int]:
    """The steps between which a trial may overflow, whatever the order of its sums; one more than it has is never.

    Sums of a batch, of which one order takes the mean first and another last, are apart by no more than its size.
    """
    apart = 4 * min(work.config.training.batch_size, work.task.samples)
    largest = max(np.abs(work.task.dataset.targets).max(), np.abs(start_values(work, trial)).max())
    most = np.finfo(work.config.training.dtype).max / largest if largest else np.inf
    factor = 2.0 ** math.floor(math.log2(min(apart, most)))
    stops = []
    for other in in_other_units(work, trial, (factor, 1 / factor)):
        stop = _trained_in(work, trial, other).first_nonfinite_step[0]
        stops.append(work.plan.steps + 1 if stop == NEVER else int(stop))
    return stops[0], stops[1]


def outcome_differences(work: Work, trial: Trials, ours: Outcome, theirs: Outcome) -> Iterator[tuple[str, str, str]]:
    """What of a trial is not as torch has it, to rounding: its name, torch's value and ours."""
    if work.task.is_quadratic and any(_distances(ours, theirs).values()):
        ours, theirs = _in_range(work, trial, ours, theirs)
    if ours.stop != theirs.stop:
        yield "first_nonfinite_step", str(theirs.stop), str(ours.stop)
    rounding = ROUNDING[work.config.training.dtype]
    allowed = {name: rounding * np.nanmax(np.abs(v), initial=0.0) for name, v in theirs.values.items()}
    if work.task.is_quadratic and any(distance > allowed[name] for name, distance in _distances(ours, theirs).items()):
        amplified = _amplified(work, trial, theirs)
        allowed = {name: max(allowed[name], AMPLIFIED * amplified[name]) for name in allowed}
    for name, expected in theirs.values.items():
        found = ours.values[name]
        if not np.allclose(found, expected, rtol=0, atol=allowed[name], equal_nan=True):
            away = np.where(np.isnan(found) & np.isnan(expected), 0.0, np.abs(found - expected))
            worst = int(np.argmax(np.where(np.isnan(away), np.inf, away)))
            yield f"{name}[{worst}]", f"{expected[worst]}", f"{found[worst]}"


def _distances(one: Outcome, other: Outcome) -> dict[str, Any]:
    """The largest differences between values that are finite in both."""
    return {name: np.nanmax(np.abs(one.values[name] - other.values[name]), initial=0.0) for name in one.values}


def _in_range(work: Work, trial: Trials, ours: Outcome, theirs: Outcome) -> tuple[Outcome, Outcome]:
    """What is to be compared: both without what has overflowed in one only, where rounding decides that."""
    stops = [work.plan.steps + 1 if outcome.stop == NEVER else outcome.stop for outcome in (ours, theirs)]
    first, last = (stops[1], stops[1]) if stops[0] == stops[1] else overflow_steps(work, trial)
    if not first <= stops[0] <= last or min(stops) > work.plan.steps:
        return ours, theirs
    in_one = {name: np.isnan(ours.values[name]) != np.isnan(theirs.values[name]) for name in ours.values}
    apart = stops[0] != stops[1]  # then the final parameters are of two steps
    gone = {"final": in_one["final"] | apart, "loss": in_one["loss"] & apart}
    return replace(ours, stop=theirs.stop).masked(gone), theirs.masked(gone)


def _amplified(work: Work, trial: Trials, theirs: Outcome) -> dict[str, Any]:
    """How far torch's own rounding takes it from its outcome of a trial."""
    farthest = dict.fromkeys(theirs.values, 0.0)
    for other in in_other_units(work, trial):
        again = outcome(_trained_in(work, trial, other), 0, unit=other.factor)
        distances = _distances(again, theirs)
        if again.stop != theirs.stop:
            distances["final"] = 0.0  # of another step
        farthest = {name: max(far, distances[name]) for name, far in farthest.items()}
    return farthest


def _trained_in(work: Work, trials: Trials, units: OtherUnits) -> Trajectories:
    return trained_by_torch(replace(work, task=units.task), trials, start=units.start)


def _plain(values: Any) -> Any:
    """As the store has it: NaN for all that is not finite."""
    return np.where(np.isfinite(values), values, np.nan)
