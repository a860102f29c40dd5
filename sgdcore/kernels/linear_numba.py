"""The CPU kernel for models linear in their parameters: tiles of trials stepped as SIMD vectors, compiled by numba.

A tile holds ``lanes`` trials. Each quantity of the tile (a parameter, its momentum buffer, the learning rates, ...)
is one row of ``lanes`` neighbouring numbers. ``width`` of these are stepped together, ``CHUNK`` steps in a row: a
model of few parameters stays in the CPU's registers meanwhile, a larger one in its cache. Every lane does exactly the
scalar arithmetic of sgdcore.rule: no bit of a trial depends on its tile, lane or thread.

Products and sums that are not the rule's own stay apart (numba contracts nothing by itself), in the order in which
torch's Linear and mse_loss round them for batches of one and two.

A chunk is stepped unchecked. If a parameter is not finite after it, it is stepped again in parts, down to the single
step: what is not finite never becomes finite again, so none is missed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import literally, njit, types
from numba.extending import overload
from numpy.typing import NDArray

from sgdcore import rule
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels import linear_record, vectors
from sgdcore.kernels.base import Problem, Resources, Segment
from sgdcore.kernels.linear_record import POINTS, blank, record, write
from sgdcore.kernels.vectors import aligned_stack, compiled, fma, load, select, splat, spread, store, total
from sgdcore.tasks.task import Quadratic
from sgdcore.trajectories import NEVER, Curves, State

CHUNK = 64  # steps between two looks at whether all is finite
PART = 8  # a chunk in which something is not finite is looked through in parts of 1/PART
TILE_BYTES = 20_000  # what a tile should take
IN_REGISTERS = 6  # parameters up to which a chunk is stepped in registers
COLUMNS = 5  # rows of the tile that hold hyperparameters: -lr, momentum, weight_decay, 1 - dampening, nesterov

# numba's on-disk cache watches one file's date, but this kernel is compiled from four: their checksum is part of the
# compiled function's type, hence of its key.
_FILES = [rule.__file__, vectors.__file__, linear_record.__file__, __file__]
_SOURCE = zlib.crc32(b"".join(Path(file).read_bytes() for file in _FILES))


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step all trials, whose tiles the threads share."""
    assert problem.training is not None
    threads = resources.threads
    samples, dtype = len(problem.targets), problem.features.dtype
    trials, parameters = state.params.shape
    lanes = lanes_of(parameters, dtype.itemsize)
    clock = np.arange(1, CHUNK + 1, dtype=f"int{8 * dtype.itemsize}")  # steps of a chunk, as wide as the parameters
    bias = np.ones((samples, int(problem.bias)), dtype)  # the bias's feature; 1 * b is b
    arguments = (
        (
            np.hstack([problem.features, bias]).ravel(),
            problem.targets,
            (2.0 / np.arange(1, min(segment.batch_size, samples) + 1)).astype(dtype),
            segment.samples.ravel(),
        ),
        (segment.first_epoch, segment.batch_size, state.step, segment.stop, clock),
        (curves.steps[segment.recorded], segment.recorded.start),
        _columns(hyperparams, dtype),
        (
            state.params,
            state.momentum_buffers,
            state.direction,
            state.peak,
            state.peak_step,
            state.first_nonfinite_step,
        ),
        _form(problem.training),
        _form(problem.validation or problem.training),
        (
            curves.loss,
            _or_empty(curves.squared_norm, 2),
            _or_empty(curves.validation_loss, 2),
            _or_empty(curves.path, 3, dtype),
        ),
    )
    constants = (parameters, lanes, _SOURCE)
    run_tiles = _compiled(tuple(map(numba.typeof, (0, 0, *arguments))), constants)
    # Several calls a thread even out trials that stop early.
    share = max(1, -(-trials // (lanes * threads * 4))) * lanes
    ranges = [(first, min(first + share, trials)) for first in range(0, trials, share)]
    if threads == 1 or len(ranges) == 1:
        for first, stop in ranges:
            run_tiles(first, stop, *arguments, *constants)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(run_tiles, first, stop, *arguments, *constants) for first, stop in ranges]:
            done.result()


def lanes_of(parameters: int, itemsize: int) -> int:
    """Trials in a tile."""
    width = width_of(parameters, itemsize)
    return int(np.clip(TILE_BYTES // ((6 * parameters + COLUMNS) * itemsize) // width * width, width, 512))


def width_of(parameters: int, itemsize: int) -> int:
    """Trials stepped together: so many that their operations hide each other's latency, so few that registers do."""
    return (256 if parameters <= 2 else 128) // itemsize


@cache
def _compiled(argument_types: tuple[Any, ...], constants: tuple[int, ...]) -> Callable[..., None]:
    """The kernel for these types, with parameter count and lanes as compile-time constants."""
    entry: Callable[..., None] = _run_tiles.compile((*argument_types, *map(types.literal, constants)))
    return entry


def _columns(hyperparams: Hyperparams, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(COLUMNS, T) hyperparameters, all computed in double and then cast, as torch does."""
    columns = np.empty((COLUMNS, len(hyperparams)), dtype)
    np.negative(hyperparams.lr, out=columns[0], casting="unsafe")
    columns[1] = hyperparams.momentum
    columns[2] = hyperparams.weight_decay
    np.subtract(1, hyperparams.dampening, out=columns[3], casting="unsafe")
    columns[4] = hyperparams.nesterov
    return columns


def _form(quadratic: Quadratic) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    return quadratic.factor, quadratic.centre, quadratic.minimum


def _or_empty(array: NDArray[Any] | None, ndim: int, dtype: Any = np.float64) -> NDArray[Any]:
    return np.empty((0,) * ndim, dtype) if array is None else array


# Compiled code. ``parameters`` and ``lanes`` are literal types all the way down. A tile is rows of ``lanes`` numbers
# in three arrays, row r, lane l at [r * lanes + l]:
#   tile: parameters, momentum buffers, peaks (each as its product with the direction); ``parameters`` rows each
#   ticks: by parameter, the step that reached the peak, counted from the chunk's start; 0 where it is older
#   fixed: directions (``parameters`` rows), COLUMNS hyperparameters; and behind them gradients, where not in registers

_update = njit(forceinline=True)(rule.bind(fma, select))


@njit(forceinline=True)
def _hyperparameters(fixed, lane, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """The rule's arguments after ``is_first``."""
    first = parameters * lanes + lane
    negative_lr, momentum = load(fixed, first, lanes, 1, width), load(fixed, first + lanes, lanes, 1, width)
    weight_decay, undamped = (
        load(fixed, first + 2 * lanes, lanes, 1, width),
        load(fixed, first + 3 * lanes, lanes, 1, width),
    )
    zero = splat(fixed.dtype.type(0), width)
    nesterov = load(fixed, first + 4 * lanes, lanes, 1, width) != zero
    return negative_lr, momentum, weight_decay, undamped, momentum != zero, weight_decay != zero, nesterov


@njit(forceinline=True)
def _gradients(params, data, position, scale, parameters, width):  # type: ignore[no-untyped-def]
    """What one sample adds to the batch's gradients."""
    inputs, targets, _, samples = data
    sample = np.intp(samples[np.uintp(position)])  # unsigned: numba then does not look for indices from the end
    x = spread(inputs, sample * parameters, parameters, width)
    return scale * (total(x * params) - spread(targets, sample, 1, width)) * x


def _step_lanes(*arguments: Any) -> None:
    """Take ``steps`` steps with every lane, from ``tile`` to ``after``."""
    raise NotImplementedError("compiled code only")


@overload(_step_lanes, jit_options={"nogil": True, "error_model": "numpy"}, prefer_literal=True)
def _choose(tile, after, ticks, fixed, data, batches, steps, is_first, parameters, lanes):  # type: ignore[no-untyped-def]
    if not isinstance(parameters, types.IntegerLiteral):
        return None
    width = width_of(parameters.literal_value, tile.dtype.bitwidth // 8)
    step = _in_registers if parameters.literal_value <= IN_REGISTERS else _in_cache

    def chosen(tile, after, ticks, fixed, data, batches, steps, is_first, parameters, lanes):  # type: ignore[no-untyped-def]
        step(tile, after, ticks, fixed, data, batches, steps, is_first, parameters, lanes, width)

    return chosen


@compiled
def _in_registers(tile, after, ticks, fixed, data, batches, steps, is_first, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """All parameters at a time, in registers from the first step to the last."""
    literally(parameters)
    literally(lanes)
    literally(width)
    aligned_stack()
    size = parameters * lanes
    begins, counts, clock = batches
    for lane in range(0, lanes, width):
        params, buffers = load(tile, lane, lanes, parameters, width), load(tile, size + lane, lanes, parameters, width)
        peaks, peak_ticks = (
            load(tile, 2 * size + lane, lanes, parameters, width),
            load(ticks, lane, lanes, parameters, width),
        )
        directions = load(fixed, lane, lanes, parameters, width)
        hyperparameters = _hyperparameters(fixed, lane, parameters, lanes, width)
        for step in range(np.uintp(steps)):
            begin, count = begins[step], counts[step]
            scale = spread(data[2], count - 1, 1, width)
            gradients = _gradients(params, data, begin, scale, parameters, width)
            for position in range(begin + 1, begin + count):
                gradients = gradients + _gradients(params, data, position, scale, parameters, width)
            params, buffers = _update(params, gradients, buffers, is_first, *hyperparameters)
            reached = params * directions
            farther = reached > peaks
            peaks = select(farther, reached, peaks)
            peak_ticks = select(farther, spread(clock, step, 1, width), peak_ticks)
        store(after, lane, lanes, params)
        store(after, size + lane, lanes, buffers)
        store(after, 2 * size + lane, lanes, peaks)
        store(ticks, lane, lanes, peak_ticks)


@compiled
def _in_cache(tile, after, ticks, fixed, data, batches, steps, is_first, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """One parameter at a time, from and to the cache at every step."""
    literally(parameters)
    literally(lanes)
    literally(width)
    size = parameters * lanes
    inputs, targets, scales, samples = data
    begins, counts, clock = batches
    after[:] = tile
    for lane in range(0, lanes, width):
        gradients = size + COLUMNS * lanes + lane
        hyperparameters = _hyperparameters(fixed, lane, parameters, lanes, width)
        for step in range(np.uintp(steps)):
            begin, count = begins[step], counts[step]
            scale = spread(scales, count - 1, 1, width)
            for position in range(begin, begin + count):
                sample = np.intp(samples[np.uintp(position)])
                x = sample * parameters
                prediction = spread(inputs, x, 1, width) * load(after, lane, lanes, 1, width)
                for j in range(1, parameters):
                    prediction = prediction + spread(inputs, x + j, 1, width) * load(
                        after, j * lanes + lane, lanes, 1, width
                    )
                residual = scale * (prediction - spread(targets, sample, 1, width))
                for j in range(parameters):
                    at, gradient = gradients + j * lanes, residual * spread(inputs, x + j, 1, width)
                    if position > begin:
                        gradient = load(fixed, at, lanes, 1, width) + gradient
                    store(fixed, at, lanes, gradient)
            for j in range(parameters):
                at, gradient = j * lanes + lane, load(fixed, gradients + j * lanes, lanes, 1, width)
                param, buffer = load(after, at, lanes, 1, width), load(after, size + at, lanes, 1, width)
                param, buffer = _update(param, gradient, buffer, is_first, *hyperparameters)
                store(after, at, lanes, param)
                store(after, size + at, lanes, buffer)
                reached, peak = param * load(fixed, at, lanes, 1, width), load(after, 2 * size + at, lanes, 1, width)
                farther = reached > peak
                store(after, 2 * size + at, lanes, select(farther, reached, peak))
                tick = spread(clock, step, 1, width)
                store(ticks, at, lanes, select(farther, tick, load(ticks, at, lanes, 1, width)))


@compiled
def _plan_batches(batches, plan, data, step, until):  # type: ignore[no-untyped-def]
    """Where the batches of the steps from ``step`` to ``until`` begin among the samples, and how many they hold."""
    begins, counts, _ = batches
    first_epoch, batch_size = plan[0], plan[1]
    n, entries = len(data[1]), len(data[3])
    per_epoch = (n + batch_size - 1) // batch_size
    row = (step // per_epoch - first_epoch) * n % entries
    first = (step % per_epoch) * batch_size
    for t in range(until - step):
        begins[t] = row + first
        counts[t] = min(batch_size, n - first)
        first += batch_size
        if first >= n:
            first, row = 0, row + n
            if row == entries:
                row = 0


@compiled
def _nonfinite(tile, parameters, lanes):  # type: ignore[no-untyped-def]
    """Whether any parameter of the tile is not finite."""
    literally(parameters)
    literally(lanes)
    zero = tile.dtype.type(0)
    count = 0
    for i in range(parameters * lanes):
        count += tile[i] - tile[i] != zero
    return count > 0


@compiled
def _settle(ticks, peak_steps, step):  # type: ignore[no-untyped-def]
    """Date the new peaks, and begin to count again."""
    for i in range(len(ticks)):
        peak_steps[i] = step + ticks[i] if ticks[i] > 0 else peak_steps[i]
        ticks[i] = 0


@compiled
def _load(tile, fixed, peak_steps, running, base, width, columns, state, parameters, lanes):  # type: ignore[no-untyped-def]
    """Fill the tile with the trials from ``base`` on; returns how many run. Idle lanes are zero and stay zero."""
    literally(parameters)
    literally(lanes)
    params, buffers, direction, peak, steps, stopped = state
    tile[:] = tile.dtype.type(0)
    fixed[:] = tile.dtype.type(0)
    alive = 0
    for lane in range(lanes):
        trial = base + lane
        running[lane] = lane < width and stopped[trial] == NEVER
        if not running[lane]:
            continue
        alive += 1
        for j in range(parameters):
            tile[j * lanes + lane] = params[trial, j]
            tile[(parameters + j) * lanes + lane] = buffers[trial, j]
            tile[(2 * parameters + j) * lanes + lane] = peak[trial, j] * direction[trial, j]
            fixed[j * lanes + lane] = direction[trial, j]
            peak_steps[j * lanes + lane] = steps[trial, j]
        for c in range(COLUMNS):
            fixed[(parameters + c) * lanes + lane] = columns[c, trial]
    return alive


@compiled
def _store(tile, peaks, peak_steps, lane, trial, state, parameters, lanes):  # type: ignore[no-untyped-def]
    """Write one lane back: parameters and buffers from the tile, peaks from ``peaks`` (the tile or an earlier one)."""
    literally(parameters)
    literally(lanes)
    params, buffers, direction, peak, steps, _ = state
    for j in range(parameters):
        params[trial, j] = tile[j * lanes + lane]
        buffers[trial, j] = tile[(parameters + j) * lanes + lane]
        if direction[trial, j] != 0:
            peak[trial, j] = peaks[(2 * parameters + j) * lanes + lane] * direction[trial, j]
        steps[trial, j] = peak_steps[j * lanes + lane]


@compiled
def _stop_lanes(  # type: ignore[no-untyped-def]
    before, tile, ticks, fixed, peak_steps, running, base, step, state, parameters, lanes
):
    """Write back and idle the lanes that this step made non-finite; returns how many.

    An idle lane sits at p = 0, where the gradient itself can overflow: it is set back to zero and not counted.
    """
    literally(parameters)
    literally(lanes)
    zero = tile.dtype.type(0)
    count = 0
    for lane in range(lanes):
        bad = False
        for j in range(parameters):
            value = tile[j * lanes + lane]
            bad |= value - value != zero
        if not bad:
            continue
        if running[lane]:
            count += 1
            running[lane] = False
            state[5][base + lane] = step + 1
            _store(tile, before, peak_steps, lane, base + lane, state, parameters, lanes)
        for row in range(3 * parameters):
            tile[row * lanes + lane] = zero
        for row in range(parameters + COLUMNS):
            fixed[row * lanes + lane] = zero
        for row in range(parameters):
            ticks[row * lanes + lane] = 0
    return count


@njit(nogil=True, error_model="numpy", cache=True)
def _run_tiles(  # type: ignore[no-untyped-def]
    first_trial,
    stop_trial,
    data,
    plan,
    recording,
    columns,
    state,
    training,
    validation,
    curves,
    parameters,
    lanes,
    source,
):
    """Step the trials of a range, tile by tile, to the segment's end."""
    literally(parameters)
    literally(lanes)
    literally(source)
    _, _, start, stop, clock = plan
    recorded, recorded_from = recording
    dtype, size = state[0].dtype, parameters * lanes
    tile, after, fixed = (
        _aligned(3 * size, dtype),
        _aligned(3 * size, dtype),
        _aligned(2 * size + COLUMNS * lanes, dtype),
    )
    ticks, peak_steps = _aligned(size, clock.dtype), np.zeros(size, np.int64)
    ticks[:] = 0
    batches = np.empty(CHUNK, np.int64), np.empty(CHUNK, np.int64), clock
    points = np.empty((3, POINTS, lanes)), np.empty((POINTS, size if curves[3].size > 0 else 0), dtype)
    running = np.zeros(lanes, np.bool_)
    for base in range(first_trial, stop_trial, lanes):
        width = min(lanes, stop_trial - base)
        alive = _load(tile, fixed, peak_steps, running, base, width, columns, state, parameters, lanes)
        step, length, point, written = start, CHUNK, 0, 0
        while alive > 0:
            if point < len(recorded) and recorded[point] == step:
                record(tile, running, alive, point - written, training, validation, curves, points, parameters, lanes)
                point += 1
                if point - written == POINTS:
                    write(curves, points, base, width, recorded_from + written, POINTS, parameters, lanes)
                    written = point
            if step == stop:
                break
            until = min(step + length, stop) if step > 0 else 1
            if point < len(recorded):
                until = min(until, recorded[point])
            _plan_batches(batches, plan, data, step, until)
            _step_lanes(tile, after, ticks, fixed, data, batches, until - step, step == 0, parameters, lanes)
            if _nonfinite(after, parameters, lanes):
                if until - step > 1:  # from here again, but not so far
                    ticks[:] = 0
                    length = max(1, length // PART)
                    continue
                alive -= _stop_lanes(
                    tile, after, ticks, fixed, peak_steps, running, base, step, state, parameters, lanes
                )
                length = CHUNK
            _settle(ticks, peak_steps, step)
            tile, after = after, tile
            step = until
        write(curves, points, base, width, recorded_from + written, point - written, parameters, lanes)
        if point < len(recorded):
            blank(curves, base, width, recorded_from + point, recorded_from + len(recorded))
        for lane in range(width):
            if running[lane]:
                _store(tile, tile, peak_steps, lane, base + lane, state, parameters, lanes)


@compiled
def _aligned(size, dtype):  # type: ignore[no-untyped-def]
    """An uninitialised array that begins at a cache line, so that no vector lies across two."""
    raw = np.empty(size + 64, dtype)
    skip = -np.int64(raw.ctypes.data) % 64 // raw.itemsize
    return raw[skip : skip + size]
