"""The CPU kernel for perceptrons: a tile of trials, one per element of every SIMD vector, compiled by numba.

A tile holds as many trials as a vector has elements. Its weights, momentum buffers, gradients and activations stay in
the core's caches from the segment's first step to its last. No sum crosses a vector, so no bit of a trial depends on
its tile, its position in it, or the thread. Sums are chains of fused multiply-adds in a fixed order and equal torch's
to rounding. The update is sgdcore.rule's.

Sizes are run-time values: a new shape needs no compilation; only a new dtype or activation does, and batches of one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite.binding import get_host_cpu_features
from numba import literally, njit, types
from numpy.typing import NDArray

from sgdcore import rule
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Resources, Segment, columns
from sgdcore.kernels.compile_cache import CACHED, compiling
from sgdcore.kernels.mlp_numba import layers as mlp_layers
from sgdcore.kernels.mlp_numba import passes as mlp_passes
from sgdcore.kernels.mlp_numba.layers import ACTIVATIONS, SUMS, inner
from sgdcore.kernels.mlp_numba.passes import make_scratch, run_pass
from sgdcore.kernels.simd import lanes as simd_lanes
from sgdcore.kernels.simd import math as simd_math
from sgdcore.kernels.simd import matmul as simd_matmul
from sgdcore.kernels.simd import memory
from sgdcore.kernels.simd.lanes import fma, load, select, splat, store
from sgdcore.kernels.simd.memory import aligned, or_empty
from sgdcore.tasks.networks import MlpModel
from sgdcore.tasks.task import LOSSES
from sgdcore.trajectories import NEVER, Curves, State

COLUMNS = 5  # rows of a tile that hold hyperparameters
VECTOR_BYTES = 64 if get_host_cpu_features().get("avx512f") else 32  # no result depends on it
_SIGNALS = 8  # numbers per range: steps done, summed over trials, and whether to stop; a cache line per thread
_COUNT_SECONDS = 0.25  # between two counts
UNITS_BYTES = 1 << 16  # limit for the activations of the samples processed together

_FILES = [
    str(module.__file__) for module in (rule, simd_lanes, simd_matmul, simd_math, memory, mlp_layers, mlp_passes)
] + [__file__]
_SOURCE = zlib.crc32(b"".join(Path(file).read_bytes() for file in _FILES))  # part of the cache key, as in linear_numba


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step all trials; the threads share their tiles."""
    model, dtype, threads = problem.task.model, problem.features.dtype, resources.threads
    assert isinstance(model, MlpModel)
    curves.blank(segment.recorded)
    batch = min(segment.batch_size, len(problem.targets))
    at_once = 1 if batch == 1 else SUMS // 4  # samples per block
    width = VECTOR_BYTES // dtype.itemsize
    shape = np.array([problem.features.shape[1], *model.hidden, 1])
    pitch = _pitch(shape, at_once, batch)
    arguments = (
        np.argsort(segment.order, kind="stable"),  # adjacent trials see the same samples
        segment.order,
        (
            _padded(problem.features, problem.targets, at_once),
            _padded(*(problem.held_out or (problem.features, problem.targets)), at_once),
            np.require(segment.samples, requirements=["C", "W"]).ravel(),
        ),
        (shape, pitch, LOSSES.index(problem.task.loss), problem.task.huber_delta),
        ACTIVATIONS[model.activation].kept is not None,
        (segment.first_epoch, segment.samples.shape[1], segment.batch_size, state.step, segment.stop),
        (curves.steps[segment.recorded], segment.recorded.start),
        columns(hyperparams, dtype),
        (state.params, state.momentum_buffers, state.first_nonfinite_step),
        (
            curves.loss,
            or_empty(curves.squared_norm, 2),
            or_empty(curves.validation_loss, 2),
            or_empty(curves.path, 3, dtype),
        ),
    )
    constants = (list(ACTIVATIONS).index(model.activation), at_once, width, _SOURCE)
    trials = len(hyperparams)
    share = max(1, -(-trials // (width * threads * 4))) * width
    ranges = [(first, min(first + share, trials)) for first in range(0, trials, share)]
    signals = np.zeros((len(ranges), _SIGNALS), np.int64)
    run_tiles = _compiled(tuple(map(numba.typeof, (0, 0, np.zeros(_SIGNALS, np.int64), *arguments))), constants)
    pool = ThreadPoolExecutor(threads)
    try:
        tiles = zip(ranges, signals, strict=True)
        _wait([pool.submit(run_tiles, *ends, own, *arguments, *constants) for ends, own in tiles], signals, resources)
    except BaseException:  # an error, or Ctrl-C: the other tiles are not wanted any more
        signals[:, 1] = 1
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _wait(tiles: list[Future[None]], signals: NDArray[np.int64], resources: Resources) -> None:
    """Wait for the tiles of all threads, and count the steps that they have done from time to time."""
    counted = 0
    while True:
        _, pending = wait(tiles, _COUNT_SECONDS if resources.on_steps else None, FIRST_EXCEPTION)
        if resources.on_steps is not None:
            done = int(signals[:, 0].sum())
            resources.on_steps(done - counted)
            counted = done
        if not pending or any(tile.done() and tile.exception() for tile in tiles):
            break
    for tile in tiles:
        if tile.done():
            tile.result()


def _pitch(shape: NDArray[np.int64], at_once: int, batch: int) -> int:
    """Return how many samples' activations are kept together: equal parts of a batch; no result depends on it."""
    room = max(1, UNITS_BYTES // (int(shape.sum()) * VECTOR_BYTES * at_once))
    blocks = -(-batch // at_once)
    return at_once * -(-blocks // -(-blocks // room))


def _padded(features: NDArray[Any], targets: NDArray[Any], at_once: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return features, padded with zeros so that whole blocks can be read, and targets."""
    return np.concatenate([features.ravel(), np.zeros(at_once * features.shape[1], features.dtype)]), targets


@cache
def _compiled(argument_types: tuple[Any, ...], constants: tuple[int, ...]) -> Callable[..., None]:
    """Return the kernel compiled for these types and constants."""
    with compiling(f"perceptrons with {list(ACTIVATIONS)[constants[0]]}"):
        entry: Callable[..., None] = _run_tiles.compile((*argument_types, *map(types.literal, constants)))
    return entry


# Compiled code. A tile's numbers are rows of ``width``, row r at [r * width]:
#   tile: parameters, their gradients, their momentum buffers; P rows each; then the COLUMNS hyperparameters
#   scratch: work arrays of the passes

_update = njit(forceinline=True)(rule.bind(fma, select))


@njit(nogil=True, error_model="numpy", cache=CACHED)
def _run_tiles(  # type: ignore[no-untyped-def]
    first_trial,
    stop_trial,
    signals,
    trials,
    orders,
    data,
    network,
    keeps,
    plan,
    recording,
    columns,
    state,
    curves,
    activation,
    at_once,
    width,
    source,
):
    """Step the trials of a range, tile by tile, to the segment's end."""
    literally(activation)
    literally(at_once)
    literally(width)
    literally(source)
    training, validation, samples = data
    first_epoch, rows, batch_size, start, stop = plan
    recorded, recorded_from = recording
    parameters, n = state[0].shape[1], len(training[1])
    per_epoch = (n + batch_size - 1) // batch_size
    tile = aligned((3 * parameters + COLUMNS) * width, columns.dtype)
    scratch = make_scratch(columns.dtype, network, keeps, width)
    doubt, values = aligned(width, columns.dtype), np.empty((2, width))
    running = np.zeros(width, np.bool_)
    for base in range(first_trial, stop_trial, width):
        lanes = trials[base : min(base + width, stop_trial)]
        alive = _load(tile, running, lanes, columns, state, parameters, width)
        nothing = lanes, orders, start - start, start - start, start - start
        point = 0
        for step in range(start, stop + 1):
            if alive == 0 or signals[1] != 0:
                break
            if point < len(recorded) and recorded[point] == step:
                run_pass(tile, scratch, training, samples, nothing, values[0], network, activation, at_once, width)
                if curves[2].size > 0:
                    run_pass(
                        tile, scratch, validation, samples, nothing, values[1], network, activation, at_once, width
                    )
                _record(tile, running, lanes, values, curves, recorded_from + point, parameters, width)
                point += 1
            if step == stop:
                break
            row, first = (step // per_epoch - first_epoch) % rows, step % per_epoch * batch_size
            batch = lanes, orders, row * n + first, min(batch_size, n - first), rows * n
            run_pass(tile, scratch, training, samples, batch, values[0], network, activation, at_once, width)
            _change(tile, doubt, step == 0, parameters, width)
            alive -= _stop(tile, doubt, running, lanes, step, state, parameters, width)
            signals[0] += len(lanes)
        for lane in range(len(lanes)):
            if running[lane]:
                _store(tile, lane, lanes[lane], state, parameters, width)


@inner()
def _change(tile, doubt, is_first, parameters, width):  # type: ignore[no-untyped-def]
    """Update all parameters; ``doubt`` becomes NaN for trials with a non-finite parameter, else 0."""
    literally(width)
    gradients, buffers, columns = parameters * width, 2 * parameters * width, 3 * parameters * width
    zero = splat(tile.dtype.type(0), width)
    negative_lr, momentum = load(tile, columns, width, 1, width), load(tile, columns + width, width, 1, width)
    weight_decay, undamped = (
        load(tile, columns + 2 * width, width, 1, width),
        load(tile, columns + 3 * width, width, 1, width),
    )
    nesterov = load(tile, columns + 4 * width, width, 1, width) != zero
    has_momentum, has_weight_decay = momentum != zero, weight_decay != zero
    nonfinite = zero
    for at in range(0, parameters * width, width):
        param, buffer = _update(
            load(tile, at, width, 1, width),
            load(tile, gradients + at, width, 1, width),
            load(tile, buffers + at, width, 1, width),
            is_first,
            negative_lr,
            momentum,
            weight_decay,
            undamped,
            has_momentum,
            has_weight_decay,
            nesterov,
        )
        store(tile, at, width, param)
        store(tile, buffers + at, width, buffer)
        nonfinite = nonfinite + (param - param)
    store(doubt, 0, width, nonfinite)


@inner()
def _load(tile, running, lanes, columns, state, parameters, width):  # type: ignore[no-untyped-def]
    """Fill the tile and return how many trials run. Lanes that do not run are zero."""
    params, buffers, stopped = state
    tile[:] = tile.dtype.type(0)
    alive = 0
    for lane in range(width):
        running[lane] = lane < len(lanes) and stopped[lanes[lane]] == NEVER
        if not running[lane]:
            continue
        alive += 1
        trial = lanes[lane]
        for j in range(parameters):
            tile[j * width + lane] = params[trial, j]
            tile[(2 * parameters + j) * width + lane] = buffers[trial, j]
        for c in range(COLUMNS):
            tile[(3 * parameters + c) * width + lane] = columns[c, trial]
    return alive


@inner()
def _store(tile, lane, trial, state, parameters, width):  # type: ignore[no-untyped-def]
    """Write one trial back."""
    params, buffers, _ = state
    for j in range(parameters):
        params[trial, j] = tile[j * width + lane]
        buffers[trial, j] = tile[(2 * parameters + j) * width + lane]


@inner()
def _stop(tile, doubt, running, lanes, step, state, parameters, width):  # type: ignore[no-untyped-def]
    """Write back the trials that this step made non-finite; return how many. Their lanes idle and are not read."""
    count = 0
    for lane in range(len(lanes)):
        if running[lane] and doubt[lane] != doubt.dtype.type(0):
            count += 1
            running[lane] = False
            state[2][lanes[lane]] = step + 1
            _store(tile, lane, lanes[lane], state, parameters, width)
    return count


@inner()
def _record(tile, running, lanes, values, curves, point, parameters, width):  # type: ignore[no-untyped-def]
    """Write the running trials' losses, norms and paths to the curves."""
    loss, squared_norm, validation_loss, path = curves
    for lane in range(len(lanes)):
        if not running[lane]:
            continue
        trial = lanes[lane]
        loss[trial, point] = values[0, lane]
        if validation_loss.size > 0:
            validation_loss[trial, point] = values[1, lane]
        if squared_norm.size > 0:
            total = 0.0
            for j in range(parameters):
                total += np.float64(tile[j * width + lane]) * np.float64(tile[j * width + lane])
            squared_norm[trial, point] = total
        if path.size > 0:
            for j in range(parameters):
                path[trial, point, j] = tile[j * width + lane]
