"""Rates: the learning rate and momentum of every step of a scheduled run, by trial and parameter group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidHyperparams, InvalidTraining
from sgdcore.hyperparams import Hyperparams
from sgdcore.schedule_recursion import FloatArray
from sgdcore.schedule_rows import ScheduleRows

_ENTRIES = 1 << 21  # of a table: 16 MiB


@dataclass(frozen=True, eq=False)
class Rates:
    """The learning rates of consecutive steps: trial i reads row t // steps_per_row - first_row, column which[i].

    G is the number of parameter groups, the default one first; U the number of distinct columns.
    """

    lr: FloatArray  # (rows, G, U)
    momentum: FloatArray | None  # (rows, G, U); None if no schedule changes it
    which: NDArray[np.intp]  # (T,)
    first_row: int
    steps_per_row: int


class RateTable:
    """The rates of a whole run, computed in order and a part at a time."""

    def __init__(self, hyperparams: Hyperparams, steps_per_epoch: int, first: int, last: int) -> None:
        """Prepare the rates of steps ``first`` to ``last`` of a run that began at step 0.

        Raises:
            InvalidHyperparams: a schedule does not fit a run of this length.
        """
        by_step = any(schedule is not None and schedule.interval == "step" for schedule in hyperparams.schedules)
        self.steps_per_row = 1 if by_step else max(1, steps_per_epoch)
        self._cycles = any(schedule is not None and schedule.cycles_momentum for schedule in hyperparams.schedules)
        every = [hyperparams, *hyperparams.groups.values()]
        keys = np.array([hyperparams.schedule_of, *(h.lr for h in every), *(h.momentum for h in every)], np.float64)
        if not self._cycles:
            keys = keys[: 1 + len(every)]
        columns, which = np.unique(keys, axis=1, return_inverse=True)
        self._which = which.reshape(-1).astype(np.intp)
        self._lr, momentum = columns[1 : 1 + len(every)], columns[1 + len(every) :]
        self._momentum = momentum if self._cycles else None
        self._parts = []
        for index in np.unique(columns[0]):
            some = np.flatnonzero(columns[0] == index)
            schedule = hyperparams.schedules[int(index)]
            if schedule is not None:
                own = 1 if schedule.interval == "step" else max(1, steps_per_epoch)
                rows = schedule.lasting(-(-last // own)).rows(self._lr[:, some])
                self._parts.append((some, _Repeated(rows, own // self.steps_per_row)))
        self._row = 0
        while self._row < first // self.steps_per_row:
            self._take(min(self.longest // self.steps_per_row, first // self.steps_per_row - self._row))

    @property
    def longest(self) -> int:
        """The most steps that a table should have."""
        return max(1, _ENTRIES // max(1, self._lr.size)) * self.steps_per_row

    def until(self, first: int, stop: int) -> Rates:
        """Return the rates of steps first ... stop - 1; ``first`` is where the part before ended."""
        first_row = self._row
        lr, momentum = self._take(-(-stop // self.steps_per_row) - first_row)
        return Rates(lr, momentum, self._which, first_row, self.steps_per_row)

    def _take(self, count: int) -> tuple[FloatArray, FloatArray | None]:
        """Return the next rows."""
        whole = (count, *self._lr.shape)
        self._row += count
        if len(self._parts) == 1 and self._momentum is None and len(self._parts[0][0]) == self._lr.shape[1]:
            return self._parts[0][1].take(count)[0].reshape(whole), None
        rates = np.empty(whole)
        rates[:] = self._lr
        momentum = None
        if self._momentum is not None:
            momentum = np.empty(whole)
            momentum[:] = self._momentum
        for columns, rows in self._parts:
            lr, cycled = rows.take(count)
            rates[:, :, columns] = lr.reshape(count, len(self._lr), len(columns))
            if momentum is not None and cycled is not None:
                momentum[:, :, columns] = cycled[:, np.newaxis, np.newaxis]
        return rates, momentum


class _Repeated:
    """The rows of a schedule, each of them ``times`` times."""

    def __init__(self, rows: ScheduleRows, times: int) -> None:
        self._rows, self._times, self._row = rows, times, 0
        self._last: tuple[FloatArray, FloatArray | None] | None = None

    def take(self, count: int) -> tuple[FloatArray, FloatArray | None]:
        """Return the next ``count`` rows of learning rates, and of momenta if the schedule sets them."""
        if self._times == 1:
            return self._rows.take(count)
        numbers = np.arange(self._row, self._row + count) // self._times
        known = -(-self._row // self._times)  # distinct rows so far
        self._row += count
        lr, momenta = self._rows.take(-(-self._row // self._times) - known)
        first = known
        if self._last is not None:
            first, lr = known - 1, np.concatenate([self._last[0], lr])
            momenta = None if momenta is None else np.concatenate([self._last[1], momenta])
        self._last = lr[-1:], None if momenta is None else momenta[-1:]
        return lr[numbers - first], None if momenta is None else momenta[numbers - first]


def check_schedules(hyperparams: Hyperparams, steps_per_epoch: int, last: int, *, continued: bool) -> None:
    """Check that every schedule fits a run up to step ``last``.

    Raises:
        InvalidTraining: a schedule is too short, or it takes the rest of a run that is continued.
    """
    for schedule in hyperparams.schedules:
        if schedule is None:
            continue
        rows = last if schedule.interval == "step" else last // max(1, steps_per_epoch)
        try:
            whole = schedule.lasting(rows)
        except InvalidHyperparams as error:
            raise InvalidTraining(str(error)) from error
        if continued and whole != schedule:
            kind = schedule.schedulers[-1].kind
            raise InvalidTraining(
                f"cannot continue with a {kind} schedule that takes the rest of the run: give its length"
            )


def with_cycled_momentum(hyperparams: Hyperparams) -> Hyperparams:
    """Return the hyperparameters with the first momentum of onecycle schedules, which torch's OneCycleLR sets."""
    momentum, every = hyperparams.momentum.copy(), dict(hyperparams.groups)
    for index, schedule in enumerate(hyperparams.schedules):
        if schedule is not None and schedule.cycles_momentum:
            chosen = hyperparams.schedule_of == index
            highest = schedule.schedulers[0]["max_momentum"]
            momentum[chosen] = highest
            every = {
                name: group.replace(momentum=np.where(chosen, highest, group.momentum)) for name, group in every.items()
            }
    return hyperparams.replace(momentum=momentum, groups=every)
