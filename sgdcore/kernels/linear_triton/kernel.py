"""The CUDA kernel for models linear in their parameters: Triton steps trials in registers for whole launches.

A block of trials is one Triton program, with one or two trials per thread. The state of a trial - parameters, momentum
buffers, peaks, the steps that reached them - stays in registers from the first to the last step of a launch; that of a
model of more than REGISTER_PARAMETERS stays in memory, where only the trial's thread uses it. Samples are the same for
a whole block, so one cached load serves all its trials. Blocks do not wait for each other, and a block's trials share
one sample order, so that any mix of orders runs in one launch.

A launch returns the parameters at the recorded steps; their losses are computed afterwards, in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Resources, Segment, group_columns, penalty_weights
from sgdcore.kernels.linear_triton import program, wide_program
from sgdcore.kernels.linear_triton.program import OPTIONS
from sgdcore.rates import Rates
from sgdcore.tasks.task import Quadratic
from sgdcore.trajectories import NEVER, Curves, State

THREADS = 32 * OPTIONS["num_warps"]  # per block
REGISTER_PARAMETERS = 16  # up to so many, a trial's state stays in a thread's registers; beyond, in cached memory
PAIRED_BYTES = 32  # parameter bytes of a trial up to which a thread steps two trials: 8 in float32, 4 in float64
LAUNCH_STEPS = 1 << 20  # steps per launch: at most about a second, for the driver's watchdog and Ctrl-C
LAUNCH_NUMBERS = 1 << 27  # recorded numbers that one launch can keep on the device


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step all trials on the GPU; CPU threads are not used."""
    assert problem.training is not None
    if not len(hyperparams):
        return
    with (
        _on(resources.device),
        np.errstate(over="ignore", invalid="ignore"),
    ):  # diverging trials, interpreted
        block = block_of(state.params.shape[1], state.params.dtype.itemsize)
        slots, orders = _slots(segment.order, block)
        groups = list(dict.fromkeys((int(problem.group_of[0]), int(problem.group_of[-1]))))  # of features and bias
        schedule = _Schedule.of(segment.rates, groups, slots, state.params.dtype, resources.device)
        run = _Run(problem, hyperparams, segment, schedule, orders, len(groups), resources.device)
        pack = _Pack.of(hyperparams, groups, state, slots, resources.device)
        for start, stop, points in _launches(state, segment, curves, len(slots)):
            cuts = np.append(curves.steps[points], stop) - start
            path = run.launch(pack, start, cuts)
            _record(problem, hyperparams, curves, points, path[: len(cuts) - 1, :, pack.slot_of].permute(2, 0, 1))
        pack.put(state)


def block_of(parameters: int, itemsize: int) -> int:
    """Return the number of trials in a block."""
    return THREADS * (2 if parameters * itemsize <= PAIRED_BYTES else 1)


def _on(device: str) -> AbstractContextManager[Any]:
    return nullcontext() if device == "cpu" else torch.cuda.device(device)


def _slots(order: NDArray[np.intp], block: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Assign trials to blocks of one order: return the (S,) trial in each slot, -1 for none, and each block's order."""
    slots, orders = [], []
    for number in np.unique(order):
        trials = np.flatnonzero(order == number)
        padding = np.full(-len(trials) % block, -1)
        slots += [trials, padding]
        orders += [number] * ((len(trials) + len(padding)) // block)
    return np.concatenate(slots), np.array(orders, dtype=np.int64)


def _launches(state: State, segment: Segment, curves: Curves, slots: int) -> Iterator[tuple[int, int, slice]]:
    """Yield the launches of the segment: first step, last step, and the recorded points between them."""
    most = max(1, LAUNCH_NUMBERS // (slots * state.params.shape[1]))
    steps, low, stop = curves.steps[: segment.recorded.stop], segment.recorded.start, state.step
    while stop < segment.stop or low < len(steps):
        start, stop = stop, min(segment.stop, stop + LAUNCH_STEPS)
        high = int(np.searchsorted(steps, stop, side="right"))
        if high > low + most:
            high, stop = low + most, int(steps[low + most - 1])
        yield start, stop, slice(low, high)
        low = high


@dataclass(frozen=True, eq=False)
class _Pack:
    """The trials' state on the device, one column per slot; P is the number of parameters."""

    table: torch.Tensor  # (4 P + 5 G + 2, S): parameters, buffers, peaks times directions, directions, columns, limits
    dates: torch.Tensor  # (P + 2, S): the steps that reached the peaks; the first non-finite step; the clipped steps
    slot_of: torch.Tensor  # (T,): each trial's slot

    @classmethod
    def of(
        cls, hyperparams: Hyperparams, groups: list[int], state: State, slots: NDArray[np.intp], device: str
    ) -> _Pack:
        """Upload the state. An empty slot holds zeros and does not run."""
        parts = (state.params, state.momentum_buffers, state.peak * state.direction, state.direction)
        dtype = state.params.dtype
        own = group_columns(hyperparams, dtype)[groups]
        limits = np.array([hyperparams.clip_grad_norm, hyperparams.clip_grad_value]).astype(dtype)
        table = np.vstack([*(part.T for part in parts), *own, limits])
        dates = np.vstack([state.peak_step.T, state.first_nonfinite_step, state.clipped_steps])
        table, dates = table[:, slots], dates[:, slots]
        table[:, slots < 0], dates[:, slots < 0] = 0, 0
        filled = np.flatnonzero(slots >= 0)
        slot_of = np.empty_like(filled)
        slot_of[slots[filled]] = filled
        return cls(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in (table, dates, slot_of)))

    def put(self, state: State) -> None:
        """Write back the arrays that steps change."""
        parameters = state.params.shape[1]
        table = self.table[: 3 * parameters, self.slot_of].cpu().numpy()
        dates = self.dates[:, self.slot_of].cpu().numpy()
        state.params[:], state.momentum_buffers[:], reached = (part.T for part in np.split(table, 3))
        np.multiply(reached, state.direction, out=state.peak, where=state.direction != 0)
        state.peak_step[:], state.first_nonfinite_step[:] = dates[:parameters].T, dates[parameters]
        state.clipped_steps[:] = dates[parameters + 1]


@dataclass(frozen=True, eq=False)
class _Schedule:
    """The scheduled rates of a segment on the device, as program.advance expects them."""

    kind: int  # 0: none, 1: lr, 2: lr and momentum
    table: torch.Tensor  # (rows + 1, kind G, U), the last row twice
    columns: torch.Tensor  # (S,): each slot's column
    first_row: int = 0
    steps_per_row: int = 1

    @classmethod
    def of(
        cls, rates: Rates | None, groups: list[int], slots: NDArray[np.intp], dtype: np.dtype[Any], device: str
    ) -> _Schedule:
        """Upload the rates; an empty slot has any column."""
        if rates is None or not len(rates.lr):
            table, columns = np.zeros((1, 1, 1), dtype), np.zeros(1, np.int64)
            return cls(0, torch.from_numpy(table).to(device), torch.from_numpy(columns).to(device))
        parts = [-rates.lr[:, groups]] if rates.momentum is None else [-rates.lr[:, groups], rates.momentum[:, groups]]
        table = np.concatenate(parts, axis=1).astype(dtype)
        table = np.concatenate([table, table[-1:]])
        columns = rates.which.astype(np.int64)[slots]
        uploaded, of_slots = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (table, columns))
        return cls(len(parts), uploaded, of_slots, rates.first_row, rates.steps_per_row)

    def at(self, step: int) -> tuple[torch.Tensor, int]:
        """Return the rows from a step on, and how many steps the first of them lasts."""
        row, done = divmod(step, self.steps_per_row)
        return self.table[row - self.first_row :], self.steps_per_row - done


class _Run:
    """A problem and a segment's samples on the device, with a method that steps a pack."""

    def __init__(
        self,
        problem: Problem,
        hyperparams: Hyperparams,
        segment: Segment,
        schedule: _Schedule,
        orders: NDArray[np.int64],
        groups: int,
        device: str,
    ) -> None:
        """Upload the problem; ``orders`` holds each block's order."""
        self.schedule, self.groups = schedule, groups
        self.clips_norm = bool(np.isfinite(hyperparams.clip_grad_norm).any())
        self.clips_value = bool(np.isfinite(hyperparams.clip_grad_value).any())
        self.samples, self.features = problem.features.shape
        self.bias = problem.bias
        self.batch_size = min(segment.batch_size, self.samples)
        self.first_epoch, self.entries = segment.first_epoch, segment.samples[0].size
        inputs = np.column_stack([problem.features, problem.targets])
        scales = (2.0 / np.arange(1, self.batch_size + 1)).astype(inputs.dtype)
        self.inputs, self.scales, self.order, self.orders = (
            torch.from_numpy(np.array(array)).to(device) for array in (inputs, scales, segment.samples, orders)
        )

    def launch(self, pack: _Pack, start: int, cuts: NDArray[np.int64]) -> torch.Tensor:
        """Step from ``start`` to ``start + cuts[-1]``; return (cuts, P, S) parameters at each cut, NaN after a stop."""
        epoch, batch = divmod(start, -(-self.samples // self.batch_size))
        first = batch * self.batch_size
        blocks, slots = len(self.orders), pack.table.shape[1]
        parameters = len(pack.dates) - 2
        path = pack.table.new_empty(len(cuts), parameters, slots)
        rates, lasting = self.schedule.at(start)
        # The table is passed twice: as one argument, its addresses would occupy registers throughout.
        is_wide = parameters > REGISTER_PARAMETERS
        step, second = (wide_program.advance, self._gradients(slots)) if is_wide else (program.advance, pack.table)
        step[(blocks,)](
            pack.table,
            second,
            pack.dates,
            pack.dates[parameters],
            path,
            self.inputs,
            self.scales,
            self.order,
            self.orders,
            torch.from_numpy(cuts.astype(np.int32)).to(path.device),
            pack.dates[parameters + 1],
            rates,
            self.schedule.columns,
            len(cuts),
            slots,
            self.samples,
            self.entries,
            self.batch_size,
            (epoch - self.first_epoch) * self.samples % self.entries + first,
            first,
            start,
            self.schedule.table.shape[2],
            self.schedule.steps_per_row,
            lasting,
            FEATURES=self.features,
            BIAS=self.bias,
            SINGLE=self.batch_size == 1,
            GROUPS=self.groups,
            SCHEDULED=self.schedule.kind,
            CLIPS_NORM=self.clips_norm,
            CLIPS_VALUE=self.clips_value,
            BLOCK=slots // blocks,
            NEVER=NEVER,
            **OPTIONS,
        )
        return path

    def _gradients(self, slots: int) -> torch.Tensor:
        """Return room for the gradients of the features."""
        return self.inputs.new_empty(self.features, slots)


def _record(problem: Problem, hyperparams: Hyperparams, curves: Curves, points: slice, path: torch.Tensor) -> None:
    """Fill the curves at some points from the (T, points, P) parameters there."""
    if curves.path is not None:
        curves.path[:, points] = path.cpu().numpy()
    exact = [part.double() for part in path.unbind(-1)]
    assert problem.training is not None
    curves.loss[:, points] = _losses(problem.training, exact).cpu().numpy()
    if curves.squared_norm is not None:
        weighted = exact
        if (weights := penalty_weights(hyperparams)) is not None:
            rows = torch.from_numpy(weights[problem.group_of]).to(path.device).unsqueeze(-1)
            weighted = [row * value for row, value in zip(rows, exact, strict=True)]
        terms = (left * right for left, right in zip(weighted, exact, strict=True))
        curves.squared_norm[:, points] = _total(torch.zeros_like(exact[0]), terms).cpu().numpy()
    if curves.validation_loss is not None and problem.validation is not None:
        curves.validation_loss[:, points] = _losses(problem.validation, exact).cpu().numpy()


def _losses(form: Quadratic, params: list[torch.Tensor]) -> torch.Tensor:
    """Compute minimum + |factor p - centre|^2 one operation at a time: no value's bits depend on its neighbours."""
    loss = torch.full_like(params[0], form.minimum)
    for i, (row, centre) in enumerate(zip(form.factor.tolist(), form.centre.tolist(), strict=True)):
        weighted = (weight * value for weight, value in zip(row[i:], params[i:], strict=True))
        reached = _total(torch.full_like(loss, -centre), weighted)
        loss += reached * reached
    return loss


def _total(total: torch.Tensor, terms: Iterable[torch.Tensor]) -> torch.Tensor:
    for term in terms:
        total += term
    return total
