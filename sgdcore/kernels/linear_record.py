"""Recording of the numba kernel: what a tile keeps at the recorded steps, and how that reaches the curves.

At a recorded step a tile keeps its parameters, no more: a snapshot. A tile's lanes are neighbours in the tile, but rows
apart in the curves: so snapshots are gathered, as many as the cache should hold, and then written group of lanes by
group of lanes: what is written of a trial is contiguous. ``curves`` are loss, squared_norm, validation_loss and path
as in sgdcore.trajectories.Curves, empty where not wanted.
"""

from __future__ import annotations

import numpy as np

from sgdcore.kernels.vectors import GROUP, compiled, load_double, splat, store
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
    values = np.empty((3, len(snapshots), GROUP))
    for group in range(0, len(trials), GROUP):
        for k in range(stop - first):
            _losses(snapshots[k], group, training, values[0, k], parameters, lanes)
            if validation_loss.size > 0:
                _losses(snapshots[k], group, validation, values[1, k], parameters, lanes)
            if squared_norm.size > 0:
                _squared_norms(snapshots[k], group, values[2, k], parameters, lanes)
        for i in range(min(GROUP, len(trials) - group)):
            trial, lane = trials[group + i], group + i
            reached = stop
            while reached > first and stopped[trial] != NEVER and stopped[trial] <= steps[reached - 1]:
                reached -= 1
            for k in range(reached - first):
                loss[trial, offset + first + k] = values[0, k, i]
            if validation_loss.size > 0:
                for k in range(reached - first):
                    validation_loss[trial, offset + first + k] = values[1, k, i]
            if squared_norm.size > 0:
                for k in range(reached - first):
                    squared_norm[trial, offset + first + k] = values[2, k, i]
            if path.size > 0:
                for k in range(reached - first):
                    for j in range(parameters):
                        path[trial, offset + first + k, j] = snapshots[k, j * lanes + lane]
            if reached < stop:
                _blank(curves, trial, offset + reached, offset + stop)


@compiled
def blank(curves, trials, first, last):  # type: ignore[no-untyped-def]
    """NaN at the points that none of the tile's trials reaches."""
    if first < last:
        for trial in trials:
            _blank(curves, trial, first, last)


@compiled
def _blank(curves, trial, first, last):  # type: ignore[no-untyped-def]
    loss, squared_norm, validation_loss, path = curves
    loss[trial, first:last] = np.nan
    if squared_norm.size > 0:
        squared_norm[trial, first:last] = np.nan
    if validation_loss.size > 0:
        validation_loss[trial, first:last] = np.nan
    if path.size > 0:
        path[trial, first:last] = np.nan


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
