"""Tiles of the numba kernel between chunks: fill, check, stop lanes, write back.

See forms for the memory layout of a tile. ``state`` are params, momentum_buffers, direction, peak, peak_step,
first_nonfinite_step and clipped_steps as in sgdcore.trajectories.State; ``trials`` are the trials in the tile, lane by
lane. ``columns`` are the COLUMNS hyperparameters of each group, then the LIMITS of gradients if any are clipped.
``counts`` are the steps that reached the peaks, as ``ticks``, but counted from the start of the run; then the steps
whose gradients were clipped since the tile was filled.
"""

from __future__ import annotations

import numpy as np

from sgdcore.kernels.linear_numba.forms import COLUMNS
from sgdcore.kernels.simd.lanes import compiled
from sgdcore.trajectories import NEVER

UNDAMPED = 3  # the column 1 - dampening of a group


@compiled
def nonfinite(tile, size):  # type: ignore[no-untyped-def]
    """Return whether any parameter of the tile is not finite."""
    zero = tile.dtype.type(0)
    count = 0
    for i in range(size):
        count += tile[i] - tile[i] != zero
    return count > 0


@compiled
def settle(ticks, counts, step, size):  # type: ignore[no-untyped-def]
    """Date the new peaks, of ``size`` parameters, add the clipped steps and reset the ticks."""
    for i in range(size):
        counts[i] = step + ticks[i] if ticks[i] > 0 else counts[i]
    for i in range(size, len(ticks)):
        counts[i] += ticks[i]
    ticks[:] = 0


@compiled
def fill(tile, fixed, counts, running, trials, columns, state, parameters, lanes):  # type: ignore[no-untyped-def]
    """Fill the tile with the trials and return how many run. Idle lanes are zero and stay zero."""
    params, buffers, direction, peak, steps, stopped, _ = state
    zero = tile.dtype.type(0)
    tile[:] = zero
    fixed[:] = zero
    running[:] = False
    counts[parameters * lanes :] = 0
    for c in range(len(columns) - len(columns) % COLUMNS, len(columns)):
        fixed[(parameters + c) * lanes : (parameters + c + 1) * lanes] = np.inf
    alive = 0
    for lane in range(len(trials)):
        trial = trials[lane]
        if stopped[trial] != NEVER:
            continue
        running[lane] = True
        alive += 1
        for j in range(parameters):
            at, towards = j * lanes + lane, direction[trial, j]
            tile[at] = params[trial, j]
            tile[parameters * lanes + at] = buffers[trial, j]
            # A parameter that starts on its target has no direction: a peak of infinity is never exceeded.
            tile[2 * parameters * lanes + at] = peak[trial, j] * towards if towards != zero else tile.dtype.type(np.inf)
            fixed[at] = -zero if towards < zero else zero
            counts[at] = steps[trial, j]
        for c in range(len(columns)):
            fixed[(parameters + c) * lanes + lane] = columns[c, trial]
    return alive


@compiled
def prepare_first_step(tile, fixed, columns, parameters, lanes):  # type: ignore[no-untyped-def]
    """Make buf <- g a regular step: momentum * -0 + 1 * g is g, including the sign of zero."""
    size = parameters * lanes
    tile[size : 2 * size] = -tile.dtype.type(0)
    for c in range(UNDAMPED, len(columns), COLUMNS):
        undamped = (parameters + c) * lanes
        fixed[undamped : undamped + lanes] = tile.dtype.type(1)


@compiled
def dampen(fixed, trials, columns, running, parameters, lanes):  # type: ignore[no-untyped-def]
    """Restore 1 - dampening after the first step."""
    for c in range(UNDAMPED, len(columns), COLUMNS):
        for lane in range(lanes):
            fixed[(parameters + c) * lanes + lane] = columns[c, trials[lane]] if running[lane] else fixed.dtype.type(0)


@compiled
def write_back(tile, peaks, counts, lane, trial, state, parameters, lanes):  # type: ignore[no-untyped-def]
    """Write one lane back: parameters and buffers from the tile, peaks from ``peaks`` (the tile or an earlier one)."""
    params, buffers, direction, peak, steps, _, clipped = state
    for j in range(parameters):
        at = j * lanes + lane
        params[trial, j] = tile[at]
        buffers[trial, j] = tile[parameters * lanes + at]
        if direction[trial, j] != 0:
            peak[trial, j] = peaks[2 * parameters * lanes + at] * direction[trial, j]
        steps[trial, j] = counts[at]
    clipped[trial] += counts[parameters * lanes + lane]


@compiled
def stop_lanes(before, tile, ticks, fixed, columns, counts, running, trials, step, state, parameters, lanes):  # type: ignore[no-untyped-def]
    """Write back and idle the lanes that this step made non-finite; return how many.

    An idle lane stays at p = 0, where the gradient itself can overflow: it is reset to zero and not counted.
    """
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
            state[5][trials[lane]] = step + 1
            counts[parameters * lanes + lane] += ticks[parameters * lanes + lane]
            write_back(tile, before, counts, lane, trials[lane], state, parameters, lanes)
        for row in range(3 * parameters):
            tile[row * lanes + lane] = zero
        for row in range(parameters + len(columns)):
            fixed[row * lanes + lane] = zero
        for row in range(len(columns) - len(columns) % COLUMNS, len(columns)):
            fixed[(parameters + row) * lanes + lane] = np.inf
        for row in range(parameters + 1):
            ticks[row * lanes + lane] = 0
    return count
