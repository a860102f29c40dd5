"""A perceptron's passes for the numba kernel: a batch's gradients, and the losses over a whole set, of a tile of trials.

``scratch`` is what a pass works in: ``units`` and ``slopes`` as mlp_layers has them (the first layer's inputs first, for
trials that differ in their samples), the batch's features as (s, k) numbers, and its targets as rows.
``network`` is (shape, pitch, loss, delta): the layers' widths from the inputs to the output, samples worked on together,
the loss's place in LOSSES, and the Huber loss's delta.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from sgdcore.kernels.linear_numba import _aligned
from sgdcore.kernels.mlp_layers import ACTIVATIONS, layers
from sgdcore.kernels.vectors import compiled, load, load_double, select, splat, store
from sgdcore.tasks.task import LOSSES

_MSE, _MAE = LOSSES.index("mse"), LOSSES.index("mae")
_OPTIONS = {"nogil": True, "error_model": "numpy"}


class _Passes(NamedTuple):
    differentiate: Any
    full_losses: Any


@compiled
def make_scratch(dtype, network, width):  # type: ignore[no-untyped-def]
    """Room for a tile's passes; finite from the start, as blocks reach beyond a batch's end."""
    shape, pitch, _, _ = network
    units, slopes = _aligned(shape.sum() * pitch * width, dtype), _aligned(shape.sum() * pitch * width, dtype)
    inputs, goals = _aligned(pitch * shape[0], dtype), _aligned(pitch * width, dtype)
    for array in (units, slopes, inputs, goals):
        array[:] = dtype.type(0)
    return units, slopes, inputs, goals


def differentiate(*arguments: Any) -> None:
    """Leave the gradients of a batch's mean loss in the tile."""
    raise NotImplementedError("compiled code only")


def full_losses(*arguments: Any) -> None:
    """Every trial's mean loss over (features, targets), in float64."""
    raise NotImplementedError("compiled code only")


@overload(differentiate, jit_options=_OPTIONS, prefer_literal=True)
def _differentiate(tile, scratch, training, samples, batch, network, activation, at_once, width):  # type: ignore[no-untyped-def]
    passes = _chosen(tile, activation, at_once, width)
    if passes is None:
        return None
    chosen = passes.differentiate

    def call(tile, scratch, training, samples, batch, network, activation, at_once, width):  # type: ignore[no-untyped-def]
        chosen(tile, scratch, training, samples, batch, network)

    return call


@overload(full_losses, jit_options=_OPTIONS, prefer_literal=True)
def _full_losses(tile, scratch, data, network, losses, activation, at_once, width):  # type: ignore[no-untyped-def]
    passes = _chosen(tile, activation, at_once, width)
    if passes is None:
        return None
    chosen = passes.full_losses

    def call(tile, scratch, data, network, losses, activation, at_once, width):  # type: ignore[no-untyped-def]
        chosen(tile, scratch, data, network, losses)

    return call


def _chosen(tile: Any, *constants: Any) -> _Passes | None:
    if not all(isinstance(constant, types.IntegerLiteral) for constant in constants):
        return None
    activation, at_once, width = (constant.literal_value for constant in constants)
    return _passes(str(tile.dtype), ACTIVATIONS[activation], at_once, width)


@cache
def _passes(dtype: str, activation: str, at_once: int, width: int) -> _Passes:
    first, hidden, output, first_gradients, gradients, backward = layers(dtype, activation, at_once, width)
    gather, loss_deltas, add_losses = _gather(width), _loss_deltas(dtype, at_once, width), _add_losses(width)

    @compiled
    def forward(tile, scratch, features, start, own, network, length):  # type: ignore[no-untyped-def]
        units, slopes, _, _ = scratch
        shape, pitch, _, _ = network
        weights, place = 0, shape[0]
        for layer in range(len(shape) - 1):
            inputs, count = shape[layer], shape[layer + 1]
            at = (place - inputs) * pitch * width
            if layer == len(shape) - 2:
                output(
                    units, at, width, pitch * width, tile, weights, inputs, count, units, slopes, place, pitch, length
                )
            elif layer > 0 or own:
                hidden(
                    units, at, width, pitch * width, tile, weights, inputs, count, units, slopes, place, pitch, length
                )
            else:
                first(
                    features, start * inputs, inputs, 1, tile, weights, inputs, count, units, slopes, place, pitch, length
                )
            weights += (inputs + 1) * count
            place += count

    @compiled
    def differentiate(tile, scratch, training, samples, batch, network):  # type: ignore[no-untyped-def]
        units, slopes, features, _ = scratch
        shape, pitch, _, _ = network
        lanes, orders, _, count, _ = batch
        parameters = ((shape[:-1] + 1) * shape[1:]).sum()
        own = orders[lanes[0]] != orders[lanes[-1]]
        for start in range(0, count, pitch):
            many = min(pitch, count - start)
            length = (many + at_once - 1) // at_once * at_once
            gather(scratch, training, samples, batch, start, many, own, network)
            forward(tile, scratch, features, 0, own, network, length)
            weights, place = parameters, shape[:-1].sum()
            loss_deltas(scratch, place * pitch * width, network, length, count)
            for layer in range(len(shape) - 2, -1, -1):
                inputs, fan_out = shape[layer], shape[layer + 1]
                weights -= (inputs + 1) * fan_out
                below = place - inputs
                to = parameters + weights
                if layer > 0 or own:
                    gradients(
                        units, below * pitch * width, width, pitch * width,
                        tile, to, inputs, fan_out, units, place, pitch, many, start > 0,
                    )
                else:
                    first_gradients(
                        features, 0, inputs, 1, tile, to, inputs, fan_out, units, place, pitch, many, start > 0
                    )
                if layer > 0:
                    backward(tile, weights, inputs, fan_out, units, slopes, below, place, pitch, length)
                place = below

    @compiled
    def full_losses(tile, scratch, data, network, losses):  # type: ignore[no-untyped-def]
        units, _, _, _ = scratch
        shape, pitch, _, _ = network
        features, targets = data
        losses[:] = 0.0
        for start in range(0, len(targets), pitch):
            many = min(pitch, len(targets) - start)
            length = (many + at_once - 1) // at_once * at_once
            forward(tile, scratch, features, start, False, network, length)
            add_losses(units, shape[:-1].sum() * pitch * width, targets[start : start + many], network, losses)
        losses /= len(targets)

    return _Passes(differentiate, full_losses)


def _gather(width: int) -> Any:
    @compiled
    def gather(scratch, training, samples, batch, start, many, own, network):  # type: ignore[no-untyped-def]
        """Fetch the features and targets of ``many`` of the batch's samples."""
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
                    goals[s * width + lane] = targets[sample]
                    for k in range(inputs):
                        units[(k * pitch + s) * width + lane] = source[sample * inputs + k]
            return
        place = orders[lanes[0]] * entries + first + start
        for s in range(many):
            sample = np.intp(samples[place + s])
            store(goals, s * width, width, splat(targets[sample], width))
            for k in range(inputs):
                features[s * inputs + k] = source[sample * inputs + k]

    return gather


def _loss_deltas(dtype: str, at_once: int, width: int) -> Any:
    zero, one, number = np.dtype(dtype).type(0), np.dtype(dtype).type(1), np.dtype(dtype).type

    @compiled
    def loss_deltas(scratch, at, network, length, count):  # type: ignore[no-untyped-def]
        """The derivatives of the batch's mean loss, over the outputs; as torch has them, NaN included."""
        units, _, _, goals = scratch
        _, _, loss, delta = network
        scale = splat(number((2.0 if loss == _MSE else 1.0) / count), width)
        low, high = splat(zero, width) - scale, scale
        knee = splat(zero, width)
        if loss == _MAE:
            scale = splat(zero, width)
        elif loss != _MSE:
            knee = splat(number(delta), width)
            low, high = low * knee, high * knee
        for s in range(0, length * width, at_once * width):
            residual = load(units, at + s, width, at_once, width) - load(goals, s, width, at_once, width)
            slope = scale * residual
            if loss != _MSE:
                slope = select(residual > knee, high, slope)
                slope = select(splat(zero, width) - knee > residual, low, slope)
            store(units, at + s, width, slope)

    return loss_deltas


def _add_losses(width: int) -> Any:
    @compiled
    def add_losses(units, at, targets, network, losses):  # type: ignore[no-untyped-def]
        """Add every trial's losses, of outputs that are rows."""
        _, _, loss, delta = network
        sums, zero, half, knee = load(losses, 0, width, 1, width), splat(0.0, width), splat(0.5, width), splat(delta, width)
        for s in range(len(targets)):
            residual = load_double(units, at + s * width, width) - splat(np.float64(targets[s]), width)
            size = select(residual > zero, residual, zero - residual)
            if loss == _MSE:
                sums = sums + residual * residual
            elif loss == _MAE:
                sums = sums + size
            else:
                sums = sums + select(knee > size, half * size * size, knee * (size - half * knee))
        store(losses, 0, width, sums)

    return add_losses
