"""The CPU kernel for models linear in their parameters: tiles of trials stepped in L1 cache, compiled by numba.

A tile holds ``lanes`` trials. Each quantity of the tile (a parameter, its momentum buffer, the learning rates, ...)
is one row of ``lanes`` neighbouring numbers of one scratch array, so that the loop over lanes vectorises and nothing
leaves the L1 cache between two recorded steps. Every lane does exactly the scalar arithmetic of sgdcore.rule: no
bit of a trial depends on its tile, lane or thread.

Products and sums that are not the rule's own stay apart (numba contracts nothing by itself), in the order in which
torch's Linear and mse_loss round them for batches of one and two.

A tile steps ``CHUNK`` steps unchecked. If a parameter is not finite after these, the chunk is stepped again with a
check after every step: what is not finite never becomes finite again, so none is missed.
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
from llvmlite import ir
from numba import literally, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sgdcore import rule
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Segment
from sgdcore.tasks.task import Quadratic
from sgdcore.trajectories import NEVER, Curves, State

CHUNK = 32
TILE_BYTES = 20_000  # what a tile may take of a 32 KiB L1 cache
UNROLLED_FEATURES = 16  # up to here the loop over features is unrolled inside the loop over lanes
COLUMNS = 5  # rows of the tile that hold hyperparameters: -lr, momentum, weight_decay, 1 - dampening, nesterov

# numba's on-disk cache watches one file's date, but this kernel is compiled from two: their checksum is part of the
# compiled function's type, hence of its key.
_SOURCE = zlib.crc32(Path(__file__).read_bytes() + Path(rule.__file__).read_bytes())


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, threads: int
) -> None:
    """Step all trials; ``threads`` of them share the tiles."""
    features = problem.features.shape[1]
    dtype = problem.features.dtype
    lanes = lanes_of(features + problem.bias, dtype.itemsize)
    trials = len(hyperparams)
    arguments = (
        (
            problem.features,
            problem.targets,
            (2.0 / np.arange(1, min(segment.batch_size, len(problem.targets)) + 1)).astype(dtype),
        ),
        (segment.samples, segment.first_epoch, segment.batch_size, state.step, segment.stop),
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
    constants = (features, features + int(problem.bias), lanes, _SOURCE)
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
    """Trials in a tile: as many as fit the cache, a multiple of the widest vector."""
    return int(np.clip(TILE_BYTES // ((5 * parameters + COLUMNS + 1) * itemsize) // 32 * 32, 32, 512))


@cache
def _compiled(argument_types: tuple[Any, ...], constants: tuple[int, ...]) -> Callable[..., None]:
    """The kernel for these types, with feature count, parameter count and lanes as compile-time constants."""
    entry: Callable[..., None] = _run_tiles.compile((*argument_types, *map(types.literal, constants)))
    return entry


def _columns(hyperparams: Hyperparams, dtype: np.dtype[Any]) -> NDArray[Any]:
    """(COLUMNS, T) hyperparameters, all computed in double and then cast, as torch does."""
    return np.stack(
        [
            -hyperparams.lr,
            hyperparams.momentum,
            hyperparams.weight_decay,
            1 - hyperparams.dampening,
            hyperparams.nesterov,
        ]
    ).astype(dtype)


def _form(quadratic: Quadratic) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    return quadratic.factor, quadratic.centre, quadratic.minimum


def _or_empty(array: NDArray[Any] | None, ndim: int, dtype: Any = np.float64) -> NDArray[Any]:
    return np.empty((0,) * ndim, dtype) if array is None else array


# Compiled code. ``features``, ``parameters`` and ``lanes`` are literal types all the way down, and the rows of a tile
# lie in this order: parameters, momentum buffers, gradients, directions, peaks (``parameters`` rows each), then the
# COLUMNS hyperparameters and the residuals. Row r, lane l is tile[r * lanes + l].


@intrinsic
def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """LLVM's fused multiply-add: a * b + c, rounded once."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), codegen


@intrinsic
def _select(context: Any, condition: Any, yes: Any, no: Any) -> Any:
    """LLVM's select: no branch, so that the loop over lanes vectorises."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.trunc(arguments[0], ir.IntType(1)), *arguments[1:])

    return yes(types.boolean, yes, yes), codegen


select: Any = _select
_update = njit(inline="always")(rule.bind(_fma, _select))


@njit(nogil=True, inline="never", error_model="numpy")
def _step_tile(tile, peak_step, data, plan, step, features, parameters, lanes):  # type: ignore[no-untyped-def]
    """One step of every lane: residuals and gradients sample by sample, then the rule."""
    literally(features)
    literally(parameters)
    literally(lanes)
    inputs, targets, scales = data
    samples, first_epoch, batch_size, _, _ = plan
    per_epoch = (len(targets) + batch_size - 1) // batch_size
    row = (step // per_epoch - first_epoch) % len(samples)
    first = (step % per_epoch) * batch_size
    count = min(batch_size, len(targets) - first)
    scale = scales[count - 1]
    bias = parameters > features
    buffers, gradients, directions, peaks = parameters, 2 * parameters, 3 * parameters, 4 * parameters
    lr = 5 * parameters
    momentum, weight_decay, undamped, nesterov, residual = lr + 1, lr + 2, lr + 3, lr + 4, lr + 5
    for i in range(count):
        sample = samples[row, first + i]
        target = targets[sample]
        if features <= UNROLLED_FEATURES:
            for lane in range(lanes):
                prediction = inputs[sample, 0] * tile[lane]
                for j in range(1, features):
                    prediction += inputs[sample, j] * tile[j * lanes + lane]
                if bias:
                    prediction += tile[features * lanes + lane]
                tile[residual * lanes + lane] = scale * (prediction - target)
        else:
            for lane in range(lanes):
                tile[residual * lanes + lane] = inputs[sample, 0] * tile[lane]
            for j in range(1, features):
                x = inputs[sample, j]
                for lane in range(lanes):
                    tile[residual * lanes + lane] += x * tile[j * lanes + lane]
            for lane in range(lanes):
                prediction = tile[residual * lanes + lane]
                if bias:
                    prediction += tile[features * lanes + lane]
                tile[residual * lanes + lane] = scale * (prediction - target)
        for j in range(parameters):
            x = inputs[sample, j] if j < features else inputs.dtype.type(1)
            if i == 0:
                for lane in range(lanes):
                    tile[(gradients + j) * lanes + lane] = tile[residual * lanes + lane] * x
            else:
                for lane in range(lanes):
                    tile[(gradients + j) * lanes + lane] += tile[residual * lanes + lane] * x
    is_first = step == 0
    after = peak_step.dtype.type(step + 1)
    zero = tile.dtype.type(0)
    for j in range(parameters):
        for lane in range(lanes):
            param, buffer = _update(
                tile[j * lanes + lane],
                tile[(gradients + j) * lanes + lane],
                tile[(buffers + j) * lanes + lane],
                is_first,
                tile[lr * lanes + lane],
                tile[momentum * lanes + lane],
                tile[weight_decay * lanes + lane],
                tile[undamped * lanes + lane],
                tile[momentum * lanes + lane] != zero,
                tile[weight_decay * lanes + lane] != zero,
                tile[nesterov * lanes + lane] != zero,
            )
            tile[j * lanes + lane] = param
            tile[(buffers + j) * lanes + lane] = buffer
            reached = param * tile[(directions + j) * lanes + lane]
            peak = tile[(peaks + j) * lanes + lane]
            farther = reached > peak
            tile[(peaks + j) * lanes + lane] = select(farther, reached, peak)
            peak_step[j * lanes + lane] = select(farther, after, peak_step[j * lanes + lane])


@njit(nogil=True, inline="never", error_model="numpy")
def _nonfinite(tile, parameters, lanes):  # type: ignore[no-untyped-def]
    """How many parameters of the tile are not finite."""
    literally(parameters)
    literally(lanes)
    zero = tile.dtype.type(0)
    count = 0
    for i in range(parameters * lanes):
        count += tile[i] - tile[i] != zero
    return count


@njit(nogil=True, inline="never", error_model="numpy")
def _losses(tile, form, loss, reached, parameters, lanes):  # type: ignore[no-untyped-def]
    """minimum + |factor p - centre|^2 of every lane, in float64; the factor is upper triangular."""
    literally(parameters)
    literally(lanes)
    factor, centre, minimum = form
    for lane in range(lanes):
        loss[lane] = minimum
    for i in range(factor.shape[0]):
        for lane in range(lanes):
            reached[lane] = -centre[i]
        for j in range(i, parameters):
            weight = factor[i, j]
            for lane in range(lanes):
                reached[lane] += weight * tile[j * lanes + lane]
        for lane in range(lanes):
            loss[lane] += reached[lane] * reached[lane]


@njit(nogil=True, inline="never", error_model="numpy")
def _record(tile, running, base, k, training, validation, curves, parameters, lanes):  # type: ignore[no-untyped-def]
    """Write the running lanes' values to point k of the curves."""
    literally(parameters)
    literally(lanes)
    loss, squared_norm, validation_loss, path = curves
    values, reached = np.empty(lanes), np.empty(lanes)
    _losses(tile, training, values, reached, parameters, lanes)
    for lane in range(lanes):
        if running[lane]:
            loss[base + lane, k] = values[lane]
    if validation_loss.size > 0:
        _losses(tile, validation, values, reached, parameters, lanes)
        for lane in range(lanes):
            if running[lane]:
                validation_loss[base + lane, k] = values[lane]
    if squared_norm.size > 0:
        values[:] = 0.0
        for j in range(parameters):
            for lane in range(lanes):
                value = np.float64(tile[j * lanes + lane])
                values[lane] += value * value
        for lane in range(lanes):
            if running[lane]:
                squared_norm[base + lane, k] = values[lane]
    if path.size > 0:
        for lane in range(lanes):
            if running[lane]:
                for j in range(parameters):
                    path[base + lane, k, j] = tile[j * lanes + lane]


@njit(nogil=True, inline="never", error_model="numpy")
def _blank(base, width, first, last, curves):  # type: ignore[no-untyped-def]
    """NaN at the segment's points: what a trial does not reach stays so."""
    loss, squared_norm, validation_loss, path = curves
    for trial in range(base, base + width):
        loss[trial, first:last] = np.nan
        if squared_norm.size > 0:
            squared_norm[trial, first:last] = np.nan
        if validation_loss.size > 0:
            validation_loss[trial, first:last] = np.nan
        if path.size > 0:
            path[trial, first:last] = np.nan


@njit(nogil=True, inline="never", error_model="numpy")
def _load(tile, tile_steps, running, base, width, columns, state, parameters, lanes):  # type: ignore[no-untyped-def]
    """Fill the tile with the trials from ``base`` on; returns how many run. Idle lanes are zero and stay zero."""
    literally(parameters)
    literally(lanes)
    params, buffers, direction, peak, peak_steps, stopped = state
    tile[:] = tile.dtype.type(0)
    alive = 0
    for lane in range(lanes):
        running[lane] = False
        trial = base + lane
        if lane >= width or stopped[trial] != NEVER:
            continue
        running[lane] = True
        alive += 1
        for j in range(parameters):
            tile[j * lanes + lane] = params[trial, j]
            tile[(parameters + j) * lanes + lane] = buffers[trial, j]
            tile[(3 * parameters + j) * lanes + lane] = direction[trial, j]
            tile[(4 * parameters + j) * lanes + lane] = peak[trial, j] * direction[trial, j]
            tile_steps[j * lanes + lane] = peak_steps[trial, j]
        for c in range(COLUMNS):
            tile[(5 * parameters + c) * lanes + lane] = columns[c, trial]
    return alive


@njit(nogil=True, inline="never", error_model="numpy")
def _store(tile, peaks, peak_steps, lane, trial, state, parameters, lanes):  # type: ignore[no-untyped-def]
    """Write one lane back: parameters and buffers from the tile, peaks from ``peaks`` (the tile or an earlier one)."""
    literally(parameters)
    literally(lanes)
    params, buffers, direction, peak, out_steps, _ = state
    for j in range(parameters):
        params[trial, j] = tile[j * lanes + lane]
        buffers[trial, j] = tile[(parameters + j) * lanes + lane]
        if direction[trial, j] != 0:
            peak[trial, j] = peaks[(4 * parameters + j) * lanes + lane] * direction[trial, j]
        out_steps[trial, j] = peak_steps[j * lanes + lane]


@njit(nogil=True, inline="never", error_model="numpy")
def _stop_lanes(  # type: ignore[no-untyped-def]
    tile, before, steps_before, running, base, step, state, parameters, lanes
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
            _store(tile, before, steps_before, lane, base + lane, state, parameters, lanes)
        for row in range(5 * parameters + COLUMNS):
            tile[row * lanes + lane] = zero
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
    features,
    parameters,
    lanes,
    source,
):
    """Step the trials of a range, tile by tile, to the segment's end."""
    literally(features)
    literally(parameters)
    literally(lanes)
    literally(source)
    recorded, recorded_from = recording
    rows = 5 * parameters + COLUMNS
    dtype = state[0].dtype
    tile, tile_steps = np.zeros((rows + 1) * lanes, dtype), np.zeros(parameters * lanes, np.int64)
    saved, saved_steps = np.empty(5 * parameters * lanes, dtype), np.empty(parameters * lanes, np.int64)
    running = np.zeros(lanes, np.bool_)
    for base in range(first_trial, stop_trial, lanes):
        width = min(lanes, stop_trial - base)
        _blank(base, width, recorded_from, recorded_from + len(recorded), curves)
        alive = _load(tile, tile_steps, running, base, width, columns, state, parameters, lanes)
        step, stop, point = plan[3], plan[4], 0
        while alive > 0:
            if point < len(recorded) and recorded[point] == step:
                _record(tile, running, base, recorded_from + point, training, validation, curves, parameters, lanes)
                point += 1
            if step == stop:
                break
            until = min(step + CHUNK, stop)
            if point < len(recorded):
                until = min(until, recorded[point])
            saved[:] = tile[: len(saved)]
            saved_steps[:] = tile_steps
            for t in range(step, until):
                _step_tile(tile, tile_steps, data, plan, t, features, parameters, lanes)
            if _nonfinite(tile, parameters, lanes) > 0:
                tile[: len(saved)] = saved
                tile_steps[:] = saved_steps
                for t in range(step, until):
                    saved[:] = tile[: len(saved)]
                    saved_steps[:] = tile_steps
                    _step_tile(tile, tile_steps, data, plan, t, features, parameters, lanes)
                    if _nonfinite(tile, parameters, lanes) > 0:
                        alive -= _stop_lanes(tile, saved, saved_steps, running, base, t, state, parameters, lanes)
            step = until
        for lane in range(width):
            if running[lane]:
                _store(tile, tile, tile_steps, lane, base + lane, state, parameters, lanes)
