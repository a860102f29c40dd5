"""The compiled code of linear_triton for models that are too large for registers: the state stays in cached memory.

The loops over parameters are not unrolled, so that the number of registers does not depend on their number. Each trial
has a thread of its own, which alone reads and writes its column of the state: nothing needs to be synchronised. The
arithmetic is that of linear_numba's loops for batches of one and two, operation for operation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sgdcore.kernels.linear_triton.program import load, norm_factor, rates_of, rule_of, update, within


@triton.jit
def _residual(params_at, slots, sample_at, scale, FEATURES: tl.constexpr, BIAS: tl.constexpr):
    """Return the scaled residual of the sample at an address."""
    prediction = tl.load(sample_at) * tl.load(params_at)
    for _ in range(1, FEATURES):
        sample_at += 1
        params_at += slots
        prediction += tl.load(sample_at) * tl.load(params_at)
    if BIAS:
        prediction += tl.load(params_at + slots)
    return scale * (prediction - tl.load(sample_at + 1))


@triton.jit
def _accumulate(gradients_at, slots, sample_at, residual, FEATURES: tl.constexpr, ADDS: tl.constexpr):
    """Store a sample's contribution to the gradients of the features, or add it."""
    for _ in range(FEATURES):
        gradient = residual * tl.load(sample_at)
        if ADDS:
            gradient = tl.load(gradients_at) + gradient
        tl.store(gradients_at, gradient)
        sample_at += 1
        gradients_at += slots


@triton.jit
def _step_one(at, buffers, gradient, factor, limits, runs, is_first, group, CLIPS_NORM, CLIPS_VALUE: tl.constexpr):
    """Step the parameter at ``at``, its buffer ``buffers`` further; return if it is finite and if it was clipped."""
    clipped = runs & (limits[1] < 0)
    if CLIPS_NORM:
        gradient = gradient * factor
    if CLIPS_VALUE:
        gradient, clipped = within(gradient, limits[1])
    before, buffer = tl.load(at), tl.load(at + buffers)
    param, buffer = update(before, gradient, buffer, is_first, *group)
    param = tl.where(runs, param, before)
    tl.store(at, param)
    tl.store(at + buffers, buffer, mask=runs)
    return tl.abs(param) < float("inf"), clipped


@triton.jit
def _watch(at, slots, dates_at, runs, date, P: tl.constexpr):
    """Store the peaks that a step has reached, and its date."""
    for _ in range(P):
        reached = tl.load(at) * tl.load(at + slots * (3 * P))
        farther = runs & (reached > tl.load(at + slots * (2 * P)))
        tl.store(at + slots * (2 * P), reached, mask=farther)
        tl.store(dates_at, date, mask=farther)
        at += slots
        dates_at += slots


@triton.jit(do_not_specialize=range(24))
def advance(
    table_at,
    gradients_at,
    dates_at,
    stops_at,
    path_at,
    inputs_at,
    scales_at,
    order_at,
    orders_at,
    cuts_at,
    clipped_at,
    rates_at,
    columns_at,
    cuts,
    slots,
    samples,
    entries,
    batch_size,
    position,
    first,
    start,
    columns,
    steps_per_row,
    lasting,
    FEATURES: tl.constexpr,
    BIAS: tl.constexpr,
    SINGLE: tl.constexpr,
    GROUPS: tl.constexpr,
    SCHEDULED: tl.constexpr,
    CLIPS_NORM: tl.constexpr,
    CLIPS_VALUE: tl.constexpr,
    BLOCK: tl.constexpr,
    NEVER: tl.constexpr,
):
    """Step one block of trials as program.advance does; ``gradients_at`` is room for (FEATURES, slots) numbers."""
    P: tl.constexpr = FEATURES + BIAS
    slots = tl.cast(slots, tl.int64)
    start = tl.cast(start, tl.int64)
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    table_at += lanes
    gradients_at += lanes
    dates_at += lanes
    stops_at += lanes
    path_at += lanes
    order_at += tl.load(orders_at + tl.program_id(0)) * entries
    buffers = slots * P

    hyperparameters = load(table_at + slots * (4 * P), slots, 5 * GROUPS)
    limits = load(table_at + slots * (4 * P + 5 * GROUPS), slots, 2)
    if SCHEDULED:
        rates_at += tl.load(columns_at + lanes)
    clipped = tl.zeros((BLOCK,), tl.int32)
    runs = tl.load(stops_at) == NEVER
    ran = tl.zeros((BLOCK,), tl.int32)
    once = tl.where(start == 0, 0, -1)
    clock = 0
    scale = tl.load(scales_at)
    for cut in range(cuts):
        for _ in range(clock, tl.load(cuts_at + cut)):
            count = 1
            if not SINGLE:
                count = tl.minimum(batch_size, samples - first)
                first = tl.where(first + count == samples, 0, first + count)
                scale = tl.load(scales_at + count - 1)
            sample_at = inputs_at + tl.load(order_at + position).to(tl.int64) * (FEATURES + 1)
            position = tl.where(position + 1 == entries, 0, position + 1)
            residual = _residual(table_at, slots, sample_at, scale, FEATURES, BIAS)
            _accumulate(gradients_at, slots, sample_at, residual, FEATURES, False)
            if not SINGLE:
                for _ in range(1, count):
                    sample_at = inputs_at + tl.load(order_at + position).to(tl.int64) * (FEATURES + 1)
                    position = tl.where(position + 1 == entries, 0, position + 1)
                    other = _residual(table_at, slots, sample_at, scale, FEATURES, BIAS)
                    _accumulate(gradients_at, slots, sample_at, other, FEATURES, True)
                    residual += other

            factor = limits[0]
            changed = limits[0] < 0
            if CLIPS_NORM:
                squares = residual * 0 if not BIAS else residual * residual
                gradient_at = gradients_at
                for _ in range(FEATURES):
                    gradient = tl.load(gradient_at)
                    squares = tl.fma(gradient, gradient, squares)
                    gradient_at += slots
                factor, changed = norm_factor(squares, limits[0])

            group = rule_of(
                rates_of(rates_at, columns, hyperparameters[:2], GROUPS, 0, SCHEDULED), hyperparameters[2:5]
            )
            finite, at, gradient_at = runs, table_at, gradients_at
            for _ in range(FEATURES):
                is_finite, limited = _step_one(
                    at,
                    buffers,
                    tl.load(gradient_at),
                    factor,
                    limits,
                    runs,
                    clock == once,
                    group,
                    CLIPS_NORM,
                    CLIPS_VALUE,
                )
                finite = finite & is_finite
                changed = changed | limited
                at += slots
                gradient_at += slots
            if BIAS:
                if GROUPS == 2:
                    own = rates_of(rates_at, columns, hyperparameters[5:7], GROUPS, 1, SCHEDULED)
                    group = rule_of(own, hyperparameters[7:10])
                is_finite, limited = _step_one(
                    at, buffers, residual, factor, limits, runs, clock == once, group, CLIPS_NORM, CLIPS_VALUE
                )
                finite = finite & is_finite
                changed = changed | limited
            clipped += (runs & changed).to(tl.int32)
            runs = finite
            clock += 1
            if SCHEDULED:  # a copy of the last row follows it
                lasting -= 1
                rates_at += tl.where(lasting == 0, columns * (GROUPS * SCHEDULED), 0)
                lasting = tl.where(lasting == 0, steps_per_row, lasting)
            ran = tl.where(runs, clock, ran)
            _watch(table_at, slots, dates_at, runs, start + clock, P)
        at = table_at
        for _ in range(P):
            tl.store(path_at, tl.where(runs, tl.load(at), float("nan")))
            at += slots
            path_at += slots

    tl.store(stops_at, start + ran + 1, mask=(tl.load(stops_at) == NEVER) & (runs == 0))
    if CLIPS_NORM or CLIPS_VALUE:
        tl.store(clipped_at + lanes, tl.load(clipped_at + lanes) + clipped)
