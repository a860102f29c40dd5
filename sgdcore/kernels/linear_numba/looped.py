"""Steps of models of more than FEW parameters: loops over parameters, loaded from and stored to the cache each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from sgdcore.kernels.linear_numba.forms import BIAS_BITS, BLOCK, MOMENTUM, TRIANGLE, Form
from sgdcore.kernels.linear_numba.qr_blocks import EXTRA
from sgdcore.kernels.linear_numba.stepping import left, note_peaks, places_of, stepped
from sgdcore.kernels.simd.lanes import any_negative, fma, load, splat_like, spread, store


def by_samples(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """Return steps on one or two samples, which process one parameter at a time."""
    features, parameters, batch, _, lanes, width = form.constants
    groups, scheduled = form.groups, form.scheduled
    group_of_bias, kind_of_bias = groups - 1, kind >> BIAS_BITS * (groups - 1)

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
                own = places_of(rates, step, lane, 0, parameters, groups, scheduled, lanes)
                for j in range(features):
                    gradient = slope * spread(data, first * features + j, 1, 1, width)
                    if not single:
                        gradient = gradient + other * spread(data, second * features + j, 1, 1, width)
                    _step_one(arrays, step, gradient, own, j, lane, parameters, lanes, width, kind)
                if parameters > features:
                    gradient = slope if single else slope + other
                    own = places_of(rates, step, lane, group_of_bias, parameters, groups, scheduled, lanes)
                    _step_one(arrays, step, gradient, own, features, lane, parameters, lanes, width, kind_of_bias)
        return source

    return steps


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
    groups, scheduled, room = form.groups, form.scheduled, form.room
    kind_of_bias = kind >> BIAS_BITS

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
                own = places_of(rates, step, lane, 0, parameters, groups, scheduled, lanes)
                stepped_ones = 0
                while stepped_ones < parameters:
                    first = min(stepped_ones, parameters - BLOCK)  # the last block can overlap the previous one
                    at = rows_at + first * BLOCK
                    gradients = spread(data, at, BLOCK, BLOCK, width) * load(fixed, residuals, width, 1, width)
                    for row in range(1, min(rows, first + BLOCK) if batch == TRIANGLE else rows):
                        at = rows_at + row // BLOCK * (columns * BLOCK) + first * BLOCK + row % BLOCK
                        e = load(fixed, residuals + row * width, width, 1, width)
                        gradients = fma(spread(data, at, BLOCK, BLOCK, width), e, gradients)
                    store(fixed, residuals + blocks * BLOCK * width, width, gradients)
                    for j in range(stepped_ones, first + BLOCK):
                        gradient = load(fixed, residuals + (blocks * BLOCK + j - first) * width, width, 1, width)
                        if groups > 1 and j == features:
                            bias = places_of(rates, step, lane, 1, parameters, groups, scheduled, lanes)
                            _step_one(arrays, step, gradient, bias, j, lane, parameters, lanes, width, kind_of_bias)
                        else:
                            _step_one(arrays, step, gradient, own, j, lane, parameters, lanes, width, kind)
                    stepped_ones = first + BLOCK
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
