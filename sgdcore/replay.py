"""replay(): one trial step by step, the engine next to torch.optim.SGD, with every number of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdcore.batches import Order, blocks, steps_per_epoch
from sgdcore.engine import Dtype, make_problem, train
from sgdcore.errors import InvalidHyperparams
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Resources, Segment
from sgdcore.kernels.dispatch import choose
from sgdcore.parameter_groups import GroupPatterns
from sgdcore.rates import RateTable, check_schedules, with_cycled_momentum
from sgdcore.recording import Recording
from sgdcore.tasks.task import Task
from sgdcore.trajectories import Trajectories

if TYPE_CHECKING:
    from sgdcore.kernels.reference import TorchTrial

_ONE_ORDER = np.zeros(1, dtype=np.intp)


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the engine and of torch; arrays are (P,) in the run's dtype, parameters and buffers after it."""

    step: int  # 1 is the first
    samples: NDArray[np.int32]
    lr: float  # torch's, in the first parameter group
    loss: float  # torch's, of the batch, before the step
    gradients: NDArray[Any]  # torch's, after clipping
    was_clipped: bool
    params: NDArray[Any]
    torch_params: NDArray[Any]
    momentum_buffers: NDArray[Any]
    torch_momentum_buffers: NDArray[Any]

    @property
    def relative_deviation(self) -> float:
        """The deviation as a share of torch's largest finite parameter or buffer."""
        theirs = np.concatenate([self.torch_params, self.torch_momentum_buffers]).astype(np.float64)
        size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
        return self.deviation / size if size else self.deviation

    @property
    def deviation(self) -> float:
        """The largest difference over parameters and buffers: 0 if neither is finite, infinite if only one is."""
        ours = np.concatenate([self.params, self.momentum_buffers]).astype(np.float64)
        theirs = np.concatenate([self.torch_params, self.torch_momentum_buffers]).astype(np.float64)
        finite = np.isfinite(ours) & np.isfinite(theirs)
        in_one = np.isfinite(ours) != np.isfinite(theirs)
        away = np.abs(np.subtract(ours, theirs, out=np.zeros_like(ours), where=finite))
        return float(np.max(np.where(in_one, np.inf, away)))


def replay(
    task: Task,
    hyperparams: Hyperparams,
    *,
    epochs: int,
    batch_size: int = 1,
    order: Order = "sequential",
    dtype: Dtype = "float32",
    seed: int = 0,
    start: ArrayLike | None = None,
    groups: GroupPatterns | None = None,
) -> Iterator[Step]:
    """Yield the steps of one trial (arguments as in :func:`sgdcore.train`), up to the first non-finite one.

    Raises:
        InvalidHyperparams: not exactly one trial.
    """
    if len(hyperparams) != 1:
        raise InvalidHyperparams(f"replay takes one trial, not {len(hyperparams)}")
    from sgdcore.kernels.reference import TorchTrial

    per_epoch = steps_per_epoch(task.samples, batch_size)
    check_schedules(hyperparams, per_epoch, epochs * per_epoch, continued=False)
    plain = hyperparams.replace(schedules=(None,), schedule_of=np.zeros(1, dtype=np.intp))
    initial = train(task, plain, epochs=0, dtype=dtype, seeds=seed, start=start, groups=groups, record=Recording(0))
    other = TorchTrial(
        task,
        initial.params[0],
        None,
        hyperparams,
        group_of=initial.group_of,
        steps_per_epoch=per_epoch,
        last=epochs * per_epoch,
    )
    return _steps(task, hyperparams, (epochs, batch_size, order, dtype, seed), initial, other)


def _steps(
    task: Task,
    hyperparams: Hyperparams,
    run: tuple[int, int, Order, Dtype, int],
    initial: Trajectories,
    other: TorchTrial,
) -> Iterator[Step]:
    import torch

    epochs, batch_size, order, dtype, seed = run
    problem = make_problem(task, dtype, initial.group_of)
    features, targets = torch.from_numpy(problem.features), torch.from_numpy(problem.targets)
    chosen = choose(task, device="cpu")
    per_epoch = steps_per_epoch(task.samples, batch_size)
    state, hyperparams = initial.state, with_cycled_momentum(hyperparams)
    table = RateTable(hyperparams, per_epoch, 0, epochs * per_epoch) if hyperparams.is_scheduled else None
    rates = None
    for block, indices in blocks(order, task.samples, [seed], range(epochs)):
        for step in range(block.start * per_epoch, block.stop * per_epoch):
            row = indices[0, (step // per_epoch - block.start) % indices.shape[1]]
            samples = row[step % per_epoch * batch_size :][:batch_size]
            batch = torch.from_numpy(samples.astype(np.int64))
            lr = other.rate()
            loss = other.step(features[batch], targets[batch])
            if table is not None and step % table.steps_per_row == 0:
                rates = table.until(step, step + 1)
            segment = Segment(step + 1, indices, _ONE_ORDER, block.start, batch_size, slice(0, 0), rates)
            chosen.advance(problem, hyperparams, state, segment, initial.curves, Resources())
            state = replace(state, step=step + 1)
            every = [hyperparams, *hyperparams.groups.values()]
            has_momentum = np.array([group.momentum[0] != 0 for group in every])[problem.group_of]
            buffers = np.where(has_momentum, state.momentum_buffers[0], 0).astype(dtype)
            yield Step(
                step=step + 1,
                samples=samples,
                lr=lr,
                was_clipped=other.was_clipped,
                loss=loss,
                gradients=other.gradients(),
                params=state.params[0].copy(),
                torch_params=other.params(),
                momentum_buffers=buffers.copy(),
                torch_momentum_buffers=other.momentum_buffers(),
            )
            if state.first_nonfinite_step[0] >= 0:
                return
