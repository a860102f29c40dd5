"""The CUDA kernel for models linear in their parameters: trials stepped in registers for whole launches, by Triton.

A block of trials is one Triton program, one or two trials a thread. What a trial is made of - parameters, momentum
buffers, peaks, the steps that reached them - stays in registers from a launch's first step to its last; samples are
the same for a whole block, hence one cached load for all. Blocks do not wait for each other, and a block's trials see
the samples in one order, so that any mix of orders runs side by side in one launch.

The arithmetic is linear_numba's, operation for operation: sgdcore.rule compiled as it stands, sums from left to
right, nothing contracted. Recorded steps leave the launch as parameters; losses are taken of these in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from sgdcore import rule
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Resources, Segment
from sgdcore.tasks.task import Quadratic
from sgdcore.trajectories import NEVER, Curves, State

THREADS = 32  # of a block: one warp, since blocks share nothing; small packs then spread over all multiprocessors
PAIRED = 16  # parameters up to which a thread steps two trials, in float32; half as many in float64
LAUNCH_STEPS = 1 << 20  # steps of one launch: about a second at most, which the driver's watchdog and Ctrl-C allow
LAUNCH_NUMBERS = 1 << 27  # recorded numbers that one launch may leave on the device
COLUMNS = 5  # rows of the table that hold hyperparameters: -lr, momentum, weight_decay, 1 - dampening, nesterov


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step all trials on the GPU; threads of the CPU are not used."""
    assert problem.training is not None
    if not len(hyperparams):
        return
    with _on(resources.device):
        block = block_of(state.params.shape[1], state.params.dtype.itemsize)
        slots, orders = _slots(segment.order, block)
        run = _Run(problem, segment, torch.from_numpy(orders), block, resources.device)
        pack = _Pack.of(hyperparams, state, slots, resources.device)
        for start, stop, points in _launches(state, segment, curves, len(slots)):
            cuts = np.append(curves.steps[points], stop) - start
            path = run.launch(pack, start, cuts)
            _record(problem, curves, points, path[: len(cuts) - 1, :, pack.slot_of].permute(2, 0, 1))
        pack.put(state)


def block_of(parameters: int, itemsize: int) -> int:
    """Trials in a block."""
    return THREADS * (2 if parameters * itemsize <= 4 * PAIRED else 1)


def _on(device: str) -> AbstractContextManager[Any]:
    return nullcontext() if device == "cpu" else torch.cuda.device(device)


def _slots(order: NDArray[np.intp], block: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Trials laid out in blocks of one order each: (S,) the trial in each slot, -1 for none; each block's order."""
    slots, orders = [], []
    for number in np.unique(order):
        trials = np.flatnonzero(order == number)
        padding = np.full(-len(trials) % block, -1)
        slots += [trials, padding]
        orders += [number] * ((len(trials) + len(padding)) // block)
    return np.concatenate(slots), np.array(orders, dtype=np.int64)


def _launches(state: State, segment: Segment, curves: Curves, slots: int) -> Iterator[tuple[int, int, slice]]:
    """Cut the segment into launches: (first step, last step, the recorded points between them)."""
    numbers = slots * max(state.params.shape[1], 4)
    most = max(1, LAUNCH_NUMBERS // numbers)
    start, low = state.step, segment.recorded.start
    while True:
        stop = min(segment.stop, start + LAUNCH_STEPS)
        within = np.searchsorted(curves.steps[: segment.recorded.stop], stop, side="right")
        high = min(int(within), low + most)
        if high < within:
            stop = int(curves.steps[high - 1])
        yield start, stop, slice(low, high)
        start, low = stop, high
        if stop == segment.stop and high == segment.recorded.stop:
            return


@dataclass(frozen=True, eq=False)
class _Pack:
    """The trials' state on the device, a column a slot; P is the number of parameters."""

    table: torch.Tensor  # (4 P + COLUMNS, S): parameters, momentum buffers, peaks times directions, directions, ...
    dates: torch.Tensor  # (P + 1, S): the steps that reached the peaks; the step that was not finite
    slot_of: torch.Tensor  # (T,): each trial's slot

    @classmethod
    def of(cls, hyperparams: Hyperparams, state: State, slots: NDArray[np.intp], device: str) -> _Pack:
        """Upload. An empty slot holds zeros and does not run."""
        parts = (state.params, state.momentum_buffers, state.peak * state.direction, state.direction)
        table = np.vstack([*(part.T for part in parts), _columns(hyperparams, state.params.dtype)])
        dates = np.vstack([state.peak_step.T, state.first_nonfinite_step])
        table, dates = table[:, slots], dates[:, slots]
        table[:, slots < 0], dates[:, slots < 0] = 0, 0
        filled = np.flatnonzero(slots >= 0)
        slot_of = np.empty_like(filled)
        slot_of[slots[filled]] = filled
        return cls(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in (table, dates, slot_of)))

    def put(self, state: State) -> None:
        """Write back what steps change."""
        parameters = state.params.shape[1]
        table = self.table[: 3 * parameters, self.slot_of].cpu().numpy()
        dates = self.dates[:, self.slot_of].cpu().numpy()
        state.params[:], state.momentum_buffers[:], reached = (part.T for part in np.split(table, 3))
        np.multiply(reached, state.direction, out=state.peak, where=state.direction != 0)
        state.peak_step[:], state.first_nonfinite_step[:] = dates[:parameters].T, dates[parameters]


def _columns(hyperparams: Hyperparams, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(COLUMNS, T) hyperparameters, all computed in double and then cast, as torch does."""
    given = (hyperparams.momentum, hyperparams.weight_decay, 1 - hyperparams.dampening, hyperparams.nesterov)
    return np.array([-hyperparams.lr, *given]).astype(dtype)


class _Run:
    """A problem and a segment's samples on the device, and how to launch steps on them."""

    def __init__(self, problem: Problem, segment: Segment, orders: torch.Tensor, block: int, device: str) -> None:
        self.segment, self.block, self.device = segment, block, device
        self.samples, self.width = problem.features.shape
        self.bias = problem.bias
        inputs = np.column_stack([problem.features, problem.targets])
        scales = (2.0 / np.arange(1, min(segment.batch_size, self.samples) + 1)).astype(inputs.dtype)
        self.orders = orders.to(device)
        self.inputs, self.scales, self.order = (
            torch.from_numpy(np.array(array)).to(device) for array in (inputs, scales, segment.samples)
        )

    def launch(self, pack: _Pack, start: int, cuts: NDArray[np.int64]) -> torch.Tensor:
        """Step from ``start`` to ``start + cuts[-1]``; (cuts, P, S) parameters at all cuts, NaN after a stop."""
        segment, (_, rows, n) = self.segment, self.order.shape
        epoch, batch = divmod(start, -(-n // segment.batch_size))
        first, entries = batch * segment.batch_size, rows * n
        slots = pack.table.shape[1]
        path = pack.table.new_empty(len(cuts), len(pack.dates) - 1, slots)
        _advance[(slots // self.block,)](
            pack.table,
            pack.dates,
            path,
            self.inputs,
            self.scales,
            self.order,
            self.orders,
            torch.from_numpy(cuts.astype(np.int32)).to(self.device),
            len(cuts),
            slots,
            n,
            entries,
            segment.batch_size,
            (epoch - segment.first_epoch) * n % entries + first,
            first,
            start,
            FEATURES=self.width,
            BIAS=self.bias,
            SINGLE=len(self.scales) == 1,
            BLOCK=self.block,
            NEVER=NEVER,
            **OPTIONS,
        )
        return path


def _record(problem: Problem, curves: Curves, points: slice, path: torch.Tensor) -> None:
    """Fill the curves at some points from the (T, points, P) parameters there."""
    if curves.path is not None:
        curves.path[:, points] = path.cpu().numpy()
    exact = [part.double() for part in path.unbind(-1)]
    assert problem.training is not None
    curves.loss[:, points] = _losses(problem.training, exact).cpu().numpy()
    if curves.squared_norm is not None:
        curves.squared_norm[:, points] = sum(value * value for value in exact).cpu().numpy()
    if curves.validation_loss is not None and problem.validation is not None:
        curves.validation_loss[:, points] = _losses(problem.validation, exact).cpu().numpy()


def _losses(form: Quadratic, params: list[torch.Tensor]) -> torch.Tensor:
    """minimum + |factor p - centre|^2, one operation at a time: no value's bits then depend on its neighbours."""
    loss = torch.full_like(params[0], form.minimum)
    for i, (row, centre) in enumerate(zip(form.factor.tolist(), form.centre.tolist(), strict=True)):
        reached = torch.full_like(loss, -centre)
        for weight, value in zip(row[i:], params[i:], strict=True):
            reached += weight * value
        loss += reached * reached
    return loss


# Compiled code. A block's quantity is a vector of its trials; a parameter's quantities are a tuple of such vectors.

OPTIONS = {"num_warps": THREADS // 32, "enable_fp_fusion": False}


@triton.jit
def _fma(a, b, c):  # type: ignore[no-untyped-def]
    return tl.fma(a, b, c)


@triton.jit
def _select(condition, yes, no):  # type: ignore[no-untyped-def]
    return tl.where(condition, yes, no)


# The interpreter looks for tl among a function's globals, the compiler for the types of its annotations.
_update = triton.jit(rule.bind(_fma, _select, tl=tl, bool=tl.int1))


@triton.jit
def _load(first, stride, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """COUNT values, ``stride`` apart."""
    values = ()
    for _ in tl.static_range(COUNT):
        values += (tl.load(first),)
        first += stride
    return values


@triton.jit
def _store(first, stride, values):  # type: ignore[no-untyped-def]
    for j in tl.static_range(len(values)):
        tl.store(first, values[j])
        first += stride


@triton.jit
def _draw(inputs, order, entries, position, number, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Sample ``number``'s features and target, the next position of the order, and the sample number there."""
    position = tl.where(position + 1 == entries, 0, position + 1)
    return _load(inputs + number.to(tl.int64) * COUNT, 1, COUNT), position, tl.load(order + position)


@triton.jit
def _gradients(params, sample, scale, FEATURES: tl.constexpr, BIAS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """What one sample adds to the batch's gradients."""
    prediction = sample[0] * params[0]
    for j in tl.static_range(1, FEATURES):
        prediction += sample[j] * params[j]
    if BIAS:
        prediction += params[FEATURES]
    residual = scale * (prediction - sample[FEATURES])
    gradients = ()
    for j in tl.static_range(FEATURES):
        gradients += (residual * sample[j],)
    if BIAS:
        gradients += (residual,)
    return gradients


@triton.jit
def _sum(left, right):  # type: ignore[no-untyped-def]
    total = ()
    for j in tl.static_range(len(left)):
        total += (left[j] + right[j],)
    return total


@triton.jit
def _step(params, buffers, gradients, is_first, hyperparameters, runs):  # type: ignore[no-untyped-def]
    """One step of the trials that run: parameters, buffers, and who runs after it. The rest stays as it is."""
    stepped, buffered, finite = (), (), runs
    for j in tl.static_range(len(params)):
        param, buffer = _update(params[j], gradients[j], buffers[j], is_first, *hyperparameters)
        stepped += (tl.where(runs, param, params[j]),)
        buffered += (tl.where(runs, buffer, buffers[j]),)
        finite = finite & (tl.abs(param) < float("inf"))
    return stepped, buffered, finite


@triton.jit
def _watch(params, directions, peaks, ticks, runs, clock):  # type: ignore[no-untyped-def]
    """The peaks and their dates after a step that ends at ``clock``."""
    highest, dated = (), ()
    for j in tl.static_range(len(params)):
        reached = params[j] * directions[j]
        farther = runs & (reached > peaks[j])
        highest += (tl.where(farther, reached, peaks[j]),)
        dated += (tl.where(farther, clock, ticks[j]),)
    return highest, dated


@triton.jit(do_not_specialize=["cuts", "slots", "samples", "entries", "batch_size", "position", "first", "start"])
def _advance(  # type: ignore[no-untyped-def]
    table_at,
    dates_at,
    path_at,
    inputs_at,
    scales_at,
    order_at,
    orders_at,
    cuts_at,
    cuts,
    slots,
    samples,
    entries,
    batch_size,
    position,
    first,
    start,
    FEATURES: tl.constexpr,  # noqa: N803
    BIAS: tl.constexpr,  # noqa: N803
    SINGLE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    NEVER: tl.constexpr,  # noqa: N803
):
    """Step one block of trials from ``start`` on, from cut to cut (counted from there), and store the path at each.

    ``position`` is where the first batch begins among the ``entries`` of an order, ``first`` where in its epoch.
    """
    P: tl.constexpr = FEATURES + BIAS  # noqa: N806
    slots = tl.cast(slots, tl.int64)
    start = tl.cast(start, tl.int64)
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    table_at += lanes
    dates_at += lanes
    path_at += lanes
    order_at += tl.load(orders_at + tl.program_id(0)) * entries

    params = _load(table_at, slots, P)
    buffers = _load(table_at + slots * P, slots, P)
    peaks = _load(table_at + slots * (2 * P), slots, P)
    directions = _load(table_at + slots * (3 * P), slots, P)
    negative_lr, momentum, weight_decay, undamped, nesterov = _load(table_at + slots * (4 * P), slots, 5)
    hyperparameters = (
        negative_lr,
        momentum,
        weight_decay,
        undamped,
        momentum != 0,
        weight_decay != 0,
        nesterov != 0,
    )
    dates = _load(dates_at, slots, P + 1)
    runs = dates[P] == NEVER
    ran = tl.zeros((BLOCK,), tl.int32)  # each trial's last step, counted from the first, that left it finite
    ticks = (ran,) * P  # the steps of this launch that reached the peaks, so counted; 0 where these are older
    once = tl.where(start == 0, 0, -1)  # when the clock shows this, it is the run's first step
    clock = 0

    # A sample is loaded one step ahead and its number two, to be there when they are needed.
    WIDTH: tl.constexpr = FEATURES + 1  # noqa: N806
    scale, number = tl.load(scales_at), tl.load(order_at + position)
    sample, position, number = _draw(inputs_at, order_at, entries, position, number, WIDTH)
    for cut in range(cuts):
        for _ in range(clock, tl.load(cuts_at + cut)):
            ahead, position, number = _draw(inputs_at, order_at, entries, position, number, WIDTH)
            if SINGLE:
                gradients = _gradients(params, sample, scale, FEATURES, BIAS)
            else:
                count = tl.minimum(batch_size, samples - first)
                scale = tl.load(scales_at + count - 1)
                gradients = _gradients(params, sample, scale, FEATURES, BIAS)
                for _ in range(1, count):
                    sample = ahead
                    ahead, position, number = _draw(inputs_at, order_at, entries, position, number, WIDTH)
                    gradients = _sum(gradients, _gradients(params, sample, scale, FEATURES, BIAS))
                first = tl.where(first + count == samples, 0, first + count)
            sample = ahead
            params, buffers, runs = _step(params, buffers, gradients, clock == once, hyperparameters, runs)
            clock += 1
            ran = tl.where(runs, clock, ran)
            peaks, ticks = _watch(params, directions, peaks, ticks, runs, clock)
        for j in tl.static_range(P):
            tl.store(path_at, tl.where(runs, params[j], float("nan")))
            path_at += slots

    _store(table_at, slots, params)
    _store(table_at + slots * P, slots, buffers)
    _store(table_at + slots * (2 * P), slots, peaks)
    for j in tl.static_range(P):
        tl.store(dates_at + slots * j, tl.where(ticks[j] > 0, start + ticks[j], dates[j]))
    stops = (dates[P] == NEVER) & (runs == 0)
    tl.store(dates_at + slots * P, tl.where(stops, start + ran + 1, dates[P]))
