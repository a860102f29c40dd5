"""Recording of the numba kernel: what a tile gathers at the recorded steps, and how that reaches the curves.

A tile's lanes are neighbours in the tile, but rows apart in the curves, so a few points are gathered first: then what
is written of a trial is contiguous. ``curves`` are loss, squared_norm, validation_loss and path as in
sgdcore.trajectories.Curves, empty where not wanted; ``points`` are (3, POINTS, lanes) values of the first three, and
(POINTS, parameters * lanes) parameters, or (POINTS, 0).
"""

from __future__ import annotations

import numpy as np
from numba import literally

from sgdcore.kernels.vectors import compiled, load_double, splat, store

POINTS = 8  # recorded points that a tile gathers
DOUBLES = 16  # lanes whose values, in float64, are evaluated together


@compiled
def record(tile, running, alive, k, training, validation, curves, points, parameters, lanes):  # type: ignore[no-untyped-def]
    """Keep every lane's values as point k of ``points``; NaN where a lane does not run."""
    literally(parameters)
    literally(lanes)
    values, paths = points
    _losses(tile, training, values[0, k], parameters, lanes)
    if curves[1].size > 0:
        _squared_norms(tile, values[1, k], parameters, lanes)
    if curves[2].size > 0:
        _losses(tile, validation, values[2, k], parameters, lanes)
    if curves[3].size > 0:
        paths[k] = tile[: parameters * lanes]
    if alive < lanes:
        for lane in range(lanes):
            if not running[lane]:
                values[:, k, lane] = np.nan
                for at in range(lane, paths.shape[1], lanes):
                    paths[k, at] = np.nan


@compiled
def write(curves, points, base, width, first, count, parameters, lanes):  # type: ignore[no-untyped-def]
    """Write ``count`` points of the tile to the curves, from point ``first`` on, trial by trial."""
    literally(parameters)
    literally(lanes)
    values, paths = points
    for curve, rows in zip(curves[:3], values):  # noqa: B905 (numba knows no strict)
        if curve.size > 0:
            for lane in range(width):
                for k in range(count):
                    curve[base + lane, first + k] = rows[k, lane]
    if curves[3].size > 0:
        for lane in range(width):
            for k in range(count):
                for j in range(parameters):
                    curves[3][base + lane, first + k, j] = paths[k, j * lanes + lane]


@compiled
def blank(curves, base, width, first, last):  # type: ignore[no-untyped-def]
    """NaN at the points that none of the tile's trials reaches."""
    loss, squared_norm, validation_loss, path = curves
    for trial in range(base, base + width):
        loss[trial, first:last] = np.nan
        if squared_norm.size > 0:
            squared_norm[trial, first:last] = np.nan
        if validation_loss.size > 0:
            validation_loss[trial, first:last] = np.nan
        if path.size > 0:
            path[trial, first:last] = np.nan


@compiled
def _losses(tile, form, losses, parameters, lanes):  # type: ignore[no-untyped-def]
    """minimum + |factor p - centre|^2 of every lane, in float64; the factor is upper triangular."""
    literally(parameters)
    literally(lanes)
    factor, centre, minimum = form
    for lane in range(0, lanes, DOUBLES):
        loss = splat(minimum, DOUBLES)
        for i in range(factor.shape[0]):
            reached = splat(-centre[i], DOUBLES)
            for j in range(i, parameters):
                reached = reached + splat(factor[i, j], DOUBLES) * load_double(tile, j * lanes + lane, DOUBLES)
            loss = loss + reached * reached
        store(losses, lane, lanes, loss)


@compiled
def _squared_norms(tile, norms, parameters, lanes):  # type: ignore[no-untyped-def]
    """|p|^2 of every lane, in float64."""
    literally(parameters)
    literally(lanes)
    for lane in range(0, lanes, DOUBLES):
        norm = splat(0.0, DOUBLES)
        for j in range(parameters):
            value = load_double(tile, j * lanes + lane, DOUBLES)
            norm = norm + value * value
        store(norms, lane, lanes, norm)
