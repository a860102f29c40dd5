"""The compiled code of linear_triton: one program steps one block of trials, in registers throughout.

A quantity of a block is a vector over its trials; a quantity per parameter is a tuple of such vectors, unrolled.
The arithmetic is linear_numba's, operation for operation: sgdcore.rule compiled unchanged, sums from left to right,
nothing contracted (launch with :data:`OPTIONS`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from sgdcore import rule

OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}  # one warp per block: blocks share nothing


@triton.jit
def _fma(a, b, c):
    return tl.fma(a, b, c)


@triton.jit
def _select(condition, yes, no):
    return tl.where(condition, yes, no)


# Compilation needs the annotations in the source; interpretation needs tl among its globals.
update = triton.jit(rule.bind(_fma, _select, tl=tl, bool=tl.int1, float=float, tuple=tuple))


@triton.jit
def load(first, stride, COUNT: tl.constexpr):
    """Load COUNT values, ``stride`` apart."""
    values = ()
    for _ in tl.static_range(COUNT):
        values += (tl.load(first),)
        first += stride
    return values


@triton.jit
def _store(first, stride, values):
    for j in tl.static_range(len(values)):
        tl.store(first, values[j])
        first += stride


@triton.jit
def _draw(inputs, order, entries, position, number, COUNT: tl.constexpr):
    """Return sample ``number``'s features and target, the next position, and the sample number there."""
    position = tl.where(position + 1 == entries, 0, position + 1)
    return load(inputs + number.to(tl.int64) * COUNT, 1, COUNT), position, tl.load(order + position)


@triton.jit
def _gradients(params, sample, scale, FEATURES: tl.constexpr, BIAS: tl.constexpr):
    """Return one sample's contribution to the batch's gradients."""
    prediction = sample[0] * params[0]
    for j in tl.static_range(1, FEATURES):
        prediction += sample[j] * params[j]
    if BIAS:
        prediction += params[FEATURES]
    residual = scale * (prediction - sample[FEATURES])
    gradients = ()
    for j in tl.static_range(FEATURES):
        gradients += (residual * sample[j],)
    if BIAS:
        gradients += (residual,)
    return gradients


@triton.jit
def _sum(left, right):
    total = ()
    for j in tl.static_range(len(left)):
        total += (left[j] + right[j],)
    return total


@triton.jit
def norm_factor(squares, limit):
    """Return the factor that clips gradients with this sum of squares, and for which trials it is below 1."""
    epsilon = tl.full(squares.shape, 1e-6, squares.dtype)
    if squares.dtype == tl.float64:
        ratio = limit / (tl.sqrt(squares) + epsilon)
    else:
        ratio = tl.div_rn(limit, tl.sqrt_rn(squares) + epsilon)
    changed = (ratio < 1) & (limit < float("inf"))
    return tl.where((ratio > 1) | (limit == float("inf")), 1, ratio).to(squares.dtype), changed


@triton.jit
def within(gradient, most):
    """Return a gradient between -most and most, and for which trials it was not."""
    lowered = tl.where(gradient > most, most, gradient)
    return tl.where(lowered < -most, -most, lowered), tl.abs(gradient) > most


@triton.jit
def _clipped(gradients, limits, CLIPS_NORM: tl.constexpr, CLIPS_VALUE: tl.constexpr):
    """Return the gradients, clipped as in torch.nn.utils, and which trials' were; an infinite limit clips nothing."""
    changed = limits[0] < 0
    if CLIPS_NORM:
        squares = gradients[0] * gradients[0]
        for j in tl.static_range(1, len(gradients)):
            squares = tl.fma(gradients[j], gradients[j], squares)
        factor, changed = norm_factor(squares, limits[0])
        scaled = ()
        for j in tl.static_range(len(gradients)):
            scaled += (gradients[j] * factor,)
        gradients = scaled
    if CLIPS_VALUE:
        limited = ()
        for j in tl.static_range(len(gradients)):
            gradient, beyond = within(gradients[j], limits[1])
            changed = changed | beyond
            limited += (gradient,)
        gradients = limited
    return gradients, changed


@triton.jit
def rule_of(rates, others):
    """Return the arguments of the update rule after the buffer: a group's hyperparameters and its flags."""
    return (rates[0], rates[1], others[0], others[1], rates[1] != 0, others[0] != 0, others[2] != 0)


@triton.jit
def rates_of(rates_at, columns, own, GROUPS: tl.constexpr, GROUP: tl.constexpr, SCHEDULED: tl.constexpr):
    """Return a group's -lr and momentum, scheduled or its own."""
    rates = own
    if SCHEDULED:
        rates = (tl.load(rates_at + GROUP * columns), own[1])
    if SCHEDULED == 2:
        rates = (rates[0], tl.load(rates_at + (GROUPS + GROUP) * columns))
    return rates


@triton.jit
def _step(params, buffers, gradients, is_first, of_features, of_bias, runs, FEATURES: tl.constexpr):
    """Step the running trials: return parameters, buffers and which trials still run. The others are unchanged."""
    stepped, buffered, finite = (), (), runs
    for j in tl.static_range(len(params)):
        if j < FEATURES:
            param, buffer = update(params[j], gradients[j], buffers[j], is_first, *of_features)
        else:
            param, buffer = update(params[j], gradients[j], buffers[j], is_first, *of_bias)
        stepped += (tl.where(runs, param, params[j]),)
        buffered += (tl.where(runs, buffer, buffers[j]),)
        finite = finite & (tl.abs(stepped[j]) < float("inf"))
    return stepped, buffered, finite


@triton.jit
def _watch(params, directions, peaks, ticks, runs, clock):
    """Return the peaks and their dates after a step that ends at ``clock``."""
    highest, dated = (), ()
    for j in tl.static_range(len(params)):
        reached = params[j] * directions[j]
        farther = runs & (reached > peaks[j])
        highest += (tl.where(farther, reached, peaks[j]),)
        dated += (tl.where(farther, clock, ticks[j]),)
    return highest, dated


@triton.jit(do_not_specialize=range(24))  # no separate code for aligned addresses or arguments equal to 1
def advance(
    table_at,
    after_at,
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
    """Step one block of trials from ``start`` through all cuts (counted from there), and store the path at each.

    ``position`` is the first batch's index among the ``entries`` of an order, ``first`` its index in the epoch.

    A row of scheduled rates has ``columns`` numbers for each of: -lr of every group, and with SCHEDULED = 2 momentum of
    every group. It lasts ``steps_per_row`` steps, the first row ``lasting`` steps.
    """
    P: tl.constexpr = FEATURES + BIAS
    slots = tl.cast(slots, tl.int64)
    start = tl.cast(start, tl.int64)
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    table_at += lanes
    after_at += lanes
    dates_at += lanes
    stops_at += lanes
    path_at += lanes
    order_at += tl.load(orders_at + tl.program_id(0)) * entries

    params = load(table_at, slots, P)
    buffers = load(table_at + slots * P, slots, P)
    peaks = load(table_at + slots * (2 * P), slots, P)
    directions = load(table_at + slots * (3 * P), slots, P)
    hyperparameters = load(table_at + slots * (4 * P), slots, 5 * GROUPS)
    limits = load(table_at + slots * (4 * P + 5 * GROUPS), slots, 2 * (CLIPS_NORM or CLIPS_VALUE))
    if SCHEDULED:
        rates_at += tl.load(columns_at + lanes)
    rates = rates_of(rates_at, columns, hyperparameters[:2], GROUPS, 0, SCHEDULED)
    of_features = rule_of(rates, hyperparameters[2:5])
    of_bias = of_features
    if GROUPS == 2:
        bias_rates = rates_of(rates_at, columns, hyperparameters[5:7], GROUPS, 1, SCHEDULED)
        of_bias = rule_of(bias_rates, hyperparameters[7:10])
    clipped = tl.zeros((BLOCK,), tl.int32)
    runs = tl.load(stops_at) == NEVER
    ran = tl.zeros((BLOCK,), tl.int32)  # each trial's last step with finite values, counted from the start
    ticks = (ran,) * P  # the steps of this launch that reached the peaks, counted likewise; 0 if older
    once = tl.where(start == 0, 0, -1)  # the clock's value at the run's first step
    clock = 0

    # The next sample is loaded before the parameters are stepped, its number one sample earlier.
    WIDTH: tl.constexpr = FEATURES + 1
    scale, number = tl.load(scales_at), tl.load(order_at + position)
    sample, position, number = _draw(inputs_at, order_at, entries, position, number, WIDTH)
    for cut in range(cuts):
        for _ in range(clock, tl.load(cuts_at + cut)):
            if not SINGLE:
                count = tl.minimum(batch_size, samples - first)
                first = tl.where(first + count == samples, 0, first + count)
                scale = tl.load(scales_at + count - 1)
            gradients = _gradients(params, sample, scale, FEATURES, BIAS)
            if not SINGLE:
                for _ in range(1, count):
                    sample, position, number = _draw(inputs_at, order_at, entries, position, number, WIDTH)
                    gradients = _sum(gradients, _gradients(params, sample, scale, FEATURES, BIAS))
            sample, position, number = _draw(inputs_at, order_at, entries, position, number, WIDTH)
            if CLIPS_NORM or CLIPS_VALUE:
                gradients, changed = _clipped(gradients, limits, CLIPS_NORM, CLIPS_VALUE)
                clipped += (runs & changed).to(tl.int32)
            params, buffers, runs = _step(
                params, buffers, gradients, clock == once, of_features, of_bias, runs, FEATURES
            )
            clock += 1
            if SCHEDULED:  # a copy of the last row follows it
                lasting -= 1
                rates_at += tl.where(lasting == 0, columns * (GROUPS * SCHEDULED), 0)
                lasting = tl.where(lasting == 0, steps_per_row, lasting)
                rates = rates_of(rates_at, columns, hyperparameters[:2], GROUPS, 0, SCHEDULED)
                of_features = rule_of(rates, hyperparameters[2:5])
                of_bias = of_features
                if GROUPS == 2:
                    bias_rates = rates_of(rates_at, columns, hyperparameters[5:7], GROUPS, 1, SCHEDULED)
                    of_bias = rule_of(bias_rates, hyperparameters[7:10])
            ran = tl.where(runs, clock, ran)
            peaks, ticks = _watch(params, directions, peaks, ticks, runs, clock)
        for j in tl.static_range(P):
            tl.store(path_at, tl.where(runs, params[j], float("nan")))
            path_at += slots

    _store(after_at, slots, params)
    _store(after_at + slots * P, slots, buffers)
    _store(after_at + slots * (2 * P), slots, peaks)
    for j in tl.static_range(P):
        tl.store(dates_at, start + ticks[j], mask=ticks[j] > 0)
        dates_at += slots
    tl.store(stops_at, start + ran + 1, mask=(tl.load(stops_at) == NEVER) & (runs == 0))
    if CLIPS_NORM or CLIPS_VALUE:
        tl.store(clipped_at + lanes, tl.load(clipped_at + lanes) + clipped)
