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
_update = triton.jit(rule.bind(_fma, _select, tl=tl, bool=tl.int1, float=float, tuple=tuple))


@triton.jit
def _load(first, stride, COUNT: tl.constexpr):
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
    return _load(inputs + number.to(tl.int64) * COUNT, 1, COUNT), position, tl.load(order + position)


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
def _step(params, buffers, gradients, is_first, hyperparameters, runs):
    """Step the running trials: return parameters, buffers and which trials still run. The others are unchanged."""
    stepped, buffered, finite = (), (), runs
    for j in tl.static_range(len(params)):
        param, buffer = _update(params[j], gradients[j], buffers[j], is_first, *hyperparameters)
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


@triton.jit(do_not_specialize=range(18))  # no separate code for aligned addresses or arguments equal to 1
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
    cuts,
    slots,
    samples,
    entries,
    batch_size,
    position,
    first,
    start,
    FEATURES: tl.constexpr,
    BIAS: tl.constexpr,
    SINGLE: tl.constexpr,
    BLOCK: tl.constexpr,
    NEVER: tl.constexpr,
):
    """Step one block of trials from ``start`` through all cuts (counted from there), and store the path at each.

    ``position`` is the first batch's index among the ``entries`` of an order, ``first`` its index in the epoch.
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

    params = _load(table_at, slots, P)
    buffers = _load(table_at + slots * P, slots, P)
    peaks = _load(table_at + slots * (2 * P), slots, P)
    directions = _load(table_at + slots * (3 * P), slots, P)
    negative_lr, momentum, weight_decay, undamped, nesterov = _load(table_at + slots * (4 * P), slots, 5)
    hyperparameters = (
        negative_lr,
        momentum,
        weight_decay,
        undamped,
        momentum != 0,
        weight_decay != 0,
        nesterov != 0,
    )
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
            params, buffers, runs = _step(params, buffers, gradients, clock == once, hyperparameters, runs)
            clock += 1
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
