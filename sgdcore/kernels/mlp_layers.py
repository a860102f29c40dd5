"""A perceptron's layers for the numba kernel: forward, gradients and backward of a tile of trials, in register blocks.

Every number of a trial is one element of a row of ``width``, so that all three products are sums over rows:

    forward    z[s, i] = bias[i] + sum_k weight[i, k] h[s, k]
    gradients  g[i, k] = sum_s delta[s, i] h[s, k]
    backward   d[s, k] = slope(h[s, k]) sum_i weight[i, k] delta[s, i]

Each is computed a block of 16 sums at a time: a block's factors are read once for four uses or more. Every sum is a
chain of fused multiply-adds in the order of its index, whatever the block, so that no bit depends on how work is cut.

``tile`` and ``units`` are flat arrays of rows. In ``units``, unit u of a layer whose units begin at ``place`` is at
sample s row (place + u) * pitch + s; backward writes a layer's deltas over its outputs. ``slopes`` are laid out alike,
for activations whose slope does not follow from their output, and are empty for others. What feeds the first layer is
read through ``shared`` from (s, k) numbers that all trials see, or as rows of their own.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from sgdcore.kernels.grids import add_products, grid, load_grid, spread_by, store_grid
from sgdcore.kernels.vector_math import functions
from sgdcore.kernels.vectors import load, select, splat, store

ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu")
SUMS = 16  # of a block: with their factors they fill the registers of AVX-512 or of two halves of AVX2
GRADIENTS = 4  # inputs, and units, of a block of gradients


class Layers(NamedTuple):
    """Compiled functions for one dtype, activation and number of samples a block."""

    first: Any  # forward: of the first layer, whose inputs are shared
    hidden: Any  # of layers whose inputs are rows
    output: Any  # of the last layer: one unit, without an activation
    first_gradients: Any
    gradients: Any
    backward: Any


@cache
def layers(dtype: str, activation: str, samples: int, width: int) -> Layers:
    """Functions that take ``samples`` at a time; they read and write so many even of a shorter rest."""
    finish, descend = _activation(dtype, activation, samples, width)
    zero = np.dtype(dtype).type(0)
    units = SUMS // samples
    return Layers(
        first=_forward(_shared(samples, width), finish, samples, units, width),
        hidden=_forward(_own(samples, width), finish, samples, units, width),
        output=_forward(_own(samples, width), _finish(_unchanged, samples, width), samples, 1, width),
        first_gradients=_gradients(_shared, zero, width),
        gradients=_gradients(_own, zero, width),
        backward=_backward(descend, zero, samples, units, width),
    )


@njit(forceinline=True)
def _unchanged(z):  # type: ignore[no-untyped-def]
    return z


def _shared(count: int, width: int) -> Any:
    """Numbers that all trials share, each in a row of its own."""

    @njit(forceinline=True)
    def read(source, at, across):  # type: ignore[no-untyped-def]
        return spread_by(source, at, across, count, width)

    return read


def _own(count: int, width: int) -> Any:
    """Rows of each trial's own numbers."""

    @njit(forceinline=True)
    def read(source, at, across):  # type: ignore[no-untyped-def]
        return load(source, at, across, count, width)

    return read


def _forward(read: Any, finish: Any, samples: int, units: int, width: int) -> Any:
    """One layer's outputs. ``across`` and ``along`` are the distances of the source's samples and of its inputs."""
    blocks = _forward_block(read, finish, samples, units, width), _forward_block(read, finish, samples, 1, width)
    many, single = blocks

    @njit(nogil=True, error_model="numpy")
    def forward(source, at, across, along, tile, weights, inputs, count, results, slopes, place, pitch, length):  # type: ignore[no-untyped-def]
        bias, unit = weights + inputs * count, 0
        while unit + units <= count:
            for s in range(0, length, samples):
                to = (place + unit) * pitch + s
                many(
                    source, at + s * across, across, along, tile, weights + unit * inputs, bias + unit, inputs,
                    results, slopes, to * width, pitch * width,
                )
            unit += units
        for i in range(unit, count):
            for s in range(0, length, samples):
                to = (place + i) * pitch + s
                single(
                    source, at + s * across, across, along, tile, weights + i * inputs, bias + i, inputs,
                    results, slopes, to * width, pitch * width,
                )

    return forward


def _forward_block(read: Any, finish: Any, samples: int, units: int, width: int) -> Any:
    @njit(forceinline=True)
    def block(source, at, across, along, tile, weights, bias, inputs, results, slopes, to, by_unit):  # type: ignore[no-untyped-def]
        sums = grid(samples, load(tile, bias * width, width, units, width))
        for k in range(inputs):
            factors = load(tile, (weights + k) * width, inputs * width, units, width)
            sums = add_products(read(source, at + k * along, across), factors, sums)
        finish(results, slopes, to, by_unit, sums)

    return block


def _gradients(reader: Any, zero: Any, width: int) -> Any:
    """One layer's gradients: of a step's first samples, or added to those of the samples before."""
    sizes = [(a, d) for d in (GRADIENTS, 1) for a in (GRADIENTS, 1)]
    block, edge, low, corner = (_gradient_block(reader(a, width), zero, a, d, width) for a, d in sizes)

    many, single = (_bias_block(zero, d, width) for d in (2 * GRADIENTS, 1))

    @njit(forceinline=True)
    def bias_gradients(tile, bias, count, deltas, place, pitch, length, adds):  # type: ignore[no-untyped-def]
        whole = count // (2 * GRADIENTS) * (2 * GRADIENTS)
        for i in range(0, whole, 2 * GRADIENTS):
            many(tile, (bias + i) * width, deltas, (place + i) * pitch * width, pitch, length, adds)
        for i in range(whole, count):
            single(tile, (bias + i) * width, deltas, (place + i) * pitch * width, pitch, length, adds)

    @njit(nogil=True, error_model="numpy")
    def gradients(source, at, across, along, tile, weights, inputs, count, deltas, place, pitch, length, adds):  # type: ignore[no-untyped-def]
        whole_inputs, whole_units = inputs // GRADIENTS * GRADIENTS, count // GRADIENTS * GRADIENTS
        for i in range(0, whole_units, GRADIENTS):
            delta = (place + i) * pitch * width
            for k in range(0, whole_inputs, GRADIENTS):
                to = (weights + i * inputs + k) * width
                block(source, at + k * along, across, along, tile, to, inputs, deltas, delta, pitch, length, adds)
            for k in range(whole_inputs, inputs):
                to = (weights + i * inputs + k) * width
                edge(source, at + k * along, across, along, tile, to, inputs, deltas, delta, pitch, length, adds)
        for i in range(whole_units, count):
            delta = (place + i) * pitch * width
            for k in range(0, whole_inputs, GRADIENTS):
                to = (weights + i * inputs + k) * width
                low(source, at + k * along, across, along, tile, to, inputs, deltas, delta, pitch, length, adds)
            for k in range(whole_inputs, inputs):
                to = (weights + i * inputs + k) * width
                corner(source, at + k * along, across, along, tile, to, inputs, deltas, delta, pitch, length, adds)
        bias_gradients(tile, weights + inputs * count, count, deltas, place, pitch, length, adds)

    return gradients


def _gradient_block(read: Any, zero: Any, inputs_at_once: int, units_at_once: int, width: int) -> Any:
    size = inputs_at_once * units_at_once

    @njit(forceinline=True)
    def block(source, at, across, along, tile, to, inputs, deltas, delta, pitch, length, adds):  # type: ignore[no-untyped-def]
        if adds:
            sums = load_grid(tile, to, width, inputs * width, inputs_at_once, units_at_once, width)
        else:
            sums = grid(size, splat(zero, width))
        for s in range(length):
            factors = load(deltas, delta + s * width, pitch * width, units_at_once, width)
            sums = add_products(read(source, at + s * across, along), factors, sums)
        store_grid(tile, to, width, inputs * width, inputs_at_once, sums)

    return block


def _bias_block(zero: Any, units_at_once: int, width: int) -> Any:
    @njit(forceinline=True)
    def block(tile, to, deltas, delta, pitch, length, adds):  # type: ignore[no-untyped-def]
        if adds:
            sums = load(tile, to, width, units_at_once, width)
        else:
            sums = grid(units_at_once, splat(zero, width))
        for s in range(length):
            sums = sums + load(deltas, delta + s * width, pitch * width, units_at_once, width)
        store(tile, to, width, sums)

    return block


def _backward(descend: Any, zero: Any, samples: int, inputs_at_once: int, width: int) -> Any:
    """The deltas of the layer below, over its outputs."""
    many, single = (_backward_block(descend(n), zero, samples, n, width) for n in (inputs_at_once, 1))

    @njit(nogil=True, error_model="numpy")
    def backward(tile, weights, inputs, count, rows, slopes, below, place, pitch, length):  # type: ignore[no-untyped-def]
        whole = inputs // inputs_at_once * inputs_at_once
        for k in range(0, whole, inputs_at_once):
            for s in range(0, length, samples):
                many(tile, weights + k, inputs, count, rows, slopes, (below + k) * pitch + s, place * pitch + s, pitch)
        for k in range(whole, inputs):
            for s in range(0, length, samples):
                single(tile, weights + k, inputs, count, rows, slopes, (below + k) * pitch + s, place * pitch + s, pitch)

    return backward


def _backward_block(descend: Any, zero: Any, samples: int, inputs_at_once: int, width: int) -> Any:
    size = samples * inputs_at_once

    @njit(forceinline=True)
    def block(tile, weights, inputs, count, rows, slopes, to, delta, pitch):  # type: ignore[no-untyped-def]
        sums = grid(size, splat(zero, width))
        for i in range(count):
            factors = load(tile, (weights + i * inputs) * width, width, inputs_at_once, width)
            sums = add_products(load(rows, (delta + i * pitch) * width, width, samples, width), factors, sums)
        descend(rows, slopes, to * width, pitch * width, sums)

    return block


def _activation(dtype: str, name: str, samples: int, width: int) -> tuple[Any, Any]:
    """Two functions of a block: outputs from sums; deltas from outputs, or from kept slopes, and the deltas' sums."""
    zero, one = (np.dtype(dtype).type(n) for n in (0, 1))
    sigmoid, tanh = functions(dtype, width)

    @njit(forceinline=True)
    def relu(z):  # type: ignore[no-untyped-def]
        return select(splat(zero, width) > z, splat(zero, width), z)

    @njit(forceinline=True)
    def relu_deltas(h, d):  # type: ignore[no-untyped-def]
        return select(h != splat(zero, width), d, splat(zero, width))

    @njit(forceinline=True)
    def tanh_deltas(h, d):  # type: ignore[no-untyped-def]
        return d * (splat(one, width) - h * h)

    @njit(forceinline=True)
    def sigmoid_deltas(h, d):  # type: ignore[no-untyped-def]
        return d * ((splat(one, width) - h) * h)

    if name == "silu":
        return _finish_silu(sigmoid, one, samples, width), lambda units: _descend_kept(samples, units, width)
    outputs, deltas = {
        "relu": (relu, relu_deltas),
        "tanh": (tanh, tanh_deltas),
        "sigmoid": (sigmoid, sigmoid_deltas),
    }[name]
    return _finish(outputs, samples, width), lambda units: _descend(deltas, samples, units, width)


def _finish(outputs: Any, samples: int, width: int) -> Any:
    @njit(forceinline=True)
    def finish(results, slopes, to, by_unit, sums):  # type: ignore[no-untyped-def]
        store_grid(results, to, width, by_unit, samples, outputs(sums))

    return finish


def _finish_silu(sigmoid: Any, one: Any, samples: int, width: int) -> Any:
    @njit(forceinline=True)
    def finish(results, slopes, to, by_unit, sums):  # type: ignore[no-untyped-def]
        s = sigmoid(sums)
        store_grid(results, to, width, by_unit, samples, sums * s)
        slope = s * (splat(one, width) + sums * (splat(one, width) - s))
        store_grid(slopes, to, width, by_unit, samples, slope)

    return finish


def _descend(deltas: Any, samples: int, units: int, width: int) -> Any:
    @njit(forceinline=True)
    def descend(rows, slopes, at, by_unit, sums):  # type: ignore[no-untyped-def]
        outputs = load_grid(rows, at, width, by_unit, samples, units, width)
        store_grid(rows, at, width, by_unit, samples, deltas(outputs, sums))

    return descend


def _descend_kept(samples: int, units: int, width: int) -> Any:
    @njit(forceinline=True)
    def descend(rows, slopes, at, by_unit, sums):  # type: ignore[no-untyped-def]
        slope = load_grid(slopes, at, width, by_unit, samples, units, width)
        store_grid(rows, at, width, by_unit, samples, slope * sums)

    return descend
