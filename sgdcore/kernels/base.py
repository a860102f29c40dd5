"""What a kernel is handed, and its signature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sgdcore.hyperparams import Hyperparams
from sgdcore.tasks.task import Quadratic, Task
from sgdcore.trajectories import Curves, State


@dataclass(frozen=True, eq=False)
class Problem:
    """A task as arrays in the run's dtype; where its losses are quadratic, these as forms in float64."""

    task: Task
    features: NDArray[Any]  # (n, k)
    targets: NDArray[Any]  # (n,)
    bias: bool
    held_out: tuple[NDArray[Any], NDArray[Any]] | None  # features and targets of the validation set
    training: Quadratic | None  # the loss over the training set
    validation: Quadratic | None


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch of steps: which samples they see and which of them are recorded.

    Step t belongs to epoch e = t // steps_per_epoch; in it a trial whose order is s reads
    ``samples[s, (e - first_epoch) % rows]``.
    """

    stop: int  # the segment ends after this many steps, counted from the run's start
    samples: NDArray[np.int32]  # (orders, rows, n); one order only, for kernels that take one at a time
    order: NDArray[np.intp]  # (T,) each trial's order
    first_epoch: int
    batch_size: int
    recorded: slice  # which of the curves' steps lie in this segment


@dataclass(frozen=True)
class Resources:
    """What a kernel may use. No result depends on ``threads``, but the torch kernel's to rounding."""

    device: str = "cpu"  # or cuda:N
    threads: int = 1  # of the CPU
    compile: bool = False  # of the torch kernel: whether torch.compile makes its steps


def columns(hyperparams: Hyperparams, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(5, T) -lr, momentum, weight_decay, 1 - dampening, nesterov: computed in double, then cast, as torch does."""
    result = np.empty((5, len(hyperparams)), dtype)
    np.negative(hyperparams.lr, out=result[0], casting="unsafe")
    result[1], result[2] = hyperparams.momentum, hyperparams.weight_decay
    np.subtract(1, hyperparams.dampening, out=result[3], casting="unsafe")
    result[4] = hyperparams.nesterov
    return result


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
        resources: Resources,
    ) -> None:
        """Advance."""
