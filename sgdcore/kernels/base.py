"""The kernel protocol and the values that a kernel receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sgdcore.hyperparams import Hyperparams
from sgdcore.rates import Rates
from sgdcore.tasks.task import Quadratic, Task
from sgdcore.trajectories import Curves, State

OnSteps: TypeAlias = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Problem:
    """A task as arrays in the run's dtype, and if its losses are quadratic, as quadratic forms in float64."""

    task: Task
    features: NDArray[Any]  # (n, k)
    targets: NDArray[Any]  # (n,) or (n, K); with sample weights a column more, which holds them (tasks.task.goals)
    bias: bool
    held_out: tuple[NDArray[Any], NDArray[Any]] | None  # features and targets of the validation set
    training: Quadratic | None  # the loss over the training set
    validation: Quadratic | None
    group_of: NDArray[np.intp]  # (P,) each parameter's group: 0 is the default one, then those of the hyperparameters


@dataclass(frozen=True, eq=False)
class Segment:
    """A range of steps: the samples that they see and the steps that are recorded.

    Step t belongs to epoch e = t // steps_per_epoch. In it, a trial with order s reads
    ``samples[s, (e - first_epoch) % rows]``.
    """

    stop: int  # the segment ends after this many steps, counted from the run's start
    samples: NDArray[np.int32]  # (orders, rows, n); a single order for kernels that take one at a time
    order: NDArray[np.intp]  # (T,) each trial's order
    first_epoch: int
    batch_size: int
    recorded: slice  # the curves' steps that lie in this segment
    rates: Rates | None = None  # of the segment's steps, if lr is scheduled
    run_steps: int = 0  # the steps of the whole run, from its start


@dataclass(frozen=True)
class Resources:
    """The resources of a kernel. Results do not depend on ``threads``, except for rounding in the torch kernel."""

    device: str = "cpu"  # or cuda:N
    threads: int = 1  # CPU threads
    compile: bool = False  # torch kernel only: compile its steps with torch.compile
    on_steps: OnSteps | None = None  # called by slow kernels with steps done since the last call, summed over trials


def columns(hyperparams: Hyperparams, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return (5, T) -lr, momentum, weight_decay, 1 - dampening, nesterov: computed in double, then cast as in torch.

    They are those of the default group; see :func:`group_columns`.
    """
    result = np.empty((5, len(hyperparams)), dtype)
    np.negative(hyperparams.lr, out=result[0], casting="unsafe")
    result[1], result[2] = hyperparams.momentum, hyperparams.weight_decay
    np.subtract(1, hyperparams.dampening, out=result[3], casting="unsafe")
    result[4] = hyperparams.nesterov
    return result


def group_columns(hyperparams: Hyperparams, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the (G, 5, T) columns of every parameter group, the default one first."""
    return np.array([columns(group, dtype) for group in (hyperparams, *hyperparams.groups.values())])


def penalty_weights(hyperparams: Hyperparams) -> NDArray[np.float64] | None:
    """Return (G, T) weights of a group's squares in the curve squared_norm; None without groups, where all are 1."""
    if not hyperparams.groups:
        return None
    return np.array([group.weight_decay for group in (hyperparams, *hyperparams.groups.values())])


class Kernel(Protocol):
    """A function that steps all trials of ``state`` to ``segment.stop``, in place, and fills the segment's curves.

    The curves are uninitialised: the kernel writes NaN from the step at which a trial stopped.
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
        """Advance the trials."""
