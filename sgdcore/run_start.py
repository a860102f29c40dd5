"""The start of a run: the state of its trials with the targets of their parameters, and empty curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdcore.errors import InvalidTraining
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem
from sgdcore.recording import MAX_PATH_PARAMETERS
from sgdcore.tasks.task import Quadratic, Task
from sgdcore.trajectories import NEVER, Curves, State, Trajectories


def initial_state(
    task: Task,
    problem: Problem,
    hyperparams: Hyperparams,
    start: ArrayLike | Trajectories | None,
    seeds: NDArray[np.int64],
    dtype: str,
) -> State:
    """Return the state of (T,) trials before their first step, or that of a run that goes on.

    Raises:
        InvalidTraining: start values of the wrong shape or not finite, or a run of another dtype or shape.
    """
    shape = (len(hyperparams), len(task.parameter_names))
    if isinstance(start, Trajectories):
        if start.params.shape != shape or start.params.dtype != dtype:
            raise InvalidTraining(
                f"cannot continue from {start.params.dtype} parameters of shape {start.params.shape}: "
                f"this run is {dtype} {shape}"
            )
        return start.state.take(np.arange(shape[0]))
    if start is None:
        values = task.initial_params(seeds, dtype)
    else:
        values = np.asarray(start, dtype=np.float64)
        if values.shape not in (shape, shape[1:]):
            raise InvalidTraining(f"start must have the shape {shape[1:]} or {shape}, not {values.shape}")
    with np.errstate(over="ignore"):
        params = np.array(np.broadcast_to(values, shape), dtype=dtype, order="C")
    if not np.isfinite(params).all():
        raise InvalidTraining(f"start values must be finite in {dtype}")
    exact = params.astype(np.float64)
    if problem.training is None:
        target, direction = np.full(shape, np.nan), np.zeros_like(params)
    else:
        target = _nearest_minimisers(problem, hyperparams, exact)
        target = _settled(target, exact, dtype)
        direction = np.sign(target - exact).astype(dtype)
    return State(
        step=0,
        params=params,
        momentum_buffers=np.zeros_like(params),
        first_nonfinite_step=np.full(shape[0], NEVER, dtype=np.int64),
        start=params.copy(),
        target=target,
        direction=direction,
        peak=np.where(direction == 0, params, _short_of(target, params)),
        peak_step=np.zeros(shape, dtype=np.int64),
        clipped_steps=np.zeros(shape[0], dtype=np.int64),
    )


def _settled(target: NDArray[np.float64], start: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    """Return the targets, or the start where both are equal up to rounding, in dtype or in float64.

    A parameter that starts on its target has no distance to travel, so its overshoot is undefined.
    """
    away = np.abs(target - start)
    largest = max(np.abs(target).max(initial=0.0), np.abs(start).max(initial=0.0))
    if away.min(initial=np.inf) > 8 * np.finfo(dtype).eps * largest:
        return target
    sizes = np.maximum(np.abs(target), np.abs(start))
    noise = np.maximum(np.finfo(dtype).eps * sizes, np.finfo(np.float64).eps * sizes.max(axis=1, keepdims=True))
    return np.where(away <= 8 * noise, start, target)


def _short_of(target: NDArray[np.float64], params: NDArray[Any]) -> NDArray[Any]:
    """Return the targets in the dtype of ``params``, rounded so that they stay on the side where ``params`` lie."""
    with np.errstate(over="ignore"):
        nearest = target.astype(params.dtype)
    beyond = (nearest - target) * (target - params) > 0
    np.nextafter(nearest, params, out=nearest, where=beyond)
    return nearest


def empty_curves(problem: Problem, hyperparams: Hyperparams, state: State, steps: NDArray[np.int64]) -> Curves:
    """Return uninitialised curves with these recorded steps."""
    trials, parameters = state.params.shape
    shape = (trials, len(steps))
    has_path = parameters <= MAX_PATH_PARAMETERS
    return Curves(
        steps=steps,
        loss=np.empty(shape),
        squared_norm=np.empty(shape) if _decays(hyperparams) and not has_path else None,
        validation_loss=np.empty(shape) if problem.held_out else None,
        path=np.empty((*shape, parameters), state.params.dtype) if has_path else None,
    )


def objective_minima(problem: Problem, hyperparams: Hyperparams) -> NDArray[np.float64]:
    """Return the (T,) least values of the objectives; NaN if unknown."""
    if problem.training is None:
        return np.full(len(hyperparams), np.nan)
    least = problem.training.objective_minimum(hyperparams.weight_decay)
    for trials, form in _with_decays_of_groups(problem, hyperparams):
        least[trials] = form.minimum
    return least


def _nearest_minimisers(problem: Problem, hyperparams: Hyperparams, start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (T, P) minimisers of each trial's objective nearest to its start."""
    assert problem.training is not None
    targets = problem.training.nearest_minimisers(hyperparams.weight_decay, start)
    for trials, form in _with_decays_of_groups(problem, hyperparams):
        targets[trials] = form.nearest_minimisers(np.zeros(len(trials)), start[trials])
    return targets


def _with_decays_of_groups(problem: Problem, hyperparams: Hyperparams) -> Iterator[tuple[NDArray[np.intp], Quadratic]]:
    """Yield the trials whose groups differ in weight decay and their objective, by combination of weight decays."""
    assert problem.training is not None
    decays = np.array([h.weight_decay for h in (hyperparams, *hyperparams.groups.values())])
    differing = np.flatnonzero((decays != decays[0]).any(axis=0))
    if not len(differing):
        return
    distinct, which = np.unique(decays[:, differing], axis=1, return_inverse=True)
    for index, decay in enumerate(distinct.T):
        yield differing[which.reshape(-1) == index], problem.training.with_decay(decay[problem.group_of])


def _decays(hyperparams: Hyperparams) -> bool:
    return any(h.weight_decay.any() for h in (hyperparams, *hyperparams.groups.values()))
