"""What a kernel is handed, and its signature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sgdcore.hyperparams import Hyperparams
from sgdcore.tasks.task import Quadratic
from sgdcore.trajectories import Curves, State


@dataclass(frozen=True, eq=False)
class Problem:
    """A task as arrays in the run's dtype, and its losses as quadratic forms in float64."""

    features: NDArray[Any]  # (n, k)
    targets: NDArray[Any]  # (n,)
    bias: bool
    training: Quadratic
    validation: Quadratic | None


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of steps: which samples they see and which of them are recorded.

    Step t belongs to epoch e = t // steps_per_epoch and reads ``samples[(e - first_epoch) % len(samples)]``.
    """

    stop: int  # the segment ends after this many steps, counted from the run's start
    samples: NDArray[np.int32]  # (rows, n)
    first_epoch: int
    batch_size: int
    recorded: slice  # which of the curves' steps lie in this segment


class Kernel(Protocol):
    """Steps all trials of ``state`` to ``segment.stop``, in place, and fills the segment's part of the curves.

    The curves come uninitialised: NaN is written where a trial has stopped.
    """

    def __call__(
        self,
        problem: Problem,
        hyperparams: Hyperparams,
        state: State,
        segment: Segment,
        curves: Curves,
        threads: int,
    ) -> None:
        """Advance."""
