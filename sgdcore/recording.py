"""Recording: the choice of steps of a run that are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTraining
from sgdcore.geometric import geometric

Spacing = Literal["log", "linear", "all"]
MAX_PATH_PARAMETERS = 16


@dataclass(frozen=True, eq=False)
class ListedSteps:
    """A recording of listed steps: those between the first and the last step of a run, and both of these."""

    listed: NDArray[np.int64]  # sorted

    def steps(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the recorded steps of a run from ``first`` to ``last``: sorted, unique, both ends included."""
        inside = self.listed[(self.listed > first) & (self.listed < last)]
        return np.unique(np.concatenate([[first], inside, [last]])).astype(np.int64)


@dataclass(frozen=True)
class Recording:
    """The recording density of a run: step 0, the last step and up to ``points`` steps between.

    Args:
        points: how many steps to keep between the first and the last; ignored if spacing is ``all``.
        spacing: ``log`` (dense at the start), ``linear``, or ``all`` (every step).
        every: keep multiples of so many steps only, as of the steps of an epoch.
    """

    points: int = 64
    spacing: Spacing = "log"
    every: int = 1

    def __post_init__(self) -> None:
        """Check points and spacing."""
        if not isinstance(self.points, int) or self.points < 0:
            raise InvalidTraining(f"recording points must be a whole number >= 0, not {self.points}")
        if not isinstance(self.every, int) or self.every < 1:
            raise InvalidTraining(f"recording every must be a whole number >= 1, not {self.every}")
        if self.spacing not in ("log", "linear", "all"):
            raise InvalidTraining(f"recording spacing must be log, linear or all, not {self.spacing!r}")

    def steps(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the recorded steps of a run from ``first`` to ``last``: sorted, unique, both ends included."""
        if self.every > 1:
            whole = replace(self, every=1).steps(-(-first // self.every), last // self.every) * self.every
            return np.unique(np.concatenate([[first], whole, [last]]))
        length = last - first
        if self.spacing == "all":
            return np.arange(first, last + 1, dtype=np.int64)
        if self.spacing == "linear":
            between = np.linspace(0, length, self.points + 2)
        else:
            between = geometric(1.0, float(max(length, 1)), self.points + 1)[: self.points]
        inner = np.clip(np.rint(between).astype(np.int64), 0, length)
        return np.unique(np.concatenate([[0], inner, [length]])) + first
