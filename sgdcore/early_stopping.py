"""Early stopping of single trials by patience, on top of any kernel.

At every recorded point the metric of each trial is compared with its best so far. A value improves on the best if
``value + min_delta < best``, as in Keras' and Lightning's EarlyStopping; the first recorded point is the first best. A
trial whose metric has not improved for ``patience`` recorded points in a row stops, and leaves the pack: the kernel
goes on with the others. Every trial ends with the parameters of its best point (Keras' restore_best_weights), those
that never stopped too. A trial that overflows is not restored: it has diverged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgdcore.counted_steps import counted
from sgdcore.errors import InvalidTraining
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Kernel, Problem, Resources, Segment
from sgdcore.trajectories import NEVER, Curves, EarlyStops, FloatArray, State

Metric = Literal["loss", "validation_loss"]


@dataclass(frozen=True)
class EarlyStopping:
    """The rule by which a trial stops early.

    Args:
        patience: how many recorded points in a row may pass without an improvement, >= 1.
        min_delta: how much a value must be below the best to be an improvement, >= 0.
        metric: ``loss`` or ``validation_loss``; by default the latter if the task has a validation set.

    Raises:
        InvalidTraining: a value out of range.
    """

    patience: int
    min_delta: float = 0.0
    metric: Metric | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.patience, int | np.integer) or isinstance(self.patience, bool) or self.patience < 1:
            raise InvalidTraining(f"patience must be a whole number >= 1, not {self.patience}")
        if not 0 <= self.min_delta < math.inf:
            raise InvalidTraining(f"min_delta must be a finite number >= 0, not {self.min_delta}")
        if self.metric not in (None, "loss", "validation_loss"):
            raise InvalidTraining(f"the metric of early stopping must be loss or validation_loss, not {self.metric!r}")

    def stops(
        self, steps: NDArray[np.int64], curves: FloatArray, first_nonfinite_step: NDArray[np.int64]
    ) -> EarlyStops:
        """Return where trials with these (T, K) curves of the metric stop, and their best points."""
        found = _Decisions(self, len(curves))
        for step, values in zip(steps.tolist(), curves.T, strict=True):
            finite = (first_nonfinite_step == NEVER) | (step < first_nonfinite_step)
            trials = np.flatnonzero(finite & (found.stops.stopped_step == NEVER))
            found.look(trials, step, values[trials])
        return found.stops


class Patience:
    """A kernel that runs another one from one recorded point to the next, with the trials that have not stopped.

    Args:
        rule: when trials stop; EarlyStops: at the steps where those of another run did, with the same best points.
        advance: the kernel.
        state: of the run's start.
    """

    def __init__(self, rule: EarlyStopping | EarlyStops, advance: Kernel, state: State) -> None:
        """Prepare to train the trials of this state."""
        self._advance, self._decisions = advance, _Decisions(rule, len(state.params))
        self._metric = rule.metric if isinstance(rule, EarlyStopping) else "loss"
        self._best_params = state.params.copy()
        self._running = np.flatnonzero(state.first_nonfinite_step == NEVER)

    @property
    def is_over(self) -> bool:
        """Whether no trial runs any more."""
        return not len(self._running)

    def __call__(
        self,
        problem: Problem,
        hyperparams: Hyperparams,
        state: State,
        segment: Segment,
        curves: Curves,
        resources: Resources,
    ) -> None:
        """Step the running trials of ``state`` to the segment's end, in place, and fill their curves."""
        pack, first = _Pack(self._running, hyperparams, state, segment, curves), segment.recorded.start
        for part in _to_points(curves.steps, segment):
            if self.is_over:
                return
            with counted(resources.on_steps, len(hyperparams) * (part.stop - pack.state.step)) as on_steps:
                pack.advance(self._advance, problem, part, replace(resources, on_steps=on_steps))
            leaves = pack.state.first_nonfinite_step != NEVER
            for point in range(part.recorded.start, part.recorded.stop):
                leaves |= self._look(pack, point, ~leaves)
            if leaves.any() or part.stop == segment.stop:
                pack.put(state, curves, slice(first, part.recorded.stop))
                self._running = self._running[~leaves]
                state, first = replace(state, step=part.stop), part.recorded.stop
                pack = _Pack(self._running, hyperparams, state, segment, curves)

    def _look(self, pack: _Pack, point: int, finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Look at one point of the running trials; return which of them stop there."""
        values = pack.curves.validation_loss if self._metric == "validation_loss" else pack.curves.loss
        assert values is not None
        some, stops = np.flatnonzero(finite), np.zeros(len(finite), np.bool_)
        trials = self._running[some]
        improved, stops[some] = self._decisions.look(trials, int(pack.curves.steps[point]), values[some, point])
        self._best_params[trials[improved]] = pack.state.params[some[improved]]
        return stops

    def restored(self, state: State) -> EarlyStops:
        """Give the trials that have not overflowed the parameters of their best points; return where trials stopped."""
        finite = state.first_nonfinite_step == NEVER
        state.params[finite] = self._best_params[finite]
        return self._decisions.stops


class _Decisions:
    """Which trials improve and which stop, point by point."""

    def __init__(self, rule: EarlyStopping | EarlyStops, trials: int) -> None:
        self._rule, self.stops = rule, EarlyStops.none(trials)
        self._best, self._waited = np.full(trials, np.inf), np.zeros(trials, np.int64)

    def look(
        self, trials: NDArray[np.intp], step: int, values: FloatArray
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which of the trials improve at this step, and which stop; ``values`` are those of the metric."""
        if isinstance(self._rule, EarlyStops):
            improved = self._rule.best_step[trials] == step
            stops = self._rule.stopped_step[trials] == step
        else:
            improved = values + self._rule.min_delta < self._best[trials]
            self._waited[trials] = np.where(improved, 0, self._waited[trials] + 1)
            stops = self._waited[trials] >= self._rule.patience
        self._best[trials[improved]] = values[improved]
        self.stops.best_step[trials[improved]] = step
        self.stops.stopped_step[trials[stops]] = step
        return improved, stops


class _Pack:
    """The running trials, as a kernel takes them."""

    def __init__(
        self, trials: NDArray[np.intp], hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves
    ) -> None:
        self._trials, self._hyperparams = trials, hyperparams[trials]
        self.state, self.curves = state.take(trials), curves.like(len(trials))
        rates = segment.rates
        self._order = segment.order[trials]
        self._rates = None if rates is None else replace(rates, which=rates.which[trials])

    def advance(self, advance: Kernel, problem: Problem, segment: Segment, resources: Resources) -> None:
        segment = replace(segment, order=self._order, rates=self._rates)
        advance(problem, self._hyperparams, self.state, segment, self.curves, resources)
        self.state = replace(self.state, step=segment.stop)

    def put(self, state: State, curves: Curves, recorded: slice) -> None:
        state.put(self._trials, self.state)
        curves.put(self._trials, self.curves, recorded)


def _to_points(steps: NDArray[np.int64], segment: Segment) -> Iterator[Segment]:
    """Yield the segment in parts that end at its recorded steps, and one to its end."""
    first = segment.recorded.start
    for stop in np.union1d(steps[segment.recorded], segment.stop).tolist():
        last = int(np.searchsorted(steps, stop, side="right"))
        yield replace(segment, stop=stop, recorded=slice(first, last))
        first = last
