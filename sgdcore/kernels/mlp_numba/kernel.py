"""The CPU kernel for perceptrons: a tile of trials, one per element of every SIMD vector, compiled by numba.

A tile holds as many trials as a vector has elements. Its weights, momentum buffers, gradients and activations stay in
the core's caches from the segment's first step to its last. No sum crosses a vector, so no bit of a trial depends on
its tile, its position in it, or the thread. Sums are chains of fused multiply-adds in a fixed order and equal torch's
to rounding. The update is sgdcore.rule's.

Sizes, missing biases, parameter groups, schedules and limits of gradients are run-time values: a new shape needs no
compilation; only a new dtype or set of activations does, and batches of one.
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
from sgdcore.compile_cache import CACHED, compiling
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Resources, Segment, group_columns, penalty_weights
from sgdcore.kernels.mlp_numba import clipping as mlp_clipping
from sgdcore.kernels.mlp_numba import layers as mlp_layers
from sgdcore.kernels.mlp_numba import losses as mlp_losses
from sgdcore.kernels.mlp_numba import passes as mlp_passes
from sgdcore.kernels.mlp_numba import tiles as mlp_tiles
from sgdcore.kernels.mlp_numba.clipping import clip
from sgdcore.kernels.mlp_numba.layers import ACTIVATIONS, SUMS
from sgdcore.kernels.mlp_numba.passes import make_scratch, run_pass
from sgdcore.kernels.mlp_numba.tiles import change, fill, record, set_rates, stop_nonfinite, write_back
from sgdcore.kernels.perceptrons import perceptron_of
from sgdcore.kernels.simd import lanes as simd_lanes
from sgdcore.kernels.simd import math as simd_math
from sgdcore.kernels.simd import matmul as simd_matmul
from sgdcore.kernels.simd import memory
from sgdcore.kernels.simd.memory import aligned, or_empty
from sgdcore.rates import Rates
from sgdcore.tasks.losses import LOSSES, Loss
from sgdcore.tasks.networks import Perceptron
from sgdcore.trajectories import Curves, State

VECTOR_BYTES = 64 if get_host_cpu_features().get("avx512f") else 32  # no result depends on it
_SIGNALS = 8  # numbers per range: steps done, summed over trials, and whether to stop; a cache line per thread
_COUNT_SECONDS = 0.25  # between two counts
UNITS_BYTES = 1 << 16  # limit for the activations of the samples processed together

_FILES = [
    str(module.__file__)
    for module in (
        rule,
        simd_lanes,
        simd_matmul,
        simd_math,
        memory,
        mlp_clipping,
        mlp_layers,
        mlp_losses,
        mlp_passes,
        mlp_tiles,
    )
] + [__file__]
_SOURCE = zlib.crc32(b"".join(Path(file).read_bytes() for file in _FILES))  # part of the cache key, as in linear_numba


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step all trials; the threads share their tiles."""
    if not len(hyperparams):
        return
    dtype, threads = problem.features.dtype, resources.threads
    perceptron = perceptron_of(problem.task.model, problem.features.shape[1])
    assert isinstance(perceptron, Perceptron)
    curves.blank(segment.recorded)
    batch = min(segment.batch_size, len(problem.targets))
    at_once = 1 if batch == 1 else SUMS // 4  # samples per block
    width = VECTOR_BYTES // dtype.itemsize
    shape, criterion = np.array(perceptron.widths), problem.task.criterion
    pitch = _pitch(shape, at_once, batch)
    columns = _columns(hyperparams, dtype)
    arguments = (
        np.argsort(segment.order, kind="stable"),  # adjacent trials see the same samples
        segment.order,
        (
            _padded(problem.features, problem.targets, at_once),
            _padded(*(problem.held_out or (problem.features, problem.targets)), at_once),
            np.require(segment.samples, requirements=["C", "W"]).ravel(),
        ),
        (shape, pitch, LOSSES.index(criterion.name), _option(criterion)),
        _rows(perceptron, state.params.shape[1], len(columns)),
        any(ACTIVATIONS[name].kept is not None for name in perceptron.activations),
        (segment.first_epoch, segment.samples.shape[1], segment.batch_size, state.step, segment.stop),
        (curves.steps[segment.recorded], segment.recorded.start),
        columns,
        (bool(hyperparams.is_clipped.any()), bool(np.isfinite(hyperparams.clip_grad_norm).any())),
        _schedule(segment.rates, len(hyperparams)),
        _groups(problem.group_of, hyperparams),
        (state.params, state.momentum_buffers, state.first_nonfinite_step, state.clipped_steps),
        (
            curves.loss,
            or_empty(curves.squared_norm, 2),
            or_empty(curves.validation_loss, 2),
            or_empty(curves.path, 3, dtype),
        ),
    )
    used = sum(1 << list(ACTIVATIONS).index(name) for name in set(perceptron.activations))
    constants = (used, at_once, width, _SOURCE)
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


def _rows(perceptron: Perceptron, parameters: int, columns: int) -> tuple[NDArray[np.int64], int]:
    """Return ``rows`` as in passes, and the rows at the tile's end for layers without a bias.

    Such a layer reads zeros there, and has as many rows for what would be its bias's gradients.
    """
    wanted = [n for n, bias in zip(perceptron.widths[1:], perceptron.biases, strict=True) if bias is None]
    spare, zeros = max(wanted, default=0), 3 * parameters + columns
    activations = [*(list(ACTIVATIONS).index(name) for name in perceptron.activations), -1]
    rows = [
        (weight, parameters + weight, *((zeros, zeros + spare) if bias is None else (bias, parameters + bias)), kind)
        for weight, bias, kind in zip(perceptron.weights, perceptron.biases, activations, strict=True)
    ]
    return np.array(rows, np.int64), 2 * spare


def _option(loss: Loss) -> float:
    """Return the number that the loss depends on, if there is one."""
    return loss.quantile if loss.name == "quantile" else loss.huber_delta


def _padded(features: NDArray[Any], goals: NDArray[Any], at_once: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return features, padded with zeros so that whole blocks can be read, and goals as (n, columns)."""
    padded = np.concatenate([features.ravel(), np.zeros(at_once * features.shape[1], features.dtype)])
    return padded, goals.reshape(len(goals), -1)


def _columns(hyperparams: Hyperparams, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the last rows of a tile, for all trials: each group's hyperparameters, and the limits of gradients."""
    trials = len(hyperparams)
    with np.errstate(over="ignore"):  # a limit that is too large for the dtype is none
        limits = np.array([hyperparams.clip_grad_norm, hyperparams.clip_grad_value], dtype)
    return np.concatenate([group_columns(hyperparams, dtype).reshape(-1, trials), limits])


def _schedule(rates: Rates | None, trials: int) -> tuple[Any, ...]:
    """Return rates in a form for compiled code: lr and momentum are empty if they do not change."""
    if rates is None:
        return or_empty(None, 3), or_empty(None, 3), np.zeros(trials, np.intp), 0, 1
    return rates.lr, or_empty(rates.momentum, 3), rates.which, rates.first_row, rates.steps_per_row


def _groups(group_of: NDArray[np.intp], hyperparams: Hyperparams) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return (first, stop, group) of each run of parameters of one group, and the weights of the groups' squares."""
    firsts = np.flatnonzero(np.diff(group_of, prepend=-1))
    weights = penalty_weights(hyperparams)
    return (
        np.stack([firsts, np.append(firsts[1:], len(group_of)), group_of[firsts]], axis=1),
        np.ones((1, len(hyperparams))) if weights is None else weights,
    )


@cache
def _compiled(argument_types: tuple[Any, ...], constants: tuple[int, ...]) -> Callable[..., None]:
    """Return the kernel compiled for these types and constants."""
    used = " and ".join(name for index, name in enumerate(ACTIVATIONS) if constants[0] >> index & 1)
    with compiling(f"perceptrons with {used}"):
        entry: Callable[..., None] = _run_tiles.compile((*argument_types, *map(types.literal, constants)))
    return entry


@njit(nogil=True, error_model="numpy", cache=CACHED)
def _run_tiles(  # type: ignore[no-untyped-def]
    first_trial,
    stop_trial,
    signals,
    trials,
    orders,
    data,
    network,
    layout,
    keeps,
    plan,
    recording,
    columns,
    clips,
    schedule,
    groups,
    state,
    curves,
    activations,
    at_once,
    width,
    source,
):
    """Step the trials of a range, tile by tile, to the segment's end."""
    literally(activations)
    literally(at_once)
    literally(width)
    literally(source)
    training, validation, samples = data
    first_epoch, rows, batch_size, start, stop = plan
    recorded, recorded_from = recording
    clips, clips_norms = clips
    lr, momentum, which, first_row, steps_per_row = schedule
    spans, weights = groups
    rows_of_layers, spare = layout
    parameters, n = state[0].shape[1], len(training[1])
    per_epoch = (n + batch_size - 1) // batch_size
    limits = 3 * parameters + len(columns) - 2
    tile = aligned((3 * parameters + len(columns) + spare) * width, columns.dtype)
    scratch = make_scratch(columns.dtype, network, training[1].shape[1], keeps, width)
    doubt, values = aligned(width, columns.dtype), np.empty((2, width))
    running = np.zeros(width, np.bool_)
    for base in range(first_trial, stop_trial, width):
        lanes = trials[base : min(base + width, stop_trial)]
        sources = which[lanes]
        alive = fill(tile, running, lanes, columns, state, parameters, width)
        nothing = lanes, orders, start - start, start - start, start - start
        point = 0
        for step in range(start, stop + 1):
            if alive == 0 or signals[1] != 0:
                break
            if point < len(recorded) and recorded[point] == step:
                run_pass(
                    tile,
                    scratch,
                    training,
                    samples,
                    nothing,
                    values[0],
                    network,
                    rows_of_layers,
                    parameters,
                    activations,
                    at_once,
                    width,
                )
                if curves[2].size > 0:
                    run_pass(
                        tile,
                        scratch,
                        validation,
                        samples,
                        nothing,
                        values[1],
                        network,
                        rows_of_layers,
                        parameters,
                        activations,
                        at_once,
                        width,
                    )
                record(tile, running, lanes, values, curves, recorded_from + point, spans, weights, width)
                point += 1
            if step == stop:
                break
            row, first = (step // per_epoch - first_epoch) % rows, step % per_epoch * batch_size
            batch = lanes, orders, row * n + first, min(batch_size, n - first), rows * n
            run_pass(
                tile,
                scratch,
                training,
                samples,
                batch,
                values[0],
                network,
                rows_of_layers,
                parameters,
                activations,
                at_once,
                width,
            )
            if clips:
                clip(tile, doubt, running, lanes, state[3], clips_norms, limits, parameters, width)
            if lr.size > 0 and (step == start or step % steps_per_row == 0):
                set_rates(tile, sources, lr, momentum, step // steps_per_row - first_row, parameters, width)
            change(tile, doubt, step == 0, spans, parameters, width)
            alive -= stop_nonfinite(tile, doubt, running, lanes, step, state, parameters, width)
            signals[0] += len(lanes)
        for lane in range(len(lanes)):
            if running[lane]:
                write_back(tile, lane, lanes[lane], state, parameters, width)
