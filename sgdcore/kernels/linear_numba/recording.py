"""Recording in the numba kernel: what a tile keeps at the recorded steps, and how it is written to the curves.

At a recorded step a tile keeps only its parameters: a snapshot. A tile's lanes are neighbours in the tile, but rows
apart in the curves. So snapshots are collected, as many as fit in the cache, and then written one group of lanes at a
time, so that the values of a trial are written contiguously. ``curves`` are loss, squared_norm, validation_loss and
path as in sgdcore.trajectories.Curves, the path as (T, K * P); arrays that are not recorded are empty. ``penalty`` are
the weights of squared_norm, one row for all parameters, or one for the features and one for the bias.
"""

from __future__ import annotations

import numpy as np

from sgdcore.kernels.simd.lanes import GROUP, compiled, load, load_double, splat, store, transposed
from sgdcore.trajectories import NEVER

SNAPSHOT_BYTES = 1 << 18  # bytes of snapshots that a tile collects
SQUARE = 8  # size of the blocks of trials and points that are transposed: vectors of float64


@compiled
def capacity(parameters, lanes, recorded):  # type: ignore[no-untyped-def]
    """Return the number of snapshots that a tile collects."""
    return max(1, min(recorded, SNAPSHOT_BYTES // (4 * parameters * lanes)))


@compiled
def keep(tile, snapshot):  # type: ignore[no-untyped-def]
    """Keep every lane's parameters."""
    for i in range(len(snapshot)):
        snapshot[i] = tile[i]


@compiled
def write(  # type: ignore[no-untyped-def]
    curves, snapshots, trials, steps, offset, first, stop, stopped, training, validation, penalty, parameters, lanes
):
    """Write points first:stop of the tile to the curves, from column ``offset`` on; NaN after a trial stopped."""
    loss, squared_norm, validation_loss, path = curves
    points = stop - first
    kinds = 3 if squared_norm.size > 0 else 2 if validation_loss.size > 0 else 1
    values, of_trials = np.empty((kinds * points, GROUP)), np.empty((GROUP, kinds * points))
    rows = np.empty((points * parameters, GROUP), snapshots.dtype)
    paths = np.empty((GROUP, points * parameters), snapshots.dtype)
    weights = np.zeros((2, GROUP))
    for group in range(0, len(trials), GROUP):
        if squared_norm.size > 0:
            for lane in range(min(GROUP, len(trials) - group)):
                weights[0, lane] = penalty[0, trials[group + lane]]
                weights[1, lane] = penalty[-1, trials[group + lane]]
        for k in range(points):
            at = k * parameters * lanes + group
            _losses(snapshots, at, training, values, k * GROUP, parameters, lanes)
            if validation_loss.size > 0:
                _losses(snapshots, at, validation, values, (points + k) * GROUP, parameters, lanes)
            if squared_norm.size > 0:
                _squared_norms(snapshots, at, weights, values, (2 * points + k) * GROUP, parameters, lanes)
            if path.size > 0:
                for j in range(parameters):
                    row = load(snapshots, at + j * lanes, lanes, 1, GROUP)
                    store(rows, (k * parameters + j) * GROUP, GROUP, row)
        _by_trial(values, of_trials)
        if path.size > 0:
            _by_trial(rows, paths)
        for i in range(min(GROUP, len(trials) - group)):
            trial, begin = trials[group + i], offset + first
            reached = stop
            while reached > first and stopped[trial] != NEVER and stopped[trial] <= steps[reached - 1]:
                reached -= 1
            at, to, count = i * kinds * points, trial * loss.shape[1] + begin, reached - first
            _copy(of_trials, at, loss, to, count)
            if validation_loss.size > 0:
                _copy(of_trials, at + points, validation_loss, to, count)
            if squared_norm.size > 0:
                _copy(of_trials, at + 2 * points, squared_norm, to, count)
            if path.size > 0:
                _copy(paths, i * points * parameters, path, to * parameters, count * parameters)
            if reached < stop:
                _blank(curves, trial, begin + count, offset + stop, parameters)


@compiled
def _by_trial(rows, columns):  # type: ignore[no-untyped-def]
    """Return the transpose of rows of GROUP lanes, in blocks of SQUARE."""
    count = len(rows)
    whole = count // SQUARE * SQUARE
    for row in range(0, whole, SQUARE):
        for lane in range(0, GROUP, SQUARE):
            square = transposed(load(rows, row * GROUP + lane, GROUP, SQUARE, SQUARE))
            store(columns, lane * count + row, count, square)
    for row in range(whole, count):
        for lane in range(GROUP):
            store(columns, lane * count + row, 1, load(rows, row * GROUP + lane, 1, 1, 1))


@compiled
def _copy(values, first, curve, to, count):  # type: ignore[no-untyped-def]
    """Copy ``count`` values starting at ``first`` to the curve starting at index ``to``."""
    whole = count // SQUARE * SQUARE
    for k in range(0, whole, SQUARE):
        store(curve, to + k, 1, load(values, first + k, 1, 1, SQUARE))
    for k in range(whole, count):
        store(curve, to + k, 1, load(values, first + k, 1, 1, 1))


@compiled
def blank(curves, trials, first, last, parameters):  # type: ignore[no-untyped-def]
    """Write NaN at the points that none of the tile's trials reaches."""
    if first < last:
        for trial in trials:
            _blank(curves, trial, first, last, parameters)


@compiled
def _blank(curves, trial, first, last, parameters):  # type: ignore[no-untyped-def]
    loss, squared_norm, validation_loss, path = curves
    loss[trial, first:last] = np.nan
    if squared_norm.size > 0:
        squared_norm[trial, first:last] = np.nan
    if validation_loss.size > 0:
        validation_loss[trial, first:last] = np.nan
    if path.size > 0:
        path[trial, first * parameters : last * parameters] = np.nan


@compiled
def _losses(snapshots, first, form, losses, to, parameters, lanes):  # type: ignore[no-untyped-def]
    """Compute minimum + |factor p - centre|^2 of a group of lanes, in float64; the factor is upper triangular."""
    factor, centre, minimum = form
    loss = splat(minimum, GROUP)
    for i in range(factor.shape[0]):
        reached = splat(-centre[i], GROUP)
        for j in range(i, parameters):
            reached = reached + splat(factor[i, j], GROUP) * load_double(snapshots, j * lanes + first, GROUP)
        loss = loss + reached * reached
    store(losses, to, GROUP, loss)


@compiled
def _squared_norms(snapshots, first, weights, norms, to, parameters, lanes):  # type: ignore[no-untyped-def]
    """Compute the weighted |p|^2 of a group of lanes, in float64; the last parameter has the second row of weights."""
    norm = splat(0.0, GROUP)
    for j in range(parameters):
        value = load_double(snapshots, j * lanes + first, GROUP)
        norm = norm + load(weights, GROUP if j == parameters - 1 else 0, GROUP, 1, GROUP) * value * value
    store(norms, to, GROUP, norm)
