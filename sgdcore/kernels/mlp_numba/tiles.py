"""A tile of the numba kernel for perceptrons between passes: fill, update, record, write back.

A tile's numbers are rows of ``width``, row r at [r * width]: P parameters, their gradients, their momentum buffers,
COLUMNS hyperparameters of each group, and the limits of clip_grad_norm and clip_grad_value.

``state`` are params, momentum_buffers, first_nonfinite_step and clipped_steps as in sgdcore.trajectories.State;
``lanes`` are the trials in the tile. ``spans`` are (first, stop, group) of adjacent parameters of one group.
"""

from __future__ import annotations

import numpy as np
from numba import literally, njit

from sgdcore import rule
from sgdcore.kernels.mlp_numba.layers import inner
from sgdcore.kernels.simd.lanes import fma, load, select, splat, store
from sgdcore.trajectories import NEVER

COLUMNS = 5

_update = njit(forceinline=True)(rule.bind(fma, select))


@inner()
def set_rates(tile, sources, lr, momentum, row, parameters, width):  # type: ignore[no-untyped-def]
    """Write a row of learning rates and momenta to the tile; ``sources`` are the columns of its trials."""
    for group in range(lr.shape[1]):
        at = (3 * parameters + group * COLUMNS) * width
        for lane in range(len(sources)):
            tile[at + lane] = -lr[row, group, sources[lane]]
        if momentum.size > 0:
            for lane in range(len(sources)):
                tile[at + width + lane] = momentum[row, group, sources[lane]]


@inner()
def change(tile, doubt, is_first, spans, parameters, width):  # type: ignore[no-untyped-def]
    """Update all parameters; ``doubt`` becomes NaN for trials with a non-finite parameter, else 0."""
    literally(width)
    gradients, buffers = parameters * width, 2 * parameters * width
    zero = splat(tile.dtype.type(0), width)
    nonfinite = zero
    for span in range(len(spans)):
        first, stop, group = spans[span, 0], spans[span, 1], spans[span, 2]
        columns = (3 * parameters + group * COLUMNS) * width
        negative_lr, momentum = load(tile, columns, width, 1, width), load(tile, columns + width, width, 1, width)
        weight_decay, undamped = (
            load(tile, columns + 2 * width, width, 1, width),
            load(tile, columns + 3 * width, width, 1, width),
        )
        nesterov = load(tile, columns + 4 * width, width, 1, width) != zero
        has_momentum, has_weight_decay = momentum != zero, weight_decay != zero
        for at in range(first * width, stop * width, width):
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
def fill(tile, running, lanes, columns, state, parameters, width):  # type: ignore[no-untyped-def]
    """Fill the tile and return how many trials run. Lanes that do not run are zero."""
    params, buffers, stopped, _ = state
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
        for c in range(len(columns)):
            tile[(3 * parameters + c) * width + lane] = columns[c, trial]
    return alive


@inner()
def write_back(tile, lane, trial, state, parameters, width):  # type: ignore[no-untyped-def]
    """Write one trial's parameters and buffers to the state."""
    params, buffers, _, _ = state
    for j in range(parameters):
        params[trial, j] = tile[j * width + lane]
        buffers[trial, j] = tile[(2 * parameters + j) * width + lane]


@inner()
def stop_nonfinite(tile, doubt, running, lanes, step, state, parameters, width):  # type: ignore[no-untyped-def]
    """Write back the trials that this step made non-finite; return how many. Their lanes idle and are not read."""
    count = 0
    for lane in range(len(lanes)):
        if running[lane] and doubt[lane] != doubt.dtype.type(0):
            count += 1
            running[lane] = False
            state[2][lanes[lane]] = step + 1
            write_back(tile, lane, lanes[lane], state, parameters, width)
    return count


@inner()
def record(tile, running, lanes, values, curves, point, spans, weights, width):  # type: ignore[no-untyped-def]
    """Write the running trials' losses, norms and paths to the curves; ``weights`` (G, T) are those of squares."""
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
            for span in range(len(spans)):
                weight = weights[spans[span, 2], trial]
                for j in range(spans[span, 0], spans[span, 1]):
                    param = np.float64(tile[j * width + lane])
                    total += weight * param * param
            squared_norm[trial, point] = total
        if path.size > 0:
            for j in range(path.shape[2]):
                path[trial, point, j] = tile[j * width + lane]
