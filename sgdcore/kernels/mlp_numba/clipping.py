"""Clipping for the numba kernel for perceptrons: clip_grad_norm_ and clip_grad_value_ of torch.nn.utils, for a tile."""

from __future__ import annotations

import numpy as np
from numba import literally

from sgdcore.kernels.mlp_numba.layers import inner
from sgdcore.kernels.simd.lanes import aligned_stack, fma, like, load, load_double, select, splat, store
from sgdcore.kernels.simd.math import Row, elementwise_of_two


def _scale(squares: Row, limit: Row) -> Row:
    """Return the factor of clip_grad_norm_, by torch's operations; NaN stays NaN."""
    one = squares.constant(1)
    factor = one / (squares.square_root() + squares.constant(1e-6)) * limit
    return factor.where_above(one, one, factor)


_factor = elementwise_of_two(_scale)


@inner()
def clip(tile, clipped, running, lanes, clipped_steps, by_norm, limits, parameters, width):  # type: ignore[no-untyped-def]
    """Clip the gradients, and count the step for the running trials where that changed any; ``clipped`` is room.

    ``limits`` is the row of the tile that holds the largest norms, infinite if there is none; the next row holds the
    largest absolute values.
    """
    literally(width)
    aligned_stack()
    first, stop = parameters * width, 2 * parameters * width
    zero, one = splat(tile.dtype.type(0), width), splat(tile.dtype.type(1), width)
    factor = one
    if by_norm:
        squares = splat(0.0, width)
        for at in range(first, stop, width):
            gradient = load_double(tile, at, width)
            squares = fma(gradient, gradient, squares)
        limit = load(tile, limits * width, width, 1, width)
        scale = _factor(like(tile, squares), limit)  # the sum overflows where torch's does
        factor = select(splat(tile.dtype.type(np.inf), width) > limit, scale, one)
    highest = load(tile, (limits + 1) * width, width, 1, width)
    lowest = zero - highest
    changed = select(one > factor, one, zero)
    for at in range(first, stop, width):
        gradient = load(tile, at, width, 1, width) * factor
        above, below = gradient > highest, lowest > gradient
        changed = select(above, one, select(below, one, changed))
        store(tile, at, width, select(above, highest, select(below, lowest, gradient)))
    store(clipped, 0, width, changed)
    for lane in range(len(lanes)):
        if running[lane] and clipped[lane] != 0:
            clipped_steps[lanes[lane]] += 1
