"""Verdicts: how each trial ended, from converged to diverged, how far it overshot and when it reached tolerance.

Let J = loss + weight_decay/2 |p|^2 be the objective that the trial minimises, J0 its value at the first recorded
step, J the last and J* the least possible: exact for linear models with squared loss, otherwise the least that any
trial of the same weight decay has reached. A trial is

    diverged    a parameter or J is not finite, or J - F > diverged_factor * (J0 - F)
    diverging   J > J0 + atol
    converged   J - J* <= rtol (J0 - J*) + atol
    stalled     none of these, and over the last quarter of the recorded points J - F fell by less than
                the share stalled_below
    converging  the rest

F is a lower bound of the loss: 0, or below 0 for losses that can be negative (poisson_nll: its value for the best
possible outputs; gaussian_nll: that for no error and the least variance).

A trial that stopped early is judged by its curve up to there: J is the last value before it stopped, and the last
quarter is that of its own points. Its final loss is another value of the curve, the one at the best point, since that
is where its final parameters are from; so it is for every trial of a run with early stopping, unless it overflowed.

Overshoot is defined as in control theory (K. Ogata, Modern Control Engineering, 5.3): the farthest that a parameter
moves past its target, the minimiser of J, in percent of the distance from start to target; the maximum over parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sgdcore.trajectories import NEVER, Trajectories, last_finite

MEANINGS = {
    "converged": "reached the least possible objective, within tolerance",
    "converging": "not there yet, but still falling",
    "stalled": "hardly fell over the last quarter, above tolerance",
    "diverging": "finite, but above its initial value",
    "diverged": "overflowed, or grew beyond bounds",
}
VERDICTS = tuple(MEANINGS)
FloatArray = NDArray[np.float64]
_ATOL = 1e-12


@dataclass(frozen=True)
class Thresholds:
    """The thresholds in the verdicts' definitions; without ``atol`` it is 1e-12 times the loss of the prediction 0."""

    rtol: float = 1e-3
    atol: float | None = None
    diverged_factor: float = 1e6
    stalled_below: float = 0.01


@dataclass(frozen=True, eq=False)
class Judgement:
    """The outcome of T trials. NaN and -1 mean that there is no such value."""

    verdict: NDArray[np.str_]  # (T,), one of VERDICTS
    final_loss: FloatArray  # (T,) training loss of the final parameters; the last finite one if the trial overflowed
    best_loss: FloatArray  # (T,)
    best_step: NDArray[np.int64]  # (T,) recorded step of best_loss, the first of equals
    first_nonfinite_step: NDArray[np.int64]  # (T,) -1 if none
    steps_to_tolerance: NDArray[np.int64]  # (T,) first recorded step within the converged tolerance, -1 if never
    overshoot_percent: FloatArray  # (T,) 0 if nothing passed its target; NaN if that is the start or unknown
    overshoot_parameter: NDArray[np.intp]  # (T,) index of the parameter that overshot most, -1 if none
    peak_value: FloatArray  # (T,) its farthest value, NaN if none
    peak_step: NDArray[np.int64]  # (T,) the step that reached it, -1 if none


def judge(trajectories: Trajectories, thresholds: Thresholds | None = None) -> Judgement:
    """Return the verdicts of all trials. Losses are judged at the recorded steps, overshoot at every step."""
    objective = trajectories.objective
    losses = np.where(np.isfinite(trajectories.loss), trajectories.loss, np.inf)
    trials, best = np.arange(len(losses)), np.argmin(losses, axis=1)
    stopped = trajectories.first_nonfinite_step != NEVER
    minimum = trajectories.minimum
    if np.isnan(minimum).any():
        minimum = least_reached(objective, trajectories.weight_decays)
    limits = absolute(thresholds or Thresholds(), trajectories.loss_scale)
    last_point, steps = trajectories.last_point, trajectories.steps
    floor = trajectories.loss_floor
    verdict, steps_to_tolerance = conclude(objective, minimum, stopped, steps, limits, last_point, floor)
    percent, parameter, peak_value, peak_step = _overshoot(trajectories)
    return Judgement(
        verdict=verdict,
        final_loss=_finite_or_nan(trajectories.final_values(trajectories.loss)),
        best_loss=_finite_or_nan(losses[trials, best]),
        best_step=np.where(np.isfinite(losses[trials, best]), trajectories.steps[best], NEVER),
        first_nonfinite_step=trajectories.first_nonfinite_step,
        steps_to_tolerance=steps_to_tolerance,
        overshoot_percent=percent,
        overshoot_parameter=parameter,
        peak_value=peak_value,
        peak_step=peak_step,
    )


def absolute(thresholds: Thresholds, loss_scale: float) -> Thresholds:
    """Return thresholds with an ``atol``, for losses of this scale."""
    return thresholds if thresholds.atol is not None else replace(thresholds, atol=_ATOL * loss_scale)


def least_reached(objective: FloatArray, weight_decay: FloatArray) -> FloatArray:
    """Return the (T,) least finite objectives among the trials of each trial's weight decay, inf if there is none.

    Args:
        objective: (T, K).
        weight_decay: (T,), or (G, T) with those of every parameter group.
    """
    decays, which = np.unique(np.atleast_2d(weight_decay), axis=1, return_inverse=True)
    least = np.full(decays.shape[1], np.inf)
    which = which.reshape(-1)
    np.minimum.at(least, which, np.where(np.isfinite(objective), objective, np.inf).min(axis=1))
    return least[which]


def conclude(
    objective: FloatArray,
    minimum: FloatArray,
    stopped: NDArray[np.bool_],
    steps: NDArray[np.int64],
    limits: Thresholds,
    last_point: NDArray[np.intp],
    floor: float = 0.0,
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return verdicts and steps to tolerance, by the definitions at the top of this module.

    Args:
        objective: (T, K) J at the recorded steps, not finite from the step at which a trial overflowed.
        minimum: (T,) J*.
        stopped: (T,) whether a parameter became non-finite.
        steps: (K,) recorded steps.
        limits: the thresholds in the definitions, with an ``atol``.
        last_point: (T,) the last point of a trial's curve: K - 1, or where it stopped early.
        floor: F, a lower bound of the loss.

    Returns:
        (T,) verdicts, and (T,) the first recorded step within the converged tolerance, -1 if never.
    """
    assert limits.atol is not None
    finite = np.isfinite(objective)
    after = np.arange(objective.shape[1]) > last_point[:, np.newaxis]
    trials, last = np.arange(len(objective)), last_finite(objective)
    with np.errstate(over="ignore", invalid="ignore"):
        tolerance = limits.rtol * (objective[:, 0] - minimum) + limits.atol
        within = finite & (objective - minimum[:, np.newaxis] <= tolerance[:, np.newaxis])
    first, quarter = objective[:, 0], objective[trials, last_point * 3 // 4]
    is_stopped = stopped | ~(finite | after).all(axis=1)
    verdict = _verdicts(
        (first - floor, quarter - floor, objective[trials, last] - floor), is_stopped, within[trials, last], limits
    )
    return verdict, np.where(within.any(axis=1), steps[np.argmax(within, axis=1)], NEVER)


def _verdicts(
    values: tuple[FloatArray, FloatArray, FloatArray],
    stopped: NDArray[np.bool_],
    converged: NDArray[np.bool_],
    limits: Thresholds,
) -> NDArray[np.str_]:
    """Return the verdicts; ``values`` are J - F at the first point, where the last quarter starts, and at the last."""
    assert limits.atol is not None
    first, quarter, last_objective = values
    with np.errstate(over="ignore", invalid="ignore"):
        conditions = [
            stopped | (last_objective > limits.diverged_factor * first),
            last_objective > first + limits.atol,
            converged,
            quarter - last_objective < limits.stalled_below * quarter,
        ]
    return np.select(conditions, ["diverged", "diverging", "converged", "stalled"], "converging")


def _overshoot(
    trajectories: Trajectories,
) -> tuple[FloatArray, NDArray[np.intp], FloatArray, NDArray[np.int64]]:
    state = trajectories.state
    start, peak = state.start.astype(np.float64), state.peak.astype(np.float64)
    distance = np.abs(state.target - start)
    travelled = (peak - state.target) * np.sign(state.target - start)
    with np.errstate(over="ignore"):
        percent = np.divide(100 * travelled, distance, out=np.full_like(distance, -np.inf), where=distance > 0)
    trials = np.arange(len(percent))
    which = np.argmax(percent, axis=1)
    most = percent[trials, which]
    past = most > 0
    return (
        np.where(past, most, np.where((distance > 0).any(axis=1), 0.0, np.nan)),
        np.where(past, which, -1),
        np.where(past, peak[trials, which], np.nan),
        np.where(past, state.peak_step[trials, which], NEVER),
    )


def _finite_or_nan(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)
