"""Steps of models of up to FEW parameters, unrolled: parameters stay in registers, two parts of the lanes at once.

Samples: products and sums that are not part of the rule stay separate (numba contracts nothing by itself), in the order
in which torch's Linear and mse_loss round them for batches of one and two. Larger batches: see qr_blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from sgdcore.kernels.linear_numba.forms import BIAS_BITS, CLIPS, TRIANGLE, Form
from sgdcore.kernels.linear_numba.qr_blocks import EXTRA, residuals, slopes
from sgdcore.kernels.linear_numba.stepping import clipped, left, note_peaks, places_of, stepped
from sgdcore.kernels.simd.lanes import (
    aligned_stack,
    any_negative,
    joined,
    load,
    some_rows,
    splat_like,
    spread,
    store,
    total,
    with_one,
)


def few(form: Form, kind: int, source: int) -> Callable[..., Any]:
    """Return steps that keep all parameters in registers from first to last, for two parts of ``width`` lanes in turn.

    The operations of one part wait for each other; those of the other part fill the gaps.
    """
    features, parameters, batch, rows, lanes, width = form.constants
    groups, scheduled = form.groups, form.scheduled
    limits = form.limits * lanes

    def steps(tile, after, ticks, fixed, data, targets, places, clock, rates, count, used):  # type: ignore[no-untyped-def]
        aligned_stack()
        batches = data, targets, places
        first, length = 0, parameters * lanes
        while first < used:
            second = first + width
            one = _begin(tile, after, first, parameters, lanes, width)
            two = _begin(tile, after, second, parameters, lanes, width)
            for step in range(np.uintp(count)):
                gradients = _gradients(one[0], batches, step, features, parameters, batch, rows, width)
                if kind & CLIPS:
                    gradients = clipped(gradients, ticks, length + first, fixed, limits + first, lanes, width, kind)
                one = _all_stepped(
                    one,
                    gradients,
                    fixed,
                    rates,
                    step,
                    first,
                    features,
                    parameters,
                    groups,
                    scheduled,
                    lanes,
                    width,
                    kind,
                )
                away = left(one[0], after, fixed, first, length, parameters, lanes, width)
                gradients = _gradients(two[0], batches, step, features, parameters, batch, rows, width)
                if kind & CLIPS:
                    gradients = clipped(gradients, ticks, length + second, fixed, limits + second, lanes, width, kind)
                two = _all_stepped(
                    two,
                    gradients,
                    fixed,
                    rates,
                    step,
                    second,
                    features,
                    parameters,
                    groups,
                    scheduled,
                    lanes,
                    width,
                    kind,
                )
                if any_negative(away | left(two[0], after, fixed, second, length, parameters, lanes, width)):
                    note_peaks(one[0], after, ticks, fixed, clock, step, first, parameters, parameters, lanes, width)
                    note_peaks(two[0], after, ticks, fixed, clock, step, second, parameters, parameters, lanes, width)
            _end(one, after, first, parameters, lanes)
            _end(two, after, second, parameters, lanes)
            first = second + width
        return source

    return steps


@njit(forceinline=True)
def _begin(tile, after, lane, parameters, lanes, width):  # type: ignore[no-untyped-def]
    """Return the parameters and buffers at ``lane``; copies the peaks so far to ``after``."""
    buffers, peaks = parameters * lanes + lane, 2 * parameters * lanes + lane
    store(after, peaks, lanes, load(tile, peaks, lanes, parameters, width))
    return load(tile, lane, lanes, parameters, width), load(tile, buffers, lanes, parameters, width)


@njit(forceinline=True)
def _end(part, after, lane, parameters, lanes):  # type: ignore[no-untyped-def]
    """Store a part's parameters and buffers in ``after``."""
    store(after, lane, lanes, part[0])
    store(after, parameters * lanes + lane, lanes, part[1])


def _all_stepped(*arguments: Any) -> Any:
    """Return a part's parameters and buffers after a step."""
    raise NotImplementedError("compiled code only")


@overload(_all_stepped, jit_options={"forceinline": True}, prefer_literal=True)
def _choose_step(  # type: ignore[no-untyped-def]
    part, gradients, fixed, rates, step, lane, features, parameters, groups, scheduled, lanes, width, kind
):
    if not isinstance(groups, types.IntegerLiteral):
        return None

    def together(  # type: ignore[no-untyped-def]
        part, gradients, fixed, rates, step, lane, features, parameters, groups, scheduled, lanes, width, kind
    ):
        places = places_of(rates, step, lane, 0, parameters, groups, scheduled, lanes)
        return stepped(part[0], gradients, part[1], fixed, places, lanes, width, kind)

    def bias_apart(  # type: ignore[no-untyped-def]
        part, gradients, fixed, rates, step, lane, features, parameters, groups, scheduled, lanes, width, kind
    ):
        return _bias_apart(
            part, gradients, fixed, rates, step, lane, features, parameters, groups, scheduled, lanes, width, kind
        )

    return together if groups.literal_value == 1 else bias_apart


@njit(forceinline=True)
def _bias_apart(  # type: ignore[no-untyped-def]
    part, gradients, fixed, rates, step, lane, features, parameters, groups, scheduled, lanes, width, kind
):
    """Return a part's parameters and buffers after a step in which the bias has its own hyperparameters."""
    params, buffers = part
    places = places_of(rates, step, lane, 0, parameters, groups, scheduled, lanes)
    of_bias = places_of(rates, step, lane, 1, parameters, groups, scheduled, lanes)
    slopes, slope_buffers = stepped(
        some_rows(params, 0, features),
        some_rows(gradients, 0, features),
        some_rows(buffers, 0, features),
        fixed,
        places,
        lanes,
        width,
        kind,
    )
    bias, bias_buffer = stepped(
        some_rows(params, features, 1),
        some_rows(gradients, features, 1),
        some_rows(buffers, features, 1),
        fixed,
        of_bias,
        lanes,
        width,
        kind >> BIAS_BITS,
    )
    return joined(slopes, bias), joined(slope_buffers, bias_buffer)


def _gradients(*arguments: Any) -> Any:
    """Return the gradients of a step's batch at ``params``."""
    raise NotImplementedError("compiled code only")


@overload(_gradients, jit_options={"forceinline": True}, prefer_literal=True)
def _choose_gradients(params, batches, step, features, parameters, batch, rows, width):  # type: ignore[no-untyped-def]
    if not isinstance(batch, types.IntegerLiteral):
        return None

    triangular = int(batch.literal_value == TRIANGLE)

    def by_rows(params, batches, step, features, parameters, batch, rows, width):  # type: ignore[no-untyped-def]
        data, _, places = batches
        place = places[step] * (rows * (parameters + EXTRA))
        return slopes(data, place, residuals(data, place, params, rows, triangular), parameters, triangular)

    def by_sample(params, batches, step, features, parameters, batch, rows, width):  # type: ignore[no-untyped-def]
        two = splat_like(batches[0], 2, width)
        return _of_sample(params, batches, batches[2][step], two, features, parameters, width)

    def by_pair(params, batches, step, features, parameters, batch, rows, width):  # type: ignore[no-untyped-def]
        first, second = batches[2][2 * step], batches[2][2 * step + 1]
        scale = splat_like(batches[0], 1 if second >= 0 else 2, width)
        gradients = _of_sample(params, batches, first, scale, features, parameters, width)
        if second >= 0:
            gradients = gradients + _of_sample(params, batches, second, scale, features, parameters, width)
        return gradients

    return {1: by_sample, 2: by_pair}.get(batch.literal_value, by_rows)


def _of_sample(*arguments: Any) -> Any:
    """Return one sample's contribution to the batch's gradients; ``scale`` is 2 / B."""
    raise NotImplementedError("compiled code only")


@overload(_of_sample, jit_options={"forceinline": True}, prefer_literal=True)
def _choose_sample(params, batches, sample, scale, features, parameters, width):  # type: ignore[no-untyped-def]
    if not isinstance(parameters, types.IntegerLiteral):
        return None
    inputs = with_one if parameters.literal_value > features.literal_value else _as_they_are

    def of_sample(params, batches, sample, scale, features, parameters, width):  # type: ignore[no-untyped-def]
        data, targets, _ = batches
        x = inputs(spread(data, sample * features, 1, features, width))
        return scale * (total(x * params) - spread(targets, sample, 1, 1, width)) * x

    return of_sample


@njit(forceinline=True)
def _as_they_are(lanes):  # type: ignore[no-untyped-def]
    return lanes
