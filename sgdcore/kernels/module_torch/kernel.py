"""The kernel for any model and loss, on CPU and CUDA: the gradients of a pack of trials that are stepped together.

A pack's parameters and buffers are (T, P) tensors, its hyperparameters Columns; sgdcore.rule runs on them unchanged.
On the CPU, a module of known operations runs as a Program, which batches products over the trials; torch.func computes
the gradients of any other. torch sums a pack's products in a different order from a single trial's: results equal
torch.optim.SGD's up to rounding, not bit for bit. Packs have the same size on every CPU.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Event
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Resources, Segment
from sgdcore.kernels.module_torch.batched import Programs, batched
from sgdcore.kernels.module_torch.columns import Columns
from sgdcore.kernels.module_torch.functional import (
    Network,
    evaluating,
    is_by_sample,
    loss_function,
    network,
    saved_bytes,
    summed_losses,
    tensors,
    torch_threads,
)
from sgdcore.kernels.module_torch.steps import Step, functional_step, program_step
from sgdcore.tasks.task import Quadratic
from sgdcore.trajectories import NEVER, Curves, State

PACK_TRIALS = 1024  # on a GPU, more trials do not make a step cheaper per trial
CPU_TRIALS = 64  # on the CPU, neither do more than these
CPU_BYTES, _GPU_SHARE = 1 << 23, 0.25  # memory limit of a pack: about a core's caches, a share of the GPU's memory
RULE_VALUES = 6  # per parameter of a pack: parameters, buffers, gradients and temporaries
_BLOCK_BYTES = 1 << 21  # memory limit of an evaluation on the CPU
_TRIED = 32  # samples
_LOOK = 64  # steps between two checks of whether any trial still runs

Pair = tuple[torch.Tensor, torch.Tensor]


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step all trials, pack by pack; on the CPU, each thread has a pack."""
    if not len(hyperparams):
        return
    data = _Data(problem, segment, resources.device)
    with _network(problem, resources.device) as net:
        size, block = _sizes(net, data, segment.batch_size, hyperparams)
    firsts = range(0, len(hyperparams), size)
    threads = min(resources.threads, len(firsts)) if resources.device == "cpu" else 1
    stop = Event()

    def run(first: int) -> None:
        trials = np.arange(first, min(first + size, len(hyperparams)))
        with _network(problem, resources.device) as net, torch_threads(max(1, resources.threads // threads)):
            columns = Columns(
                hyperparams,
                problem.group_of,
                segment.rates,
                trials,
                state.params.dtype,
                resources.device,
                flags=not resources.compile,
            )
            pack = _Pack(columns, state.take(trials), data, net, block, segment.order[trials])
            part = curves.like(len(trials))
            pack.run(segment, part, resources, stop)
        state.put(trials, pack.state())
        curves.put(trials, part, segment.recorded)

    if threads == 1:
        for first in firsts:
            run(first)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            deque(pool.map(run, firsts), maxlen=0)
        except BaseException:  # an error in a pack, or Ctrl-C: the other packs are not wanted any more
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _network(problem: Problem, device: str) -> AbstractContextManager[Network]:
    return network(problem.task.model, problem.features.shape[1], str(problem.features.dtype), device)


def _sizes(net: Network, data: _Data, batch_size: int, hyperparams: Hyperparams) -> tuple[int, int]:
    """Return the trials of a pack and the samples of an evaluation that fit in memory, on the CPU in the caches."""
    on_cpu = data.device == "cpu"
    room = CPU_BYTES if on_cpu else _GPU_SHARE * torch.cuda.mem_get_info(data.device)[1]
    batch = min(batch_size, len(data.training[1]))
    saved = saved_bytes(net, (data.training[0][:batch], data.training[1][:batch]), data.loss)
    # The rule's values, hyperparameters that differ from parameter to parameter, and a step's activations, forward and
    # backward.
    values = RULE_VALUES + (5 if hyperparams.groups else 0)
    each = values * sum(net.sizes) * data.training[0].element_size() + 3 * saved
    most = int(np.clip(room // max(1, each), 1, CPU_TRIALS if on_cpu else PACK_TRIALS))
    trials = len(hyperparams)
    size = -(-trials // -(-trials // most))  # packs of about one size, so that few shapes are recorded
    block = int((_BLOCK_BYTES if on_cpu else room) // max(1, size * saved // batch))
    return size, max(1, block) if is_by_sample(net, data.training[0][:_TRIED]) else len(data.training[1])


class _Data:
    """The data that all packs of a segment share."""

    def __init__(self, problem: Problem, segment: Segment, device: str) -> None:
        self.problem, self.device = problem, device
        self.training = tensors((problem.features, problem.targets), device)
        self.validation = tensors(problem.held_out, device) if problem.held_out else None
        self.samples = torch.from_numpy(segment.samples.astype(np.int64)).to(device)
        self.own_samples = len(segment.samples) > 1
        self.loss = loss_function(problem.task.criterion)


class _Pack:
    """A set of trials that are stepped together."""

    def __init__(
        self, columns: Columns, state: State, data: _Data, net: Network, block: int, order: NDArray[np.intp]
    ) -> None:
        self.columns, self.data, self.net, self.block, self.before = columns, data, net, block, state
        self.params, self.buffers, self.direction, self.peak, self.peak_step, self.stopped, self.clipped_steps = (
            torch.from_numpy(a).to(data.device)
            for a in (
                state.params,
                state.momentum_buffers,
                state.direction,
                state.peak,
                state.peak_step,
                state.first_nonfinite_step,
                state.clipped_steps,
            )
        )
        self.order = torch.from_numpy(order).to(data.device)
        self.watched = bool(state.direction.any())
        self.all_run = data.device == "cpu" and bool((self.stopped == NEVER).all())

    def run(self, segment: Segment, curves: Curves, resources: Resources, stop: Event) -> None:
        """Run to the segment's end, or until ``stop`` is set, and record along the way."""
        data = self.data
        n, start = len(data.problem.targets), self.before.step
        per_epoch = -(-n // segment.batch_size)
        points = dict(
            zip(curves.steps[segment.recorded].tolist(), range(*segment.recorded.indices(1 << 62)), strict=True)
        )
        known = self.net.once(batched) if data.device == "cpu" and not resources.compile else None
        self.programs = None if known is None else Programs(known, self.params, data.problem.task.criterion)
        first_step, step = (
            self.net.once(functional_step, data.loss, data.own_samples, is_first, resources.compile and not is_first)
            if self.programs is None
            else program_step(self.programs, is_first)
            for is_first in (True, False)
        )
        curves.blank(segment.recorded)
        if start in points:
            self.record(points[start], curves)
        for t in range(start, segment.stop):
            if stop.is_set() or (t % _LOOK == 0 and not bool((self.stopped == NEVER).any())):
                break
            row = (t // per_epoch - segment.first_epoch) % data.samples.shape[1]
            place = t % per_epoch * segment.batch_size
            batch = data.samples[:, row, place : place + segment.batch_size]
            batch = batch[self.order] if data.own_samples else batch[0]
            self.step(t, step if t else first_step, data.training[0][batch], data.training[1][batch])
            if resources.on_steps is not None:
                resources.on_steps(len(self.params))
            if t + 1 in points:
                self.record(points[t + 1], curves)

    def step(self, t: int, step: Step, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Take step t for the running trials; the others stay where they stopped."""
        running = None if self.all_run else self.stopped == NEVER
        hyperparams = self.columns.at(t), self.columns.limits
        params, self.buffers, clipped = step(self.params, self.buffers, running, *hyperparams, features, targets)
        if params is not self.params:
            self.params.copy_(params)  # where programs read them
        if clipped is not None:
            self.clipped_steps = self.clipped_steps + (clipped if running is None else running & clipped)
        if running is not None or not bool(self.params.sum(1).isfinite().all()):
            finite = (self.params - self.params).sum(1) == 0  # torch.isfinite takes ten times as long
            self.stopped = torch.where((self.stopped == NEVER) & ~finite, t + 1, self.stopped)
            self.all_run = self.all_run and bool(finite.all())
        if self.watched:
            farther = (self.stopped == NEVER)[:, None] & (self.params * self.direction > self.peak * self.direction)
            self.peak = torch.where(farther, self.params, self.peak)
            self.peak_step = torch.where(farther, t + 1, self.peak_step)

    def record(self, point: int, curves: Curves) -> None:
        """Fill one point of the curves for the running trials."""
        running = _numpy(self.stopped == NEVER)
        with np.errstate(over="ignore", invalid="ignore"):  # from diverging trials
            form, data = self.data.problem.training, self.data
            curves.loss[running, point] = self.losses(form, data.training)[running]
            if curves.squared_norm is not None:
                curves.squared_norm[running, point] = _numpy(self.columns.squared_norm(self.params))[running]
            if curves.validation_loss is not None and data.validation is not None:
                form = data.problem.validation
                curves.validation_loss[running, point] = self.losses(form, data.validation)[running]
        if curves.path is not None:
            curves.path[running, point] = _numpy(self.params)[running]

    def losses(self, form: Quadratic | None, samples: Pair) -> NDArray[np.float64]:
        """Return the (T,) mean losses over a whole set, summed in float64 block by block."""
        if form:
            return form.value(_numpy(self.params.double()))
        features, targets = samples
        summed = self.net.once(summed_losses, self.data.loss) if self.programs is None else self.programs.summed_losses
        with evaluating(self.net.module):
            blocks = zip(torch.split(features, self.block), torch.split(targets, self.block), strict=True)
            return _numpy(sum((summed(self.params, *block) for block in blocks), torch.zeros(()))) / len(targets)

    def state(self) -> State:
        """Return the state of the trials."""
        before = self.before
        return State(
            before.step,
            params=_numpy(self.params),
            momentum_buffers=_numpy(self.buffers),
            first_nonfinite_step=_numpy(self.stopped),
            start=before.start,
            target=before.target,
            direction=before.direction,
            peak=_numpy(self.peak),
            peak_step=_numpy(self.peak_step),
            clipped_steps=_numpy(self.clipped_steps),
        )


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    values: NDArray[Any] = tensor.cpu().numpy()
    return values
