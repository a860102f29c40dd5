"""Steps of models of more than FEW parameters: loops over parameters, loaded from and stored to the cache each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from sgdcore.kernels.linear_numba.forms import BIAS_BITS, BLOCK, CLIPS, MOMENTUM, NORM, TRIANGLE, Form
from sgdcore.kernels.linear_numba.qr_blocks import EXTRA
from sgdcore.kernels.linear_numba.stepping import (
    at_most_one,
    clipped_some,
    left,
    note_peaks,
    places_of,
    ratio_of,
    stepped,
)
from sgdcore.kernels.simd.clipping import count_where
from sgdcore.kernels.simd.lanes import any_negative, fma, load, splat_like, spread, store


def by_samples(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """Return steps on one or two samples, which process one parameter at a time."""
    features, parameters, batch, _, lanes, width = form.constants
    groups, scheduled = form.groups, form.scheduled
    group_of_bias, kind_of_bias = groups - 1, kind >> BIAS_BITS * (groups - 1)
    limits, counts = form.limits * lanes, parameters * lanes

    def steps(tile, after, ticks, fixed, data, targets, places, clock, rates, count, used):  # type: ignore[no-untyped-def]
        arrays = after, ticks, fixed, clock
        _carry_over(tile, after, parameters, lanes)
        for lane in range(0, used, width):
            for step in range(np.uintp(count)):
                first, second = places[step * batch], places[step * batch + batch - 1]
                single = batch == 1 or second < 0
                scale = splat_like(data, 2 if single else 1, width)
                slope = scale * _residual(after, lane, data, targets, first, features, parameters, lanes, width)
                other = slope
                if not single:
                    other = scale * _residual(after, lane, data, targets, second, features, parameters, lanes, width)
                of_bias = slope if single else slope + other
                ratio = splat_like(fixed, 1, width)
                if kind & NORM:
                    squares = of_bias * of_bias if parameters > features else splat_like(fixed, 0, width)
                    for j in range(features):
                        gradient = _gradient(slope, other, data, first, second, j, features, single, width)
                        squares = fma(gradient, gradient, squares)
                    ratio = ratio_of(squares, fixed, limits + lane, lanes, width)
                factor = at_most_one(ratio, fixed, width)
                own = places_of(rates, step, lane, 0, parameters, groups, scheduled, lanes)
                for j in range(features):
                    gradient = _gradient(slope, other, data, first, second, j, features, single, width)
                    ratio, gradient = clipped_some(gradient, factor, ratio, fixed, limits + lane, lanes, width, kind)
                    _step_one(arrays, step, gradient, own, j, lane, parameters, lanes, width, kind)
                if parameters > features:
                    ratio, gradient = clipped_some(of_bias, factor, ratio, fixed, limits + lane, lanes, width, kind)
                    own = places_of(rates, step, lane, group_of_bias, parameters, groups, scheduled, lanes)
                    _step_one(arrays, step, gradient, own, features, lane, parameters, lanes, width, kind_of_bias)
                if kind & CLIPS:
                    count_where(ticks, counts + lane, splat_like(fixed, 1, width) > ratio)
        return source

    return steps


@njit(forceinline=True)
def _gradient(slope, other, data, first, second, j, features, single, width):  # type: ignore[no-untyped-def]
    """Return the gradient of feature j."""
    gradient = slope * spread(data, first * features + j, 1, 1, width)
    if not single:
        gradient = gradient + other * spread(data, second * features + j, 1, 1, width)
    return gradient


@njit(forceinline=True)
def _residual(after, lane, data, targets, sample, features, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """Return x p - y for one sample."""
    x = sample * features
    prediction = spread(data, x, 1, 1, width) * load(after, lane, lanes, 1, width)
    for j in range(1, features):
        prediction = prediction + spread(data, x + j, 1, 1, width) * load(after, j * lanes + lane, lanes, 1, width)
    if parameters > features:
        prediction = prediction + load(after, features * lanes + lane, lanes, 1, width)
    return prediction - spread(targets, sample, 1, 1, width)


def by_rows(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """Return steps by matrix products in registers: the residuals of BLOCK rows, the gradients of BLOCK parameters."""
    features, parameters, batch, rows, lanes, width = form.constants
    groups, scheduled, room, clips = form.groups, form.scheduled, form.room, kind & CLIPS != 0
    limits, counts = form.limits * lanes, parameters * lanes

    def steps(tile, after, ticks, fixed, data, targets, places, clock, rates, count, used):  # type: ignore[no-untyped-def]
        arrays = after, ticks, fixed, clock
        columns, blocks, residuals = parameters + EXTRA, (rows + BLOCK - 1) // BLOCK, room * lanes
        _carry_over(tile, after, parameters, lanes)
        for lane in range(0, used, width):
            for step in range(np.uintp(count)):
                rows_at = places[step] * (blocks * columns * BLOCK)
                for block in range(blocks):
                    begin = rows_at + block * (columns * BLOCK)
                    first = block * BLOCK if batch == TRIANGLE else 0
                    e = _column(data, begin, first, width) * load(after, first * lanes + lane, lanes, 1, width)
                    for k in range(first + 1, parameters):
                        e = fma(_column(data, begin, k, width), load(after, k * lanes + lane, lanes, 1, width), e)
                    e = e - _column(data, begin, parameters, width)  # last, because the two cancel
                    e = e * _column(data, begin, parameters + 1, width)
                    store(fixed, residuals + block * BLOCK * width, width, e)
                done = 0
                while done < parameters:
                    first = min(done, parameters - BLOCK)  # the last block can overlap the previous one
                    at = rows_at + first * BLOCK
                    gradients = spread(data, at, BLOCK, BLOCK, width) * load(fixed, residuals, width, 1, width)
                    for row in range(1, min(rows, first + BLOCK) if batch == TRIANGLE else rows):
                        at = rows_at + row // BLOCK * (columns * BLOCK) + first * BLOCK + row % BLOCK
                        e = load(fixed, residuals + row * width, width, 1, width)
                        gradients = fma(spread(data, at, BLOCK, BLOCK, width), e, gradients)
                    held = residuals + (blocks * BLOCK + (first if clips else 0)) * width
                    store(fixed, held, width, gradients)
                    if not clips:
                        for j in range(done, first + BLOCK):
                            gradient = load(fixed, held + (j - first) * width, width, 1, width)
                            _step_of_group(
                                arrays,
                                rates,
                                step,
                                gradient,
                                j,
                                lane,
                                features,
                                parameters,
                                groups,
                                scheduled,
                                lanes,
                                width,
                                kind,
                            )
                    done = first + BLOCK
                if clips:
                    held = residuals + blocks * BLOCK * width
                    ratio = splat_like(fixed, 1, width)
                    if kind & NORM:
                        squares = splat_like(fixed, 0, width)
                        for j in range(parameters):
                            gradient = load(fixed, held + j * width, width, 1, width)
                            squares = fma(gradient, gradient, squares)
                        ratio = ratio_of(squares, fixed, limits + lane, lanes, width)
                    factor = at_most_one(ratio, fixed, width)
                    for j in range(parameters):
                        gradient = load(fixed, held + j * width, width, 1, width)
                        ratio, gradient = clipped_some(
                            gradient, factor, ratio, fixed, limits + lane, lanes, width, kind
                        )
                        _step_of_group(
                            arrays,
                            rates,
                            step,
                            gradient,
                            j,
                            lane,
                            features,
                            parameters,
                            groups,
                            scheduled,
                            lanes,
                            width,
                            kind,
                        )
                    count_where(ticks, counts + lane, splat_like(fixed, 1, width) > ratio)
        return source

    return steps


@njit(forceinline=True)
def _column(data, begin, k, width):  # type: ignore[no-untyped-def]
    """Return column k of the block of rows at ``begin``."""
    return spread(data, begin + k * BLOCK, 1, BLOCK, width)


@njit(forceinline=True)
def _carry_over(tile, after, parameters, lanes):  # type: ignore[no-untyped-def]
    """Copy ``tile`` to ``after`` before the first step."""
    for i in range(3 * parameters * lanes):
        after[i] = tile[i]


@njit(forceinline=True)
def _step_of_group(  # type: ignore[no-untyped-def]
    arrays, rates, step, gradient, j, lane, features, parameters, groups, scheduled, lanes, width, kind
):
    """Step parameter j with the hyperparameters of its group."""
    if groups > 1 and j == features:
        own = places_of(rates, step, lane, 1, parameters, groups, scheduled, lanes)
        _step_one(arrays, step, gradient, own, j, lane, parameters, lanes, width, kind >> BIAS_BITS)
    else:
        own = places_of(rates, step, lane, 0, parameters, groups, scheduled, lanes)
        _step_one(arrays, step, gradient, own, j, lane, parameters, lanes, width, kind)


@njit(forceinline=True)
def _step_one(arrays, step, gradient, places, j, lane, parameters, lanes, width, kind):  # type: ignore[no-untyped-def]
    """Step parameter j in ``after`` and update its peak."""
    after, ticks, fixed, clock = arrays
    length, at = parameters * lanes, j * lanes + lane
    param, buffer = load(after, at, lanes, 1, width), load(after, length + at, lanes, 1, width)
    param, buffer = stepped(param, gradient, buffer, fixed, places, lanes, width, kind)
    store(after, at, lanes, param)
    if kind & MOMENTUM:
        store(after, length + at, lanes, buffer)
    if any_negative(left(param, after, fixed, at, length, 1, lanes, width)):
        note_peaks(param, after, ticks, fixed, clock, step, at, 1, parameters, lanes, width)
