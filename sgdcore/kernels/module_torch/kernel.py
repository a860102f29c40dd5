"""The kernel for any model and loss, on CPU and CUDA: torch.func's gradients of a pack of trials stepped together.

A pack's parameters, buffers and hyperparameters are (T, P) and (T, 1) tensors; sgdcore.rule runs on them unchanged.
torch sums a pack's products in a different order from a single trial's: results equal torch.optim.SGD's up to rounding,
not bit for bit. All packs have one size, chosen from memory, so that one compiled step fits them all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgdcore import rule
from sgdcore.errors import KernelUnavailable
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Resources, Segment
from sgdcore.kernels.module_torch.functional import (
    Network,
    full_losses,
    gradients,
    loss_function,
    network,
    saved_bytes,
    torch_threads,
)
from sgdcore.trajectories import NEVER, Curves, State

PACK_TRIALS = 1024  # more trials do not make a step cheaper per trial
_CPU_BYTES, _GPU_SHARE = 1 << 28, 0.25  # memory limit of a pack
_LOOK = 64  # steps between two checks of whether any trial still runs

Pair = tuple[torch.Tensor, torch.Tensor]
Step = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step all trials, pack by pack."""
    dtype, device = str(problem.features.dtype), resources.device
    width = problem.features.shape[1]
    with network(problem.task.model, width, dtype, device) as net, torch_threads(resources.threads):
        data = _Data(problem, segment, net, device)
        for first in range(0, len(hyperparams), data.pack):
            trials = np.arange(first, min(first + data.pack, len(hyperparams)))
            pack = _Pack(hyperparams[trials], state.take(trials), data, segment.order[trials])
            part = curves.like(len(trials))
            pack.run(segment, part, resources.compile)
            state.put(trials, pack.state())
            curves.put(trials, part, segment.recorded)


class _Data:
    """The data that all packs of a segment share."""

    def __init__(self, problem: Problem, segment: Segment, net: Network, device: str) -> None:
        self.problem, self.net, self.device = problem, net, device
        self.training = _tensors((problem.features, problem.targets), device)
        self.validation = _tensors(problem.held_out, device) if problem.held_out else None
        self.samples = torch.from_numpy(segment.samples.astype(np.int64)).to(device)
        self.own_samples = len(segment.samples) > 1
        self.loss = loss_function(problem.task.loss, problem.task.huber_delta)
        batch = min(segment.batch_size, len(problem.targets))
        room = _room(device)
        # Values of a pack: parameters, buffers, gradients and temporaries of the rule; and a step's activations,
        # forward and backward.
        values = 12 * sum(net.sizes) * problem.features.itemsize
        activations = 3 * saved_bytes(net, (self.training[0][:batch], self.training[1][:batch]), self.loss)
        self.pack = int(np.clip(room // max(1, values + activations), 1, PACK_TRIALS))
        self.at_once = int(np.clip(room // max(1, 3 * saved_bytes(net, self.training, self.loss)), 1, self.pack))

    def losses(self, params: torch.Tensor) -> NDArray[np.float64]:
        """Return (T,) training losses for (T, P) parameters."""
        form = self.problem.training
        return form.value(_numpy(params.double())) if form else self._full(params, self.training)

    def validation_losses(self, params: torch.Tensor) -> NDArray[np.float64]:
        """Return (T,) validation losses for (T, P) parameters."""
        assert self.validation is not None
        form = self.problem.validation
        return form.value(_numpy(params.double())) if form else self._full(params, self.validation)

    def _full(self, params: torch.Tensor, samples: Pair) -> NDArray[np.float64]:
        return _numpy(full_losses(self.net, self.loss, params, samples, self.at_once))


class _Pack:
    """A set of trials that are stepped together."""

    def __init__(self, hyperparams: Hyperparams, state: State, data: _Data, order: NDArray[np.intp]) -> None:
        self.data, self.before = data, state
        dtype, device = state.params.dtype, data.device
        self.params, self.buffers, self.direction, self.peak, self.peak_step, self.stopped = (
            torch.from_numpy(a).to(device)
            for a in (
                state.params,
                state.momentum_buffers,
                state.direction,
                state.peak,
                state.peak_step,
                state.first_nonfinite_step,
            )
        )
        self.order = torch.from_numpy(order).to(device)
        self.columns = tuple(
            torch.from_numpy(np.ascontiguousarray(column)[:, np.newaxis]).to(device)
            for column in (
                (-hyperparams.lr).astype(dtype),
                hyperparams.momentum.astype(dtype),
                hyperparams.weight_decay.astype(dtype),
                (1 - hyperparams.dampening).astype(dtype),
                hyperparams.momentum != 0,
                hyperparams.weight_decay != 0,
                hyperparams.nesterov,
            )
        )
        self.watched = bool(state.direction.any())

    def run(self, segment: Segment, curves: Curves, compiled: bool) -> None:
        """Run to the segment's end and record along the way."""
        data = self.data
        n, start = len(data.problem.targets), self.before.step
        per_epoch = -(-n // segment.batch_size)
        points = dict(
            zip(curves.steps[segment.recorded].tolist(), range(*segment.recorded.indices(1 << 62)), strict=True)
        )
        key = (data.net, data.loss, data.own_samples)
        first_step, step = _step(*key, True, False), _step(*key, False, compiled)
        curves.blank(segment.recorded)
        if start in points:
            self.record(points[start], curves)
        for t in range(start, segment.stop):
            if t % _LOOK == 0 and not bool((self.stopped == NEVER).any()):
                break
            row = (t // per_epoch - segment.first_epoch) % data.samples.shape[1]
            place = t % per_epoch * segment.batch_size
            batch = data.samples[:, row, place : place + segment.batch_size]
            batch = batch[self.order] if data.own_samples else batch[0]
            self.step(t, step if t else first_step, data.training[0][batch], data.training[1][batch])
            if t + 1 in points:
                self.record(points[t + 1], curves)

    def step(self, t: int, step: Step, features: torch.Tensor, targets: torch.Tensor) -> None:
        """Take step t for the running trials; the others stay where they stopped."""
        running = self.stopped == NEVER
        self.params, self.buffers, finite = step(self.params, self.buffers, running, self.columns, features, targets)
        self.stopped = torch.where(running & ~finite, t + 1, self.stopped)
        if self.watched:
            running = running & finite
            farther = running[:, None] & (self.params * self.direction > self.peak * self.direction)
            self.peak = torch.where(farther, self.params, self.peak)
            self.peak_step = torch.where(farther, t + 1, self.peak_step)

    def record(self, point: int, curves: Curves) -> None:
        """Fill one point of the curves for the running trials."""
        running = _numpy(self.stopped == NEVER)
        with np.errstate(over="ignore", invalid="ignore"):  # from diverging trials
            curves.loss[running, point] = self.data.losses(self.params)[running]
            if curves.squared_norm is not None:
                curves.squared_norm[running, point] = _numpy(self.params.double().square().sum(1))[running]
            if curves.validation_loss is not None:
                curves.validation_loss[running, point] = self.data.validation_losses(self.params)[running]
        if curves.path is not None:
            curves.path[running, point] = _numpy(self.params)[running]

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
        )


_update = rule.bind(
    fma=lambda a, b, c: torch.addcmul(c, a, b),
    select=lambda condition, yes, no: (
        (yes if condition else no) if isinstance(condition, bool) else torch.where(condition, yes, no)
    ),
)


@lru_cache(maxsize=32)
def _step(net: Network, loss: Any, own_samples: bool, is_first: bool, compiled: bool) -> Step:
    """Return the function that takes one step of a pack; a compiled one is recompiled for every new shape."""
    gradient = gradients(net, loss, own_samples)

    def step(
        params: torch.Tensor, buffers: torch.Tensor, running: torch.Tensor, columns: Any, features: Any, targets: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        change = net.join(gradient(net.split(params), features, targets))
        new, momentum = _update(params, change, buffers, is_first, *columns)
        finite = torch.isfinite(new).all(dim=1)
        moves = running[:, None]
        return torch.where(moves, new, params), torch.where(moves, momentum, buffers), finite

    if not compiled:
        return torch.no_grad()(step)  # type: ignore[no-untyped-call, no-any-return, unused-ignore]
    return _compiled(step)


def _compiled(step: Step) -> Step:
    made: Step = torch.compile(step, dynamic=False)

    def run(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        try:
            with torch.no_grad():
                return made(*arguments)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise KernelUnavailable(f"torch.compile failed: {reason}; set compile: false to run without it") from error

    return run


def _room(device: str) -> float:
    """Return the bytes that a pack can use: fixed on the CPU, so that packs are the same on every machine."""
    return _GPU_SHARE * torch.cuda.mem_get_info(device)[1] if device != "cpu" else _CPU_BYTES


def _tensors(arrays: tuple[NDArray[Any], NDArray[Any]], device: str) -> Pair:
    features, targets = (torch.from_numpy(array).to(device) for array in arrays)
    return features, targets


def _numpy(tensor: torch.Tensor) -> NDArray[Any]:
    values: NDArray[Any] = tensor.cpu().numpy()
    return values
