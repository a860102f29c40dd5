"""Trajectories, the result of training: curves, final parameters, stopping steps and the state to continue from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.hyperparams import Hyperparams

FloatArray = NDArray[np.float64]
NEVER = -1  # first_nonfinite_step of a trial that stayed finite


@dataclass(frozen=True, eq=False)
class State:
    """The state of T trials after ``step`` steps, sufficient to continue the run. Arrays are in the run's dtype.

    ``direction`` is the sign of (target - start), 0 if the start is on target or the target is unknown (NaN). ``peak``
    is the farthest value so far past the target in that direction, and ``peak_step`` the first step that reached it.
    Until a trial passes its target, they are the target itself (or the last value before it) and 0.

    With early stopping, ``params`` are those of each trial's best point; all else is as of its last step, momentum
    buffers too, so that such a run cannot be continued.
    """

    step: int
    params: NDArray[Any]  # (T, P); if the trial stopped: its values at first_nonfinite_step
    momentum_buffers: NDArray[Any]  # (T, P)
    first_nonfinite_step: NDArray[np.int64]  # (T,)
    start: NDArray[Any]  # (T, P)
    target: FloatArray  # (T, P)
    direction: NDArray[Any]  # (T, P)
    peak: NDArray[Any]  # (T, P)
    peak_step: NDArray[np.int64]  # (T, P)
    clipped_steps: NDArray[np.int64]  # (T,) steps whose gradients were clipped

    def take(self, trials: NDArray[np.intp]) -> State:
        """Return a copy of the selected trials' state."""
        return State(
            self.step,
            *(np.array(a[trials]) for a in self._arrays()),
        )

    def put(self, trials: NDArray[np.intp], part: State) -> None:
        """Write back a state from :meth:`take`."""
        for mine, theirs in zip(self._arrays(), part._arrays(), strict=True):
            mine[trials] = theirs

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return (
            self.params,
            self.momentum_buffers,
            self.first_nonfinite_step,
            self.start,
            self.target,
            self.direction,
            self.peak,
            self.peak_step,
            self.clipped_steps,
        )


@dataclass(frozen=True, eq=False)
class Curves:
    """The values at the K recorded steps; NaN from the step at which a trial overflowed, or after it stopped early.

    The last bits of losses of linear models with squared loss depend on the linear algebra library's code for the
    processor (see :class:`sgdcore.tasks.task.Quadratic`); those of parameters do not.
    """

    steps: NDArray[np.int64]  # (K,)
    loss: FloatArray  # (T, K): over the full training set, in float64
    # (T, K), for the penalty: |p|^2, with groups the sum of weight_decay p^2; None with a path or without weight decay.
    squared_norm: FloatArray | None
    validation_loss: FloatArray | None  # (T, K)
    path: NDArray[Any] | None  # (T, K, P) in the run's dtype; None if the model has more than 16 parameters

    def like(self, trials: int) -> Curves:
        """Return uninitialised curves of the same kind for a different number of trials."""

        def other(array: NDArray[Any]) -> NDArray[Any]:
            return np.empty((trials, *array.shape[1:]), array.dtype)

        return Curves(self.steps, *(None if a is None else other(a) for a in self._arrays()))  # type: ignore[arg-type]

    def put(self, trials: NDArray[np.intp], part: Curves, recorded: slice = slice(None)) -> None:
        """Write the selected trials' curves, at all points or only at ``recorded``."""
        for mine, theirs in zip(self._arrays(), part._arrays(), strict=True):
            if mine is not None and theirs is not None:
                mine[trials, recorded] = theirs[:, recorded]

    def blank(self, recorded: slice) -> None:
        """Write NaN at some points of all trials."""
        for array in self._arrays():
            if array is not None:
                array[:, recorded] = np.nan

    def _arrays(self) -> tuple[NDArray[Any] | None, ...]:
        return self.loss, self.squared_norm, self.validation_loss, self.path


@dataclass(frozen=True, eq=False)
class EarlyStops:
    """Where T trials stopped early, and the recorded steps whose parameters they ended with, unless they overflowed."""

    stopped_step: NDArray[np.int64]  # (T,) -1 if the trial ran to the end, or overflowed
    best_step: NDArray[np.int64]  # (T,)

    @classmethod
    def none(cls, trials: int) -> EarlyStops:
        """Return those of trials that have not begun."""
        return cls(np.full(trials, NEVER, np.int64), np.zeros(trials, np.int64))

    def take(self, trials: NDArray[np.intp]) -> EarlyStops:
        """Return those of the selected trials."""
        return EarlyStops(self.stopped_step[trials], self.best_step[trials])

    def put(self, trials: NDArray[np.intp], part: EarlyStops) -> None:
        """Write those of the selected trials."""
        self.stopped_step[trials], self.best_step[trials] = part.stopped_step, part.best_step


@dataclass(frozen=True, eq=False)
class Trajectories:
    """The result of :func:`sgdcore.train` for T trials with P parameters and K recorded steps."""

    parameter_names: tuple[str, ...]
    hyperparams: Hyperparams  # T rows
    steps_per_epoch: int
    curves: Curves
    state: State
    minimum: FloatArray  # (T,): least value of the objective J = loss + weight_decay/2 |p|^2; NaN if unknown
    kernel: str
    device: str
    group_of: NDArray[np.intp]  # (P,) each parameter's group: 0 is the default one, then those of the hyperparameters
    loss_scale: float = 1.0  # training loss of the output 0, above the floor
    loss_floor: float = 0.0  # a lower bound of the training loss
    early_stops: EarlyStops | None = None  # None: without early stopping

    def __len__(self) -> int:
        """Return the number of trials T."""
        return len(self.state.params)

    @property
    def weight_decay(self) -> FloatArray:
        """(T,) weight decays of the default group."""
        return self.hyperparams.weight_decay

    @property
    def weight_decays(self) -> FloatArray:
        """(G, T) weight decays of every parameter group."""
        return np.array([h.weight_decay for h in (self.hyperparams, *self.hyperparams.groups.values())])

    @property
    def steps(self) -> NDArray[np.int64]:
        """(K,) recorded steps."""
        return self.curves.steps

    @property
    def loss(self) -> FloatArray:
        """(T, K) training losses."""
        return self.curves.loss

    @property
    def params(self) -> NDArray[Any]:
        """(T, P) final parameters; if a trial overflowed, its values at the first non-finite step.

        With early stopping, those of the recorded point where its metric was best.
        """
        return self.state.params

    @property
    def first_nonfinite_step(self) -> NDArray[np.int64]:
        """(T,) first step after which a parameter was not finite, -1 if there is none."""
        return self.state.first_nonfinite_step

    @property
    def stopped_step(self) -> NDArray[np.int64]:
        """(T,) step at which a trial stopped early, -1 if it ran to the end or overflowed."""
        return EarlyStops.none(len(self)).stopped_step if self.early_stops is None else self.early_stops.stopped_step

    @property
    def last_point(self) -> NDArray[np.intp]:
        """(T,) index of the last recorded step that a trial reached, unless it overflowed."""
        reached = np.where(self.stopped_step == NEVER, self.steps[-1], self.stopped_step)
        return np.searchsorted(self.steps, reached)

    def final_values(self, curves: FloatArray) -> FloatArray:
        """Return (T,) values of (T, K) curves at the final parameters; if a trial overflowed, the last finite one."""
        point = last_finite(curves)
        if self.early_stops is not None:
            best = np.searchsorted(self.steps, self.early_stops.best_step)
            point = np.where(self.first_nonfinite_step == NEVER, best, point)
        return curves[np.arange(len(curves)), point]

    @property
    def objective(self) -> FloatArray:
        """(T, K) J = loss + weight_decay/2 |p|^2, the objective that each trial minimises."""
        if not self.weight_decays.any():
            return self.loss
        if self.hyperparams.groups:
            return self.loss + self._group_penalty()
        decay = self.weight_decay[:, np.newaxis]
        with np.errstate(over="ignore", invalid="ignore"):  # diverging trials overflow; 0 * inf is not selected below
            penalty = decay / 2 * self._squared_norm()
        return self.loss + np.where(decay != 0, penalty, 0.0)

    @property
    def distance(self) -> FloatArray | None:
        """(T, K) |p - p*|, with p* the minimiser of the trial's objective nearest to its start; None without a path.

        NaN from the step at which a trial stopped, and if p* is unknown.
        """
        if self.curves.path is None:
            return None
        with np.errstate(over="ignore"):
            away = self.curves.path - self.state.target[:, np.newaxis]
            return np.asarray(np.hypot.reduce(away, axis=2))  # plain squares would overflow long before the distance

    def _group_penalty(self) -> FloatArray:
        """Return the (T, K) sums of weight_decay/2 p^2, with each parameter's own weight decay."""
        if self.curves.path is None:
            assert self.curves.squared_norm is not None
            return self.curves.squared_norm / 2
        penalty = np.zeros(self.loss.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            for j, group in enumerate(self.group_of):
                decay = self.weight_decays[group][:, np.newaxis] / 2
                square = np.square(self.curves.path[:, :, j], dtype=np.float64)
                penalty += np.where(decay != 0, decay * square, 0.0)
        return penalty

    def _squared_norm(self) -> FloatArray:
        if self.curves.path is None:
            assert self.curves.squared_norm is not None
            return self.curves.squared_norm
        norm = np.zeros(self.loss.shape)
        for j in range(self.curves.path.shape[2]):
            norm += np.square(self.curves.path[:, :, j], dtype=np.float64)
        return norm

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the curves as columns for ``pandas.DataFrame(result.columns())``, one row per trial and recorded step.

        The columns are trial, step, loss, validation_loss if there is a validation set, and the distance to the optimum
        and the parameters if they are recorded. A parameter named like another column becomes param.NAME.
        """
        trials, points = self.loss.shape
        columns: dict[str, NDArray[Any]] = {
            "trial": np.repeat(np.arange(trials), points),
            "step": np.tile(self.steps, trials),
            "loss": self.loss.ravel(),
        }
        if self.curves.validation_loss is not None:
            columns["validation_loss"] = self.curves.validation_loss.ravel()
        if self.curves.path is not None and (distance := self.distance) is not None:
            columns["distance"] = distance.ravel()
            taken = set(columns)
            for j, name in enumerate(self.parameter_names):
                columns[f"param.{name}" if name in taken else name] = self.curves.path[:, :, j].ravel()
        return columns


def last_finite(curves: FloatArray) -> NDArray[np.intp]:
    """Return the (T,) last points at which each curve is finite, the first point if none is."""
    after = np.argmax(np.isfinite(curves)[:, ::-1], axis=1)
    return np.asarray(np.maximum(curves.shape[1] - 1 - after, 0), dtype=np.intp)
