"""Recording of the numba kernel: what a tile keeps at the recorded steps, and how that reaches the curves.

At a recorded step a tile keeps its parameters, no more: a snapshot. A tile's lanes are neighbours in the tile, but rows
apart in the curves: so snapshots are gathered, as many as the cache should hold, and then written group of lanes by
group of lanes: what is written of a trial is contiguous. ``curves`` are loss, squared_norm, validation_loss and path
as in sgdcore.trajectories.Curves, the path (T, K * P), empty where not wanted.
"""

from __future__ import annotations

import numpy as np

from sgdcore.kernels.vectors import GROUP, compiled, load, load_double, splat, store
from sgdcore.trajectories import NEVER

SNAPSHOT_BYTES = 1 << 18  # that a tile gathers


@compiled
def capacity(parameters, lanes, recorded):  # type: ignore[no-untyped-def]
    """Snapshots that a tile gathers."""
    return max(1, min(recorded, SNAPSHOT_BYTES // (4 * parameters * lanes)))


@compiled
def keep(tile, snapshot):  # type: ignore[no-untyped-def]
    """Keep every lane's parameters."""
    for i in range(len(snapshot)):
        snapshot[i] = tile[i]


@compiled
def write(  # type: ignore[no-untyped-def]
    curves, snapshots, trials, steps, offset, first, stop, stopped, training, validation, parameters, lanes
):
    """Write points first:stop of the tile to the curves, from column ``offset`` on; NaN where a trial had stopped."""
    loss, squared_norm, validation_loss, path = curves
    points = stop - first
    values, rows = np.empty((3, points, GROUP)), np.empty((points * parameters, GROUP), snapshots.dtype)
    for group in range(0, len(trials), GROUP):
        for k in range(points):
            _losses(snapshots[k], group, training, values[0, k], parameters, lanes)
            if validation_loss.size > 0:
                _losses(snapshots[k], group, validation, values[1, k], parameters, lanes)
            if squared_norm.size > 0:
                _squared_norms(snapshots[k], group, values[2, k], parameters, lanes)
            if path.size > 0:
                for j in range(parameters):
                    row = load(snapshots[k], j * lanes + group, lanes, 1, GROUP)
                    store(rows, (k * parameters + j) * GROUP, GROUP, row)
        for i in range(min(GROUP, len(trials) - group)):
            trial, begin = trials[group + i], offset + first
            reached = stop
            while reached > first and stopped[trial] != NEVER and stopped[trial] <= steps[reached - 1]:
                reached -= 1
            end = offset + reached
            _write_lane(loss[trial, begin:end], values[0], i)
            if validation_loss.size > 0:
                _write_lane(validation_loss[trial, begin:end], values[1], i)
            if squared_norm.size > 0:
                _write_lane(squared_norm[trial, begin:end], values[2], i)
            if path.size > 0:
                _write_lane(path[trial, begin * parameters : end * parameters], rows, i)
            if reached < stop:
                _blank(curves, trial, end, offset + stop, parameters)


@compiled
def _write_lane(curve, rows, lane):  # type: ignore[no-untyped-def]
    """One trial's curve from its lane of the rows."""
    for k in range(len(curve)):
        curve[k] = rows[k, lane]


@compiled
def blank(curves, trials, first, last, parameters):  # type: ignore[no-untyped-def]
    """NaN at the points that none of the tile's trials reaches."""
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
def _losses(snapshot, first, form, losses, parameters, lanes):  # type: ignore[no-untyped-def]
    """minimum + |factor p - centre|^2 of a group of lanes, in float64; the factor is upper triangular."""
    factor, centre, minimum = form
    loss = splat(minimum, GROUP)
    for i in range(factor.shape[0]):
        reached = splat(-centre[i], GROUP)
        for j in range(i, parameters):
            reached = reached + splat(factor[i, j], GROUP) * load_double(snapshot, j * lanes + first, GROUP)
        loss = loss + reached * reached
    store(losses, 0, GROUP, loss)


@compiled
def _squared_norms(snapshot, first, norms, parameters, lanes):  # type: ignore[no-untyped-def]
    """|p|^2 of a group of lanes, in float64."""
    norm = splat(0.0, GROUP)
    for j in range(parameters):
        value = load_double(snapshot, j * lanes + first, GROUP)
        norm = norm + value * value
    store(norms, 0, GROUP, norm)
