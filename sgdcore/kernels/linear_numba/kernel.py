"""The CPU kernel for models linear in their parameters: tiles of trials stepped as SIMD vectors, compiled by numba.

A tile holds ``lanes`` trials of one kind: with or without momentum, weight decay, Nesterov. Its step function is
compiled for exactly this kind, model and form of batches (see steps); the driver in this module is compiled once per
dtype. A linear model has two tensors and so one or two parameter groups: all parameters, or features and bias. Every
lane performs exactly the scalar arithmetic of sgdcore.rule: no bit of a trial depends on its tile, lane or thread.

A chunk of up to CHUNK steps runs unchecked. If a parameter is not finite after it, the chunk is stepped again in parts,
down to single steps, and chunks then grow again. A non-finite value never becomes finite again, so none is missed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import literally, njit, types
from numpy.typing import NDArray

from sgdcore.compile_cache import CACHED, compiling
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.base import Problem, Resources, Segment, columns, penalty_weights
from sgdcore.kernels.linear_numba import rate_rows, recording, steps, tiles
from sgdcore.kernels.linear_numba.batches import stretches
from sgdcore.kernels.linear_numba.forms import COLUMNS, CONSTANT, LR, LR_AND_MOMENTUM, kinds_of, limit_columns
from sgdcore.kernels.linear_numba.rate_rows import hold_rates, note_columns, rate_arrays
from sgdcore.kernels.linear_numba.recording import blank, capacity, keep, write
from sgdcore.kernels.linear_numba.steps import call_steps, compile_steps
from sgdcore.kernels.linear_numba.tiles import (
    dampen,
    fill,
    nonfinite,
    prepare_first_step,
    settle,
    stop_lanes,
    write_back,
)
from sgdcore.kernels.simd import memory
from sgdcore.kernels.simd.lanes import GROUP
from sgdcore.kernels.simd.memory import aligned, or_empty
from sgdcore.rates import Rates
from sgdcore.tasks.task import Quadratic
from sgdcore.trajectories import Curves, State

CHUNK = 256  # maximum number of steps between two checks for non-finite values
PART = 8  # a chunk with a non-finite value is repeated in parts of 1/PART

# As in steps: part of the cache key of the functions compiled here.
_FILES = [memory.__file__, rate_rows.__file__, recording.__file__, tiles.__file__, __file__]
_SOURCE = zlib.crc32(b"".join(Path(file).read_bytes() for file in _FILES), steps.SOURCE)


def advance(
    problem: Problem, hyperparams: Hyperparams, state: State, segment: Segment, curves: Curves, resources: Resources
) -> None:
    """Step all trials; the threads share their tiles."""
    assert problem.training is not None
    trials, parameters = state.params.shape
    dtype, recorded = state.params.dtype, segment.recorded
    numbers = list(dict.fromkeys((int(problem.group_of[0]), int(problem.group_of[-1]))))
    groups = [[hyperparams, *hyperparams.groups.values()][number] for number in numbers]
    kinds, order = _by_kind(kinds_of(hyperparams, groups), segment.rates)
    clips = bool(hyperparams.is_clipped.any())
    arrays = (
        np.concatenate(
            [columns(group, dtype)[:COLUMNS] for group in groups] + [limit_columns(hyperparams, dtype)] * clips
        ),
        rate_arrays(segment.rates, numbers, dtype),
        (
            state.params,
            state.momentum_buffers,
            state.direction,
            state.peak,
            state.peak_step,
            state.first_nonfinite_step,
            state.clipped_steps,
        ),
        _form(problem.training),
        _form(problem.validation or problem.training),
        (
            curves.loss,
            or_empty(curves.squared_norm, 2),
            or_empty(curves.validation_loss, 2),
            or_empty(
                None if curves.path is None else curves.path.reshape(trials, len(curves.steps) * parameters), 2, dtype
            ),
        ),
        _penalty(hyperparams, numbers) if curves.squared_norm is not None else np.empty((0, 0)),
    )
    start = state.step
    scheduled = CONSTANT if segment.rates is None else LR if segment.rates.momentum is None else LR_AND_MOMENTUM
    with ThreadPoolExecutor(resources.threads) as pool:
        for batches in stretches(problem, segment, start):
            form = replace(batches.form, groups=len(groups), scheduled=scheduled, clips=clips)
            within = int(np.searchsorted(curves.steps, batches.stop, side="right"))
            points = slice(recorded.start, min(within, recorded.stop))
            recorded = slice(points.stop, recorded.stop)
            common = (
                (order, parameters, form.together, form.lanes, form.fixed, form.rates),
                batches.arrays(ahead=CHUNK),
                (start, batches.stop, batches.origin, _clock(dtype)),
                (curves.steps[points], points.start),
                *arrays,
            )
            run_tiles = _compiled(tuple(map(numba.typeof, (0, 0, 0, *common))))
            start = batches.stop
            jobs = [
                pool.submit(run_tiles, first, stop, compile_steps(form, kind).address, *common, _SOURCE)
                for kind, first, stop in _shares(kinds, form.lanes, resources.threads)
            ]
            for job in jobs:
                job.result()


def _by_kind(kind: NDArray[np.int64], rates: Rates | None) -> tuple[list[tuple[int, int, int]], NDArray[np.int64]]:
    """Return ranges (kind, first, stop) of the trials, and an order that groups trials of one kind and equal rates."""
    order = np.argsort(kind, kind="stable") if rates is None else np.lexsort((rates.which, kind))
    kinds, counts = np.unique(kind, return_counts=True)
    stops = np.cumsum(counts)
    ranges = zip(kinds.tolist(), (stops - counts).tolist(), stops.tolist(), strict=True)
    return list(ranges), order


def _penalty(hyperparams: Hyperparams, groups: list[int]) -> NDArray[np.float64]:
    weights = penalty_weights(hyperparams)
    return np.ones((1, len(hyperparams))) if weights is None else weights[groups]


def _shares(kinds: list[tuple[int, int, int]], lanes: int, threads: int) -> Iterator[tuple[int, int, int]]:
    """Yield ranges of whole tiles: several per thread, to balance the load when trials stop early."""
    trials = sum(stop - first for _, first, stop in kinds)
    share = max(1, -(-trials // (lanes * threads * 8))) * lanes
    for kind, first, stop in kinds:
        for begin in range(first, stop, share):
            yield kind, begin, min(begin + share, stop)


@cache
def _clock(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the step numbers of a chunk, as wide as the parameters."""
    return np.arange(1, CHUNK + 1, dtype=f"int{8 * dtype.itemsize}")


@cache
def _compiled(argument_types: tuple[Any, ...]) -> Callable[..., None]:
    """Return the driver compiled for these types."""
    source = types.literal(_SOURCE)  # type: ignore[no-untyped-call, unused-ignore]
    with compiling("linear models"):
        entry: Callable[..., None] = _run_tiles.compile((*argument_types, source))
    return entry


def _form(quadratic: Quadratic) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    return quadratic.factor, quadratic.centre, quadratic.minimum


# Compiled code; see forms for the memory layout of a tile.


@njit(nogil=True, error_model="numpy", cache=CACHED)
def _run_tiles(  # type: ignore[no-untyped-def]
    first,
    stop,
    address,
    shape,
    batches,
    plan,
    recording,
    columns,
    rates,
    state,
    training,
    validation,
    curves,
    penalty,
    source,
):
    """Step the trials of order[first:stop], tile by tile, to the end of the stretch."""
    literally(source)
    order, parameters, group, lanes, rows, rates_row = shape
    data, targets, table, period = batches
    start, end, origin, clock = plan
    recorded, recorded_from = recording
    dtype, size = state[0].dtype, parameters * lanes
    tile, after = aligned(3 * size, dtype), aligned(3 * size, dtype)
    fixed = aligned(rows * lanes, dtype)
    ticks, counts = aligned(size + lanes, clock.dtype), np.zeros(size + lanes, np.int64)
    ticks[:] = 0
    snapshots = np.empty((capacity(parameters, lanes, len(recorded)), size), dtype)
    running = np.zeros(lanes, np.bool_)
    held, places = np.zeros(2, np.int64), np.empty(len(clock), np.int64)
    sources, shared = np.empty(lanes, np.uintp), np.empty(lanes // GROUP, np.bool_)
    for base in range(first, stop, lanes):
        trials = order[base : min(base + lanes, stop)]
        used = (len(trials) + group - 1) // group * group
        after[:] = dtype.type(0)
        alive = fill(tile, fixed, counts, running, trials, columns, state, parameters, lanes)
        if start == 0 and end > 0:
            prepare_first_step(tile, fixed, columns, parameters, lanes)
        step, length, point, written = start, CHUNK, 0, 0
        held[1] = 0
        if len(rates[0]) > 0:
            note_columns(sources, shared, rates[2], trials)
        if alive > 0 and len(recorded) > 0 and recorded[0] == start:
            keep(tile, snapshots[0])
            point = 1
        while True:
            ended = alive == 0 or step >= end
            if ended or point - written == len(snapshots):
                write(
                    curves,
                    snapshots,
                    trials,
                    recorded,
                    recorded_from,
                    written,
                    point,
                    state[5],
                    training,
                    validation,
                    penalty,
                    parameters,
                    lanes,
                )
                written = point
            if ended:
                break
            until = min(step + length, end) if step > 0 else 1
            source_tile, at, seen = tile, step, point
            while at < until:
                to = min(until, recorded[seen]) if seen < len(recorded) else until
                if len(rates[0]) > 0:
                    to = hold_rates(fixed, held, places, at, to, rates, rates_row * lanes, sources, shared, running)
                done = at - step
                arrays = (
                    source_tile.ctypes.data,
                    after.ctypes.data,
                    ticks.ctypes.data,
                    fixed.ctypes.data,
                    data.ctypes.data,
                    targets.ctypes.data,
                    table.ctypes.data + ((step - origin) % period + done) * table.shape[1] * table.itemsize,
                    clock.ctypes.data + done * clock.itemsize,
                    places.ctypes.data,
                )
                call_steps(address, arrays, (to - at, used))
                source_tile, at = after, to
                if seen < len(recorded) and recorded[seen] == at:
                    keep(after, snapshots[seen - written])
                    seen += 1
                    if seen - written == len(snapshots):
                        until = at
            if nonfinite(after, size):
                if until - step > 1:  # repeat from here with fewer steps
                    ticks[:] = 0
                    length = max(1, length // PART)
                    continue
                alive -= stop_lanes(
                    tile, after, ticks, fixed, columns, counts, running, trials, step, state, parameters, lanes
                )
                held[1] = 0  # the rates of the lanes that stopped become 0
            length = min(2 * length, CHUNK)  # neighbours of diverging trials often diverge too
            settle(ticks, counts, step, size)
            if step == 0:
                dampen(fixed, trials, columns, running, parameters, lanes)
            tile, after = after, tile
            step, point = until, seen
        blank(curves, trials, recorded_from + point, recorded_from + len(recorded), parameters)
        for lane in range(len(trials)):
            if running[lane]:
                write_back(tile, tile, counts, lane, trials[lane], state, parameters, lanes)
