"""The parts of a step that all step functions share: where its rates are, the update rule, clipping, and the peaks."""

from __future__ import annotations

from numba import njit

from sgdcore import rule
from sgdcore.kernels.linear_numba.forms import COLUMNS, CONSTANT, DAMPENING, DECAY, LR, MOMENTUM, NESTEROV, NORM, VALUE
from sgdcore.kernels.simd.clipping import any_beyond, coefficient, count_where, largest, limited, squared_norm
from sgdcore.kernels.simd.lanes import fma, load, merged, select, splat_like, spread, store_where

_update = njit(forceinline=True)(rule.bind(fma, select))


@njit(forceinline=True)
def places_of(rates, step, lane, group, parameters, groups, scheduled, lanes):  # type: ignore[no-untyped-def]
    """Return where a group's -lr, momentum, weight_decay and 1 - dampening are in ``fixed`` at a step."""
    own = (parameters + COLUMNS * group) * lanes + lane
    lr, momentum = own, own + lanes
    if scheduled != CONSTANT:
        lr = rates[step] + group * lanes + lane
        if scheduled != LR:
            momentum = lr + groups * lanes
    return lr, momentum, own + 2 * lanes, own + 3 * lanes


@njit(forceinline=True)
def stepped(params, gradients, buffers, fixed, places, lanes, width, kind):  # type: ignore[no-untyped-def]
    """Return parameters and buffers after a step; a first step is one from buffers of -0 without dampening."""
    lr, momentum, weight_decay, undamped = places
    new_params, new_buffers = _update(
        params,
        gradients,
        buffers,
        False,
        load(fixed, lr, lanes, 1, width),
        load(fixed, momentum, lanes, 1, width),
        load(fixed, weight_decay, lanes, 1, width),
        load(fixed, undamped, lanes, 1, width) if kind & DAMPENING else splat_like(fixed, 1, width),
        kind & MOMENTUM != 0,
        kind & DECAY != 0,
        kind & NESTEROV != 0,
    )
    return new_params, select(kind & MOMENTUM != 0, new_buffers, buffers)


@njit(forceinline=True)
def clipped(gradients, ticks, counts, fixed, limits, lanes, width, kind):  # type: ignore[no-untyped-def]
    """Return the gradients of all parameters, clipped where necessary, and count the lanes where it was."""
    needed, one = False, splat_like(fixed, 1, width)
    if kind & NORM:
        needed = any_beyond(squared_norm(gradients), load(fixed, limits + lanes, lanes, 1, width))
    if kind & VALUE:
        needed = needed or any_beyond(largest(gradients), load(fixed, limits + 2 * lanes, lanes, 1, width))
    if needed:
        ratio = one
        if kind & NORM:
            ratio = ratio_of(squared_norm(gradients), fixed, limits, lanes, width)
        factor = at_most_one(ratio, fixed, width)
        ratio, gradients = clipped_some(gradients, factor, ratio, fixed, limits, lanes, width, kind)
        count_where(ticks, counts, one > ratio)
    return gradients


@njit(forceinline=True)
def ratio_of(squares, fixed, limits, lanes, width):  # type: ignore[no-untyped-def]
    """Return the ratio of the largest norm to the norm."""
    return coefficient(load(fixed, limits, lanes, 1, width), squares)


@njit(forceinline=True)
def at_most_one(ratio, fixed, width):  # type: ignore[no-untyped-def]
    """Return the factor of gradients; NaN stays NaN."""
    one = splat_like(fixed, 1, width)
    return select(ratio > one, one, ratio)


@njit(forceinline=True)
def clipped_some(gradients, factor, ratio, fixed, limits, lanes, width, kind):  # type: ignore[no-untyped-def]
    """Return the ratio, 0 where a value is clipped, and the clipped gradients of some parameters."""
    if kind & NORM:
        gradients = gradients * factor
    if kind & VALUE:
        most = load(fixed, limits + 2 * lanes, lanes, 1, width)
        ratio = select(largest(gradients) > most, splat_like(fixed, 0, width), ratio)
        gradients = limited(gradients, most)
    return ratio, gradients


@njit(forceinline=True)
def left(params, after, fixed, at, length, some, lanes, width):  # type: ignore[no-untyped-def]
    """Return the distances of ``some`` parameters, from ``at`` on, to their peaks, merged: negative for a new peak."""
    reached = params ^ load(fixed, at, lanes, some, width)
    return merged(load(after, 2 * length + at, lanes, some, width) - reached)


@njit(forceinline=True)
def note_peaks(params, after, ticks, fixed, clock, step, at, some, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """Store and date the new peaks of ``some`` parameters, from ``at`` on."""
    peaks = 2 * parameters * lanes + at
    reached = params ^ load(fixed, at, lanes, some, width)
    farther = reached > load(after, peaks, lanes, some, width)
    store_where(after, peaks, lanes, reached, farther)
    store_where(ticks, at, lanes, spread(clock, step, 1, 1, width), farther)
