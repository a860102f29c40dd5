"""A perceptron's passes for the numba kernel: a batch's gradients, or the losses over a whole set, for a tile.

``scratch`` holds the work arrays of a pass: ``units`` and ``slopes`` as in layers (starting with the first layer's
inputs if trials differ in their samples), the batch's features as (s, k) numbers, and its goals as rows: the columns of
``data[1]``, which are targets and, if there is one more of them than outputs, sample weights.
``network`` is (shape, pitch, loss, option): the layers' widths from inputs to outputs, samples processed together, the
loss's index in LOSSES, and the Huber loss's delta or the quantile. ``rows`` (layers, 5) are the tile's rows of each
layer's first weight, its gradient, first bias, its gradient, and the index of its activation in ACTIVATIONS.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from sgdcore.kernels.mlp_numba.layers import ACTIVATIONS, inner, layers
from sgdcore.kernels.mlp_numba.losses import losses_of_batches, losses_of_sets
from sgdcore.kernels.simd.lanes import compiled, splat, store
from sgdcore.kernels.simd.memory import aligned

_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@compiled
def make_scratch(dtype, network, goal_columns, keeps, width):  # type: ignore[no-untyped-def]
    """Allocate the work arrays for a tile; finite from the start, because blocks reach beyond a batch's end."""
    shape, pitch, _, _ = network
    units, inputs, goals = shape.sum() * pitch * width, pitch * shape[0], goal_columns * pitch * width
    room = aligned((1 + keeps) * units + goals + inputs, dtype)
    room[:] = dtype.type(0)
    slopes, after = room[units * keeps :], room[units * (1 + keeps) :]
    return room[:units], slopes[:units], after[goals:], after[:goals]


def run_pass(*arguments: Any) -> None:
    """Write the gradients of a batch's mean loss to the tile, or every trial's mean loss over ``data`` to ``losses``.

    Without a batch, it computes the losses.
    """
    raise NotImplementedError("compiled code only")


@overload(run_pass, jit_options=_OPTIONS, prefer_literal=True)  # type: ignore[arg-type, unused-ignore]
def _choose(tile, scratch, data, samples, batch, losses, network, rows, parameters, activations, at_once, width):  # type: ignore[no-untyped-def]
    constants = activations, at_once, width
    if not all(isinstance(constant, types.IntegerLiteral) for constant in constants):
        return None
    return _pass(str(tile.dtype), *(constant.literal_value for constant in constants))


@cache
def _pass(dtype: str, activations: int, at_once: int, width: int) -> Any:
    used = tuple(name for index, name in enumerate(ACTIVATIONS) if activations >> index & 1)
    first, hidden, output, first_gradients, gradients, backward = layers(dtype, used, at_once, width)
    zero = np.dtype(dtype).type(0)
    gather, loss_deltas, add_losses = _gather(width), losses_of_batches(dtype, at_once, width), losses_of_sets(width)

    def run(tile, scratch, data, samples, batch, losses, network, rows, parameters, activations, at_once, width):  # type: ignore[no-untyped-def]
        units, slopes, fetched, _ = scratch
        shape, pitch, _, _ = network
        lanes, orders, _, count, _ = batch
        last = len(shape) - 2
        above = np.intp(0)  # the units before the output
        for layer in range(last + 1):
            above += shape[layer]
        differentiates = count > 0
        own = differentiates and orders[lanes[0]] != orders[lanes[-1]]
        features = fetched if differentiates else data[0]
        if differentiates:
            for at in range(parameters * width, 2 * parameters * width, width):
                store(tile, at, 0, splat(zero, width))
        else:
            count = len(data[1])
            losses[:] = 0.0
        for start in range(0, count, pitch):
            many = min(pitch, count - start)
            length = (many + at_once - 1) // at_once * at_once
            if differentiates:
                gather(scratch, data, samples, batch, start, many, own, network)
            place = shape[0]
            for layer in range(last + 1):
                inputs, fan_out = shape[layer], shape[layer + 1]
                weights, bias, activation = rows[layer, 0], rows[layer, 2], rows[layer, 4]
                at = (place - inputs) * pitch * width
                if layer == last:
                    to = place * pitch * width
                    output(units, at, pitch * width, tile, weights, bias, inputs, fan_out, units, to, length)
                elif layer > 0 or own:
                    hidden(
                        activation,
                        units,
                        at,
                        width,
                        pitch * width,
                        tile,
                        weights,
                        bias,
                        inputs,
                        fan_out,
                        units,
                        slopes,
                        place,
                        pitch,
                        length,
                    )
                else:
                    at = 0 if differentiates else start * inputs
                    first(
                        activation,
                        features,
                        at,
                        inputs,
                        1,
                        tile,
                        weights,
                        bias,
                        inputs,
                        fan_out,
                        units,
                        slopes,
                        place,
                        pitch,
                        length,
                    )
                place += fan_out
            if not differentiates:
                add_losses(units, above * pitch * width, data[1], start, many, network, losses)
                continue
            loss_deltas(scratch, above * pitch * width, data[1].shape[1], network, length, count)
            place = above
            for layer in range(last, -1, -1):
                inputs, fan_out = shape[layer], shape[layer + 1]
                below, to, bias = place - inputs, rows[layer, 1], rows[layer, 3]
                if layer > 0 or own:
                    at = below * pitch * width
                    gradients(
                        units, at, pitch * width, width, tile, to, bias, inputs, fan_out, units, place, pitch, many
                    )
                else:
                    first_gradients(features, 0, 1, inputs, tile, to, bias, inputs, fan_out, units, place, pitch, many)
                if layer > 0:
                    activation = rows[layer - 1, 4]
                    backward(
                        activation,
                        tile,
                        rows[layer, 0],
                        inputs,
                        fan_out,
                        units,
                        slopes,
                        below,
                        place,
                        pitch,
                        length,
                    )
                place = below
        if not differentiates:
            for lane in range(width):
                losses[lane] /= count * shape[last + 1]

    return run


def _gather(width: int) -> Any:
    @inner(width)
    def gather(scratch, training, samples, batch, start, many, own, network):  # type: ignore[no-untyped-def]
        """Copy the features and goals of ``many`` of the batch's samples."""
        units, _, features, goals = scratch
        lanes, orders, first, _, entries = batch
        source, targets = training
        shape, pitch, _, _ = network
        inputs = shape[0]
        if own:
            for lane in range(len(lanes)):
                place = orders[lanes[lane]] * entries + first + start
                for s in range(many):
                    sample = np.intp(samples[place + s])
                    for c in range(targets.shape[1]):
                        goals[(c * pitch + s) * width + lane] = targets[sample, c]
                    for k in range(inputs):
                        units[(k * pitch + s) * width + lane] = source[sample * inputs + k]
            return
        place = orders[lanes[0]] * entries + first + start
        for s in range(many):
            sample = np.intp(samples[place + s])
            for c in range(targets.shape[1]):
                store(goals, (c * pitch + s) * width, width, splat(targets[sample, c], width))
            for k in range(inputs):
                features[s * inputs + k] = source[sample * inputs + k]

    return gather
