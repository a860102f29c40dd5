"""The step functions of the linear CPU kernel: they take steps of one tile, compiled for its kind of trials and model.

A tile is rows of ``lanes`` adjacent numbers, one per trial, in arrays of rows:

    tile:  parameters, momentum buffers, peaks; P rows each. A peak is the largest value so far, past its target, of the
           parameter with its sign flipped so that its target lies above its start
    ticks: per parameter, the step that reached the peak, counted from the chunk's start; 0 if it is older
    fixed: signs (P rows of 0 and -0), -lr, momentum, weight_decay, 1 - dampening; then room for residuals, gradients

Parts of ``width`` lanes are stepped several steps in a row. A model of up to FEW parameters is unrolled and stays in
registers, two parts at once; for a larger one, parameters are loaded from the cache and stored back. Everything that
decides between ways of stepping is a constant and costs nothing: the flags of the trials in the tile, the form of its
batches. New peaks are rare, so a step only checks whether there is one, by the signs of the distances to the peaks.

Samples: products and sums that are not part of the rule stay separate (numba contracts nothing by itself), in the order
in which torch's Linear and mse_loss round them for batches of one and two. Larger batches: see qr_blocks.
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
from sgdcore.kernels.compile_cache import CACHED, compiling
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

FEW = 16  # largest number of parameters for which a step is unrolled
PARTS = 2  # parts of the lanes that are unrolled together
# (largest number of parameters, vectors of trials in a part): enough vectors to hide latency, few enough to fit in
# registers.
VECTORS = ((2, 3), (4, 2), (FEW, 1), (np.inf, 2)) if REGISTERS >= 32 else ((2, 2), (FEW, 1), (np.inf, 2))
BLOCK = 4  # rows or parameters processed together in larger models
COLUMNS = 4  # rows of ``fixed`` that hold hyperparameters
TILE_BYTES = 24_000  # target size of a tile with the arrays around it
ROWS = 8  # rows per parameter in a tile with the arrays around it
MOST_LANES = 512
FIXED = COLUMNS + 2 * BLOCK  # rows of ``fixed`` apart from P for signs and P for intermediate residuals and gradients
TRIANGLE, RECTANGLE = 0, 3  # forms of a batch of more than two samples
MOMENTUM, DECAY, NESTEROV, DAMPENING = 1, 2, 4, 8  # bits of a kind of trials

# numba's on-disk cache checks the date of one file only, but a step is compiled from four: their checksum is a constant
# of the compiled function and so part of its key.
_FILES = [rule.__file__, lanes.__file__, qr_blocks.__file__, __file__]
SOURCE = zlib.crc32(b"".join(Path(file).read_bytes() for file in _FILES))


@dataclass(frozen=True)
class Form:
    """The properties that all steps of a run share."""

    dtype: str
    features: int
    bias: bool
    batch: int  # samples in a batch, 1 or 2; for more: 0 for triangles, RECTANGLE for the samples themselves
    rows: int = 0  # rows of a triangle or rectangle

    @property
    def parameters(self) -> int:
        """The number of parameters P."""
        return self.features + self.bias

    @property
    def constants(self) -> tuple[int, int, int, int, int, int]:
        """The constants of a compiled step: features, P, batch, rows, trials in a tile, trials in a part."""
        return self.features, self.parameters, self.batch, self.rows, self.lanes, self.width

    @property
    def width(self) -> int:
        """The number of trials in a part."""
        vectors = next(count for most, count in VECTORS if self.parameters <= most)
        return max(1, vectors * 4 // np.dtype(self.dtype).itemsize) * GROUP

    @property
    def together(self) -> int:
        """The number of trials stepped together."""
        return PARTS * self.width if self.unrolled else self.width

    @property
    def lanes(self) -> int:
        """The number of trials in a tile."""
        row = (ROWS * self.parameters + FIXED) * np.dtype(self.dtype).itemsize
        fitting = np.clip(TILE_BYTES // row, self.together, MOST_LANES)
        return int(fitting) // self.together * self.together

    @property
    def unrolled(self) -> bool:
        """Whether a step is unrolled."""
        return self.parameters <= FEW

    @property
    def block(self) -> int:
        """The number of rows in a block."""
        return self.rows if self.unrolled else BLOCK

    @property
    def numbers(self) -> int:
        """The number of entries of a triangle or rectangle."""
        return -(-self.rows // self.block) * self.block * (self.parameters + EXTRA)


def kinds_of(hyperparams: Hyperparams) -> NDArray[np.uint8]:
    """Return each trial's kind."""
    momentum, decay = hyperparams.momentum != 0, hyperparams.weight_decay != 0
    dampening = momentum & (hyperparams.dampening != 0)
    kind = MOMENTUM * momentum + DECAY * decay + NESTEROV * hyperparams.nesterov + DAMPENING * dampening
    return np.asarray(kind, np.uint8)


@cached
def compile_steps(form: Form, kind: int, cache: bool = True) -> Any:
    """Return the step function for trials of one kind, as a numba CFunc; ``cache`` enables the disk cache."""
    number = types.CPointer(numba.from_dtype(np.dtype(form.dtype)))  # type: ignore[no-untyped-call, unused-ignore]
    tick = types.CPointer(types.int32 if form.dtype == "float32" else types.int64)  # type: ignore[no-untyped-call, unused-ignore]
    place = types.CPointer(types.int64)  # type: ignore[no-untyped-call, unused-ignore]
    arguments = (number, number, tick, number, number, number, place, tick, types.intp, types.intp)
    many = _many_by_samples if form.batch in (1, 2) else _many_by_rows
    steps = (_few if form.unrolled else many)(form, kind, SOURCE)
    # numba numbers the functions of a process to name them. Functions from the disk cache were named by other
    # processes, so only the constants distinguish this one from them.
    steps.__qualname__ = f"steps_{'_'.join(map(str, (*astuple(form), kind)))}"
    compile_function = numba.cfunc(types.intp(*arguments), cache=cache and CACHED, error_model="numpy")  # type: ignore[no-untyped-call, unused-ignore]
    with compiling(f"linear models with {form.parameters} parameters, {form.dtype}"):
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


# The makers of step functions. A step function takes ``count`` steps with ``used`` lanes, from ``tile`` to ``after``.
# Each is compiled as a whole: called from another function it would be optimised twice and lose its registers.


def _few(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """Return steps that keep all parameters in registers from first to last, for two parts of ``width`` lanes in turn.

    The operations of one part wait for each other; those of the other part fill the gaps.
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
    """Return the parameters and buffers at ``lane``; copies the peaks so far to ``after``."""
    buffers, peaks = parameters * lanes + lane, 2 * parameters * lanes + lane
    store(after, peaks, lanes, load(tile, peaks, lanes, parameters, width))
    return load(tile, lane, lanes, parameters, width), load(tile, buffers, lanes, parameters, width)


@njit(forceinline=True)
def _end(part, after, lane, parameters, lanes):  # type: ignore[no-untyped-def]
    """Store a part's parameters and buffers in ``after``."""
    store(after, lane, lanes, part[0])
    store(after, parameters * lanes + lane, lanes, part[1])


@njit(forceinline=True)
def _left(params, after, fixed, at, length, some, lanes, width):  # type: ignore[no-untyped-def]
    """Return the distances of ``some`` parameters, from ``at`` on, to their peaks, merged: negative for a new peak."""
    reached = params ^ load(fixed, at, lanes, some, width)
    return merged(load(after, 2 * length + at, lanes, some, width) - reached)


@njit(forceinline=True)
def _note_peaks(params, after, ticks, fixed, clock, step, at, some, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """Store and date the new peaks of ``some`` parameters, from ``at`` on."""
    peaks = 2 * parameters * lanes + at
    reached = params ^ load(fixed, at, lanes, some, width)
    farther = reached > load(after, peaks, lanes, some, width)
    store_where(after, peaks, lanes, reached, farther)
    store_where(ticks, at, lanes, spread(clock, step, 1, 1, width), farther)


@njit(forceinline=True)
def _stepped(params, gradients, buffers, fixed, first, lanes, width, kind):  # type: ignore[no-untyped-def]
    """Return parameters and buffers after a step; a first step is one from buffers of -0 without dampening."""
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
    """Return the gradients of a step's batch at ``params``."""
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
    """Return one sample's contribution to the batch's gradients; ``scale`` is 2 / B."""
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
    """Return steps that process one parameter at a time, loaded from and stored to the cache at every step."""
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
    """Return x p - y for one sample."""
    x = sample * features
    prediction = spread(data, x, 1, 1, width) * load(after, lane, lanes, 1, width)
    for j in range(1, features):
        prediction = prediction + spread(data, x + j, 1, 1, width) * load(after, j * lanes + lane, lanes, 1, width)
    if parameters > features:
        prediction = prediction + load(after, features * lanes + lane, lanes, 1, width)
    return prediction - spread(targets, sample, 1, 1, width)


def _many_by_rows(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """Return steps by matrix products in registers: the residuals of BLOCK rows, the gradients of BLOCK parameters."""
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
                    e = e - _column(data, begin, parameters, width)  # last, because the two cancel
                    e = e * _column(data, begin, parameters + 1, width)
                    store(fixed, residuals + block * BLOCK * width, width, e)
                stepped = 0
                while stepped < parameters:
                    first = min(stepped, parameters - BLOCK)  # the last block can overlap the previous one
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
    """Return column k of the block of rows at ``begin``."""
    return spread(data, begin + k * BLOCK, 1, BLOCK, width)


@njit(forceinline=True)
def _carry_over(arrays, parameters, lanes):  # type: ignore[no-untyped-def]
    """Copy ``tile`` to ``after`` before the first step."""
    tile, after, _, _ = arrays
    for i in range(3 * parameters * lanes):
        after[i] = tile[i]


@njit(forceinline=True)
def _step_one(arrays, batches, step, gradient, j, lane, parameters, lanes, width, kind):  # type: ignore[no-untyped-def]
    """Step parameter j in ``after`` and update its peak."""
    _, after, ticks, fixed = arrays
    length, at = parameters * lanes, j * lanes + lane
    param, buffer = load(after, at, lanes, 1, width), load(after, length + at, lanes, 1, width)
    param, buffer = _stepped(param, gradient, buffer, fixed, length + lane, lanes, width, kind)
    store(after, at, lanes, param)
    if kind & MOMENTUM:
        store(after, length + at, lanes, buffer)
    if any_negative(_left(param, after, fixed, at, length, 1, lanes, width)):
        _note_peaks(param, after, ticks, fixed, batches[3], step, at, 1, parameters, lanes, width)
