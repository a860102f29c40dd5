"""The step functions of the linear CPU kernel: some steps of one tile, compiled for just its kind of trials and model.

A tile is rows of ``lanes`` neighbouring numbers, one a trial, in arrays of rows:

    tile:  parameters, momentum buffers, peaks; P rows each. A peak is the largest value so far, past its target, of the
           parameter with its sign turned so that its target lies above its start
    ticks: by parameter, the step that reached the peak, counted from the chunk's start; 0 where it is older
    fixed: signs (P rows of 0 and -0), -lr, momentum, weight_decay, 1 - dampening; then room for residuals, gradients

Parts of ``width`` lanes are stepped several steps in a row. A model of up to FEW parameters is unrolled and stays in
registers, two parts at once; of a larger one, parameters come from the cache and go back. Whatever decides between ways
of stepping is a constant, hence costs nothing: the flags of the trials in the tile, the form of its batches. New peaks
are rare, so that a step only looks whether there is one, by the signs of what is left to the peaks so far.

Samples: products and sums that are not the rule's own stay apart (numba contracts nothing by itself), in the order in
which torch's Linear and mse_loss round them for batches of one and two. Larger batches: see qr_blocks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cache as cached
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

from sgdcore import rule
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.linear_numba import qr_blocks
from sgdcore.kernels.linear_numba.qr_blocks import EXTRA, residuals, slopes
from sgdcore.kernels.simd import lanes
from sgdcore.kernels.simd.lanes import (
    GROUP,
    REGISTERS,
    aligned_stack,
    any_negative,
    fma,
    intrinsic,
    load,
    merged,
    select,
    splat_like,
    spread,
    store,
    store_where,
    total,
    with_one,
)

FEW = 16  # parameters up to which a step is unrolled
PARTS = 2  # of the lanes that are unrolled together
# Parameters up to which so many vectors of trials are a part: as many as it takes to hide latency, as few as registers
# hold.
VECTORS = ((2, 3), (4, 2), (FEW, 1), (np.inf, 2)) if REGISTERS >= 32 else ((2, 2), (FEW, 1), (np.inf, 2))
BLOCK = 4  # rows or parameters that are taken together, where there are more parameters
COLUMNS = 4  # rows of ``fixed`` that hold hyperparameters
TILE_BYTES = 24_000  # what a tile should take,
ROWS = 8  # times the parameters: rows of a tile and its surroundings
MOST_LANES = 512
FIXED = COLUMNS + 2 * BLOCK  # rows of ``fixed`` besides P for signs and P for residuals and gradients on their way
TRIANGLE, RECTANGLE = 0, 3  # what a batch of more than two samples is
MOMENTUM, DECAY, NESTEROV, DAMPENING = 1, 2, 4, 8  # bits of a kind of trials

# numba's on-disk cache watches one file's date, but a step is compiled from four: their checksum is a constant of the
# compiled function, hence part of its key.
_FILES = [rule.__file__, lanes.__file__, qr_blocks.__file__, __file__]
SOURCE = zlib.crc32(b"".join(Path(file).read_bytes() for file in _FILES))


@dataclass(frozen=True)
class Form:
    """What the steps of a run have in common."""

    dtype: str
    features: int
    bias: bool
    batch: int  # samples in a batch, 1 or 2; of more: 0 for triangles, RECTANGLE for the samples as they are
    rows: int = 0  # of a triangle or rectangle

    @property
    def parameters(self) -> int:
        """P."""
        return self.features + self.bias

    @property
    def constants(self) -> tuple[int, int, int, int, int, int]:
        """What a step function is compiled for: features, P, batch, rows, trials in a tile, trials in a part."""
        return self.features, self.parameters, self.batch, self.rows, self.lanes, self.width

    @property
    def width(self) -> int:
        """Trials in a part."""
        vectors = next(count for most, count in VECTORS if self.parameters <= most)
        return max(1, vectors * 4 // np.dtype(self.dtype).itemsize) * GROUP

    @property
    def together(self) -> int:
        """Trials stepped together."""
        return PARTS * self.width if self.unrolled else self.width

    @property
    def lanes(self) -> int:
        """Trials in a tile."""
        row = (ROWS * self.parameters + FIXED) * np.dtype(self.dtype).itemsize
        fitting = np.clip(TILE_BYTES // row, self.together, MOST_LANES)
        return int(fitting) // self.together * self.together

    @property
    def unrolled(self) -> bool:
        """Whether a step is."""
        return self.parameters <= FEW

    @property
    def block(self) -> int:
        """Rows in a block."""
        return self.rows if self.unrolled else BLOCK

    @property
    def numbers(self) -> int:
        """How many a triangle or rectangle takes."""
        return -(-self.rows // self.block) * self.block * (self.parameters + EXTRA)


def kinds_of(hyperparams: Hyperparams) -> NDArray[np.uint8]:
    """Each trial's kind."""
    momentum, decay = hyperparams.momentum != 0, hyperparams.weight_decay != 0
    dampening = momentum & (hyperparams.dampening != 0)
    kind = MOMENTUM * momentum + DECAY * decay + NESTEROV * hyperparams.nesterov + DAMPENING * dampening
    return np.asarray(kind, np.uint8)


@cached
def compile_steps(form: Form, kind: int, cache: bool = True) -> Any:
    """The step function, as a numba CFunc, of trials of one kind; ``cache`` says whether on disk."""
    number = types.CPointer(numba.from_dtype(np.dtype(form.dtype)))  # type: ignore[no-untyped-call, unused-ignore]
    tick = types.CPointer(types.int32 if form.dtype == "float32" else types.int64)  # type: ignore[no-untyped-call, unused-ignore]
    place = types.CPointer(types.int64)  # type: ignore[no-untyped-call, unused-ignore]
    arguments = (number, number, tick, number, number, number, place, tick, types.intp, types.intp)
    many = _many_by_samples if form.batch in (1, 2) else _many_by_rows
    steps = (_few if form.unrolled else many)(form, kind, SOURCE)
    # numba numbers the functions of a process to name them: among functions from the disk cache, which other processes
    # have named, only the constants tell this one apart.
    steps.__qualname__ = f"steps_{'_'.join(map(str, (*astuple(form), kind)))}"
    compile_function = numba.cfunc(types.intp(*arguments), cache=cache, error_model="numpy")  # type: ignore[no-untyped-call, unused-ignore]
    return compile_function(steps)


@intrinsic
def call_steps(context: Any, address: Any, arrays: Any, numbers: Any) -> Any:
    """Call a step function by its address, with 8 addresses of arrays and 2 numbers."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        word = values[0].type
        function = ir.FunctionType(word, [word] * 10).as_pointer()
        arguments = [builder.extract_value(values[1 + i // 8], i % 8) for i in range(10)]
        builder.call(builder.inttoptr(values[0], function), arguments)
        return context.get_dummy_value()

    return types.none(types.intp, types.UniTuple(types.intp, 8), types.UniTuple(types.intp, 2)), codegen  # type: ignore[no-untyped-call, unused-ignore]


_update = njit(forceinline=True)(rule.bind(fma, select))


# What makes step functions: they take ``count`` steps with ``used`` lanes, from ``tile`` to ``after``. Each is compiled
# as it stands: what calls another would have it optimised twice, which costs it its registers.


def _few(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """All parameters at a time, in registers from the first step to the last, of two parts of ``width`` lanes in turn.

    One part's operations wait for each other; the other's fill the gaps, and need no registers while they do not.
    """
    features, parameters, batch, rows, lanes, width = form.constants

    def steps(tile, after, ticks, fixed, data, targets, places, clock, count, used):  # type: ignore[no-untyped-def]
        aligned_stack()
        batches = data, targets, places, clock
        first, length = 0, parameters * lanes
        while first < used:
            second = first + width
            one = _begin(tile, after, first, parameters, lanes, width)
            two = _begin(tile, after, second, parameters, lanes, width)
            for step in range(np.uintp(count)):
                gradients = _gradients(one[0], batches, step, features, parameters, batch, rows, width)
                one = _stepped(one[0], gradients, one[1], fixed, length + first, lanes, width, kind)
                left = _left(one[0], after, fixed, first, length, parameters, lanes, width)
                gradients = _gradients(two[0], batches, step, features, parameters, batch, rows, width)
                two = _stepped(two[0], gradients, two[1], fixed, length + second, lanes, width, kind)
                if any_negative(left | _left(two[0], after, fixed, second, length, parameters, lanes, width)):
                    _note_peaks(one[0], after, ticks, fixed, clock, step, first, parameters, parameters, lanes, width)
                    _note_peaks(two[0], after, ticks, fixed, clock, step, second, parameters, parameters, lanes, width)
            _end(one, after, first, parameters, lanes)
            _end(two, after, second, parameters, lanes)
            first = second + width
        return source

    return steps


@njit(forceinline=True)
def _begin(tile, after, lane, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """The parameters and buffers at ``lane``; ``after`` gets the peaks so far."""
    buffers, peaks = parameters * lanes + lane, 2 * parameters * lanes + lane
    store(after, peaks, lanes, load(tile, peaks, lanes, parameters, width))
    return load(tile, lane, lanes, parameters, width), load(tile, buffers, lanes, parameters, width)


@njit(forceinline=True)
def _end(part, after, lane, parameters, lanes):  # type: ignore[no-untyped-def]
    """Keep a part's parameters and buffers in ``after``."""
    store(after, lane, lanes, part[0])
    store(after, parameters * lanes + lane, lanes, part[1])


@njit(forceinline=True)
def _left(params, after, fixed, at, length, some, lanes, width):  # type: ignore[no-untyped-def]
    """How far ``some`` parameters, from ``at`` on, are from their peaks, merged: negative where farther than ever."""
    reached = params ^ load(fixed, at, lanes, some, width)
    return merged(load(after, 2 * length + at, lanes, some, width) - reached)


@njit(forceinline=True)
def _note_peaks(params, after, ticks, fixed, clock, step, at, some, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """Note and date the new peaks of ``some`` parameters, from ``at`` on."""
    peaks = 2 * parameters * lanes + at
    reached = params ^ load(fixed, at, lanes, some, width)
    farther = reached > load(after, peaks, lanes, some, width)
    store_where(after, peaks, lanes, reached, farther)
    store_where(ticks, at, lanes, spread(clock, step, 1, 1, width), farther)


@njit(forceinline=True)
def _stepped(params, gradients, buffers, fixed, first, lanes, width, kind):  # type: ignore[no-untyped-def]
    """Parameters and buffers after a step; a first one is a step from buffers of -0 without dampening."""
    new_params, new_buffers = _update(
        params,
        gradients,
        buffers,
        False,
        load(fixed, first, lanes, 1, width),
        load(fixed, first + lanes, lanes, 1, width),
        load(fixed, first + 2 * lanes, lanes, 1, width),
        load(fixed, first + 3 * lanes, lanes, 1, width) if kind & DAMPENING else splat_like(fixed, 1, width),
        kind & MOMENTUM != 0,
        kind & DECAY != 0,
        kind & NESTEROV != 0,
    )
    return new_params, select(kind & MOMENTUM != 0, new_buffers, buffers)


def _gradients(*arguments: Any) -> Any:
    """The gradients of a step's batch at ``params``."""
    raise NotImplementedError("compiled code only")


@overload(_gradients, jit_options={"forceinline": True}, prefer_literal=True)
def _choose_gradients(params, batches, step, features, parameters, batch, rows, width):  # type: ignore[no-untyped-def]
    if not isinstance(batch, types.IntegerLiteral):
        return None

    triangular = int(batch.literal_value == TRIANGLE)

    def by_rows(params, batches, step, features, parameters, batch, rows, width):  # type: ignore[no-untyped-def]
        data, _, places, _ = batches
        place = places[step] * (rows * (parameters + EXTRA))
        return slopes(data, place, residuals(data, place, params, rows, triangular), parameters, triangular)

    def by_sample(params, batches, step, features, parameters, batch, rows, width):  # type: ignore[no-untyped-def]
        two = splat_like(batches[0], 2, width)
        return _of_sample(params, batches, batches[2][step], two, features, parameters, width)

    def by_pair(params, batches, step, features, parameters, batch, rows, width):  # type: ignore[no-untyped-def]
        first, second = batches[2][2 * step], batches[2][2 * step + 1]
        scale = splat_like(batches[0], 1 if second >= 0 else 2, width)
        gradients = _of_sample(params, batches, first, scale, features, parameters, width)
        if second >= 0:
            gradients = gradients + _of_sample(params, batches, second, scale, features, parameters, width)
        return gradients

    return {1: by_sample, 2: by_pair}.get(batch.literal_value, by_rows)


def _of_sample(*arguments: Any) -> Any:
    """What one sample adds to the batch's gradients; ``scale`` is 2 / B."""
    raise NotImplementedError("compiled code only")


@overload(_of_sample, jit_options={"forceinline": True}, prefer_literal=True)
def _choose_sample(params, batches, sample, scale, features, parameters, width):  # type: ignore[no-untyped-def]
    if not isinstance(parameters, types.IntegerLiteral):
        return None
    inputs = with_one if parameters.literal_value > features.literal_value else _as_they_are

    def of_sample(params, batches, sample, scale, features, parameters, width):  # type: ignore[no-untyped-def]
        data, targets, _, _ = batches
        x = inputs(spread(data, sample * features, 1, features, width))
        return scale * (total(x * params) - spread(targets, sample, 1, 1, width)) * x

    return of_sample


@njit(forceinline=True)
def _as_they_are(lanes):  # type: ignore[no-untyped-def]
    return lanes


def _many_by_samples(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """One parameter at a time, from and to the cache at every step."""
    features, parameters, batch, _, lanes, width = form.constants

    def steps(tile, after, ticks, fixed, data, targets, places, clock, count, used):  # type: ignore[no-untyped-def]
        arrays, batches = (tile, after, ticks, fixed), (data, targets, places, clock)
        _carry_over(arrays, parameters, lanes)
        for lane in range(0, used, width):
            for step in range(np.uintp(count)):
                first, second = places[step * batch], places[step * batch + batch - 1]
                single = batch == 1 or second < 0
                scale = splat_like(data, 2 if single else 1, width)
                slope = scale * _residual(after, lane, data, targets, first, features, parameters, lanes, width)
                other = slope
                if not single:
                    other = scale * _residual(after, lane, data, targets, second, features, parameters, lanes, width)
                for j in range(features):
                    gradient = slope * spread(data, first * features + j, 1, 1, width)
                    if not single:
                        gradient = gradient + other * spread(data, second * features + j, 1, 1, width)
                    _step_one(arrays, batches, step, gradient, j, lane, parameters, lanes, width, kind)
                if parameters > features:
                    gradient = slope if single else slope + other
                    _step_one(arrays, batches, step, gradient, features, lane, parameters, lanes, width, kind)
        return source

    return steps


@njit(forceinline=True)
def _residual(after, lane, data, targets, sample, features, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """x p - y of one sample."""
    x = sample * features
    prediction = spread(data, x, 1, 1, width) * load(after, lane, lanes, 1, width)
    for j in range(1, features):
        prediction = prediction + spread(data, x + j, 1, 1, width) * load(after, j * lanes + lane, lanes, 1, width)
    if parameters > features:
        prediction = prediction + load(after, features * lanes + lane, lanes, 1, width)
    return prediction - spread(targets, sample, 1, 1, width)


def _many_by_rows(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """Products of matrices: BLOCK rows' residuals at a time, then BLOCK parameters' gradients, in registers."""
    _, parameters, batch, rows, lanes, width = form.constants

    def steps(tile, after, ticks, fixed, data, targets, places, clock, count, used):  # type: ignore[no-untyped-def]
        arrays, batches = (tile, after, ticks, fixed), (data, targets, places, clock)
        columns, blocks, residuals = parameters + EXTRA, (rows + BLOCK - 1) // BLOCK, (parameters + COLUMNS) * lanes
        _carry_over(arrays, parameters, lanes)
        for lane in range(0, used, width):
            for step in range(np.uintp(count)):
                rows_at = places[step] * (blocks * columns * BLOCK)
                for block in range(blocks):
                    begin = rows_at + block * (columns * BLOCK)
                    first = block * BLOCK if batch == TRIANGLE else 0
                    e = _column(data, begin, first, width) * load(after, first * lanes + lane, lanes, 1, width)
                    for k in range(first + 1, parameters):
                        e = fma(_column(data, begin, k, width), load(after, k * lanes + lane, lanes, 1, width), e)
                    e = e - _column(data, begin, parameters, width)  # last, where the two cancel
                    e = e * _column(data, begin, parameters + 1, width)
                    store(fixed, residuals + block * BLOCK * width, width, e)
                stepped = 0
                while stepped < parameters:
                    first = min(stepped, parameters - BLOCK)  # the last block may overlap the one before
                    at = rows_at + first * BLOCK
                    gradients = spread(data, at, BLOCK, BLOCK, width) * load(fixed, residuals, width, 1, width)
                    for row in range(1, min(rows, first + BLOCK) if batch == TRIANGLE else rows):
                        at = rows_at + row // BLOCK * (columns * BLOCK) + first * BLOCK + row % BLOCK
                        e = load(fixed, residuals + row * width, width, 1, width)
                        gradients = fma(spread(data, at, BLOCK, BLOCK, width), e, gradients)
                    store(fixed, residuals + blocks * BLOCK * width, width, gradients)
                    for j in range(stepped, first + BLOCK):
                        gradient = load(fixed, residuals + (blocks * BLOCK + j - first) * width, width, 1, width)
                        _step_one(arrays, batches, step, gradient, j, lane, parameters, lanes, width, kind)
                    stepped = first + BLOCK
        return source

    return steps


@njit(forceinline=True)
def _column(data, begin, k, width):  # type: ignore[no-untyped-def]
    """Column k of the block of rows at ``begin``."""
    return spread(data, begin + k * BLOCK, 1, BLOCK, width)


@njit(forceinline=True)
def _carry_over(arrays, parameters, lanes):  # type: ignore[no-untyped-def]
    """Begin ``after`` as ``tile``."""
    tile, after, _, _ = arrays
    for i in range(3 * parameters * lanes):
        after[i] = tile[i]


@njit(forceinline=True)
def _step_one(arrays, batches, step, gradient, j, lane, parameters, lanes, width, kind):  # type: ignore[no-untyped-def]
    """Step parameter j in ``after``, and watch its peak."""
    _, after, ticks, fixed = arrays
    length, at = parameters * lanes, j * lanes + lane
    param, buffer = load(after, at, lanes, 1, width), load(after, length + at, lanes, 1, width)
    param, buffer = _stepped(param, gradient, buffer, fixed, length + lane, lanes, width, kind)
    store(after, at, lanes, param)
    if kind & MOMENTUM:
        store(after, length + at, lanes, buffer)
    if any_negative(_left(param, after, fixed, at, length, 1, lanes, width)):
        _note_peaks(param, after, ticks, fixed, batches[3], step, at, 1, parameters, lanes, width)
