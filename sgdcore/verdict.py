"""Verdicts: what became of each trial, from converged to diverged, how far it overshot and when it arrived.

Let J = loss + weight_decay/2 |p|^2 be the objective that the trial descends, J0 its value at the first recorded
step, J the last and J* the least possible. A trial is

    diverged    a parameter or J is not finite, or J > diverged_factor * J0
    diverging   J > J0 + atol
    converged   J - J* <= rtol (J0 - J*) + atol
    stalled     none of these, and over the last quarter of the recorded points J fell by less than stalled_below
    converging  the rest

Overshoot, as in control theory (K. Ogata, Modern Control Engineering, 5.3): the farthest that a parameter went past
its target, the minimiser of J, in percent of the distance from start to target; the largest over the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgdcore.trajectories import NEVER, Trajectories

VERDICTS = ("converged", "converging", "stalled", "diverging", "diverged")
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Thresholds:
    """The numbers in the verdicts' definitions."""

    rtol: float = 1e-3
    atol: float = 1e-12
    diverged_factor: float = 1e6
    stalled_below: float = 0.01


@dataclass(frozen=True, eq=False)
class Judgement:
    """What became of T trials. NaN and -1 mean that there is no such value."""

    verdict: NDArray[np.str_]  # (T,), one of VERDICTS
    final_loss: FloatArray  # (T,) last recorded finite training loss
    best_loss: FloatArray  # (T,)
    best_step: NDArray[np.int64]  # (T,) recorded step of best_loss, the first of equals
    first_nonfinite_step: NDArray[np.int64]  # (T,) -1 where there is none
    steps_to_tolerance: NDArray[np.int64]  # (T,) first recorded step within the converged tolerance, -1 if never
    overshoot_percent: FloatArray  # (T,) 0 where nothing went past its target, NaN where the start was the target
    overshoot_parameter: NDArray[np.intp]  # (T,) index of the parameter that went farthest, -1 where none did
    peak_value: FloatArray  # (T,) its farthest value, NaN where none
    peak_step: NDArray[np.int64]  # (T,) the step that reached it, -1 where none


def judge(trajectories: Trajectories, thresholds: Thresholds | None = None) -> Judgement:
    """Verdicts of all trials. Losses are judged at the recorded steps, overshoot at every step."""
    limits = thresholds or Thresholds()
    trials = np.arange(len(trajectories))
    with np.errstate(over="ignore", invalid="ignore"):
        objective = trajectories.objective
        finite = np.isfinite(objective)
        last = np.maximum(objective.shape[1] - 1 - np.argmax(finite[:, ::-1], axis=1), 0)
        first_objective, last_objective = objective[:, 0], objective[trials, last]
        tolerance = limits.rtol * (first_objective - trajectories.minimum) + limits.atol
        within = finite & (objective - trajectories.minimum[:, np.newaxis] <= tolerance[:, np.newaxis])
    stopped = (trajectories.first_nonfinite_step != NEVER) | ~finite.all(axis=1)
    losses = np.where(np.isfinite(trajectories.loss), trajectories.loss, np.inf)
    best = np.argmin(losses, axis=1)
    percent, parameter, peak_value, peak_step = _overshoot(trajectories)
    return Judgement(
        verdict=_verdicts(objective, last_objective, stopped, within[trials, last], limits),
        final_loss=_finite_or_nan(trajectories.loss[trials, last]),
        best_loss=_finite_or_nan(losses[trials, best]),
        best_step=np.where(np.isfinite(losses[trials, best]), trajectories.steps[best], NEVER),
        first_nonfinite_step=trajectories.first_nonfinite_step,
        steps_to_tolerance=np.where(within.any(axis=1), trajectories.steps[np.argmax(within, axis=1)], NEVER),
        overshoot_percent=percent,
        overshoot_parameter=parameter,
        peak_value=peak_value,
        peak_step=peak_step,
    )


def _verdicts(
    objective: FloatArray,
    last_objective: FloatArray,
    stopped: NDArray[np.bool_],
    converged: NDArray[np.bool_],
    limits: Thresholds,
) -> NDArray[np.str_]:
    first = objective[:, 0]
    quarter = objective[:, (objective.shape[1] - 1) * 3 // 4]
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
        np.where(past, most, np.where(distance.any(axis=1), 0.0, np.nan)),
        np.where(past, which, -1),
        np.where(past, peak[trials, which], np.nan),
        np.where(past, state.peak_step[trials, which], NEVER),
    )


def _finite_or_nan(values: FloatArray) -> FloatArray:
    return np.where(np.isfinite(values), values, np.nan)
