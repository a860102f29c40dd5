"""Settings of trials: from the columns of a trial set to the engine's hyperparameters, and what defines a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore import Hyperparams, Schedule
from sweeps.config.schedules import numbers, schedule, written
from sweeps.config.schema import CLIPPING, GROUP_HYPERPARAMETERS, HYPERPARAMETERS, SweepConfig
from sweeps.search.base import FloatArray


@dataclass(frozen=True)
class Options:
    """The parts of a sweep file that say what the columns beyond the five hyperparameters mean.

    Args:
        names: the columns.
        schedule: the sweep file's schedule, whose numbers can be columns; None for a constant lr.
        groups: the names of the parameter groups.
    """

    names: tuple[str, ...] = ()
    schedule: Any = None
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: SweepConfig) -> Options:
        """Return the options of a sweep file."""
        training = config.training
        return cls(config.options, training.schedule, tuple(training.groups or ()))

    @property
    def clips(self) -> bool:
        """Whether trials can have clipped gradients."""
        return any(name in CLIPPING for name in self.names)

    def hyperparams(self, columns: Mapping[str, FloatArray]) -> Hyperparams:
        """Return the hyperparameters of the trials with these columns."""
        return Hyperparams(
            *(columns[name] for name in HYPERPARAMETERS),
            **{name: columns[name] for name in CLIPPING if name in self.names},
            schedule=self._schedules(columns),
            groups={group: own for group in self.groups if (own := self._of_group(group, columns))},
        )

    def effective(self, hyperparams: Hyperparams, options: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return the columns beyond the five hyperparameters with the values that trials have.

        NaN in ``options`` stands for the default group's value, or for the number in the sweep file's schedule.
        """
        columns = {}
        for name in self.names:
            hyperparameter, _, group = name.partition(".")
            if name.startswith("schedule."):
                default = written(self.schedule, name)
            elif group:
                default = getattr(hyperparams, hyperparameter)
            else:
                default = np.inf
            columns[name] = np.where(np.isnan(options[name]), default, options[name])
        return columns

    def schedules(self, columns: Mapping[str, FloatArray]) -> tuple[list[Schedule], NDArray[np.intp]]:
        """Return the distinct schedules of trials, and each trial's index among them; none without a schedule."""
        if self.schedule is None:
            return [], np.zeros(0, dtype=np.intp)
        places = {name: place for name, place in numbers(self.schedule).items() if name in self.names}
        if not places:
            return [schedule(self.schedule)], np.zeros(len(columns["lr"]), dtype=np.intp)
        rows = np.array([columns[name] for name in places])
        distinct, which = np.unique(rows, axis=1, return_inverse=True)
        made = [
            schedule(
                self.schedule,
                {place: value for place, value in zip(places.values(), row, strict=True) if not np.isnan(value)},
            )
            for row in distinct.T.tolist()
        ]
        return made, which.reshape(-1).astype(np.intp)

    def _schedules(self, columns: Mapping[str, FloatArray]) -> Any:
        distinct, which = self.schedules(columns)
        if len(distinct) <= 1:
            return distinct[0] if distinct else None
        return [distinct[i] for i in which]

    def _of_group(self, group: str, columns: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return a group's own hyperparameters; NaN in a column stands for the default group's value."""
        own = {}
        for name in GROUP_HYPERPARAMETERS:
            if (column := f"{name}.{group}") in self.names:
                own[name] = np.where(np.isnan(columns[column]), columns[name], columns[column])
        return own


NO_OPTIONS = Options()
