"""A perceptron's layers for the numba kernel: forward, gradients and backward for a tile, in register blocks.

Every number of a trial is one element of a row of ``width``, so that all three products are sums over rows:

    forward    z[s, i] = bias[i] + sum_k weight[i, k] h[s, k]
    gradients  g[i, k] = sum_s delta[s, i] h[s, k]
    backward   d[s, k] = slope[s, k] sum_i weight[i, k] delta[s, i]

Each is computed in blocks of 16 sums, so that a value that a block reads is used four times. Every sum is a chain of
fused multiply-adds in the order of its index for any block, so no bit depends on how the work is split.

``tile`` and ``units`` are flat arrays of rows. In ``units``, unit u at sample s of a layer that begins at ``place`` is
row (place + u) * pitch + s; backward overwrites a layer's outputs with its deltas. The first layer's inputs are
numbers that all trials share, or rows like other layers' outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from sgdcore.kernels.simd.lanes import aligned_stack, load, splat, store
from sgdcore.kernels.simd.math import Row, elementwise, elementwise_of_two, sigmoid, tanh
from sgdcore.kernels.simd.matmul import add_product, add_product_shared, grid, load_grid, store_grid

SUMS = 16  # sums per block: with their factors they fill the registers of AVX-512
GRADIENTS = 4  # inputs, and also units, per block of gradients


class Activation(NamedTuple):
    """The functions of an activation. z are a layer's sums, h its outputs, d the derivatives with respect to h."""

    output: Callable[[Row], Row]
    delta: Callable[[Row, Row], Row]  # of (h, d), or of (kept value, d)
    kept: Callable[[Row], Row] | None = None  # of z, if delta cannot be computed from h


def _silu_slope(z: Row) -> Row:
    s = sigmoid(z)
    return s * (z * (z.constant(1) - s) + z.constant(1))


ACTIVATIONS = {
    "relu": Activation(
        lambda z: z.constant(0).where_above(z, z.constant(0), z),
        lambda h, d: h.where_zero(h.constant(0), d),
    ),
    "tanh": Activation(tanh, lambda h, d: d * (h.constant(1) - h * h)),
    "sigmoid": Activation(sigmoid, lambda h, d: d * ((h.constant(1) - h) * h)),
    "silu": Activation(lambda z: z * sigmoid(z), lambda slope, d: slope * d, _silu_slope),
}


class Layers(NamedTuple):
    """The compiled functions for one dtype, set of activations and number of samples per block.

    ``first``, ``hidden`` and ``backward`` take the index of their activation in ACTIVATIONS as the first argument.
    """

    first: Any  # forward: the first layer, whose inputs are shared
    hidden: Any  # layers whose inputs are rows
    output: Any  # the last layer, without an activation
    first_gradients: Any
    gradients: Any
    backward: Any


def inner(*constants: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator for functions that only compiled code calls and that allocate nothing; they compile faster.

    The constants that a function is made for become part of its name. numba distinguishes functions of one name by a
    counter that restarts in every process: code from its disk cache would call another process's function.
    """
    options = {"nogil": True, "error_model": "numpy", "_nrt": False}
    options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ = "_".join([function.__name__, *map(str, constants)])
        return njit(**options)(function)  # type: ignore[call-overload, unused-ignore]

    return decorate


@cache
def layers(dtype: str, activations: tuple[str, ...], samples: int, width: int) -> Layers:
    """Return functions that process ``samples`` at a time; a shorter last block still reads and writes all of them."""
    every = [(dtype, activation, samples, width) for activation in activations]
    return Layers(
        first=_by_activation("first", [_forward(True, *constants) for constants in every], every),
        hidden=_by_activation("hidden", [_forward(False, *constants) for constants in every], every),
        output=_output(samples, width),
        first_gradients=_gradients(True, width),
        gradients=_gradients(False, width),
        backward=_by_activation("backward", [_backward(*constants) for constants in every], every),
    )


def _by_activation(name: str, functions: list[Any], constants: list[tuple[Any, ...]]) -> Any:
    """Return a function that calls the one for its first argument, an index in ACTIVATIONS."""
    (function, *others), (own, *rest) = functions, constants
    if not others:

        @inner(name, *own)
        def only(activation, *arguments):  # type: ignore[no-untyped-def]
            function(*arguments)

        return only
    other, index = _by_activation(name, others, rest), list(ACTIVATIONS).index(own[1])

    @inner(name, *constants)
    def one_of(activation, *arguments):  # type: ignore[no-untyped-def]
        if activation == index:
            function(*arguments)
        else:
            other(activation, *arguments)

    return one_of


def _forward(shared: bool, dtype: str, activation: str, samples: int, width: int) -> Any:
    """Return the forward function; ``across`` and ``along`` are the strides of the source's samples and inputs."""
    units, kind, add = SUMS // samples, ACTIVATIONS[activation], add_product_shared if shared else add_product
    output, keeps, kept = elementwise(kind.output), kind.kept is not None, elementwise(kind.kept or kind.output)

    @inner(shared, dtype, activation, samples, width)
    def forward(source, at, across, along, tile, weights, bias, inputs, count, results, slopes, place, pitch, length):  # type: ignore[no-untyped-def]
        aligned_stack()
        by_unit, to = pitch * width, place * pitch * width
        whole = count // units * units
        for i in range(0, whole, units):
            for s in range(0, length, samples):
                z = grid(samples, load(tile, (bias + i) * width, width, units, width))
                z = add(
                    source,
                    at + s * across,
                    across,
                    along,
                    tile,
                    (weights + i * inputs) * width,
                    inputs * width,
                    width,
                    inputs,
                    z,
                    samples,
                )
                store_grid(results, to + i * by_unit + s * width, width, by_unit, samples, output(z))
                if keeps:
                    store_grid(slopes, to + i * by_unit + s * width, width, by_unit, samples, kept(z))
        for i in range(whole, count):
            for s in range(0, length, samples):
                z = grid(samples, load(tile, (bias + i) * width, width, 1, width))
                z = add(
                    source,
                    at + s * across,
                    across,
                    along,
                    tile,
                    (weights + i * inputs) * width,
                    0,
                    width,
                    inputs,
                    z,
                    samples,
                )
                store(results, to + i * by_unit + s * width, width, output(z))
                if keeps:
                    store(slopes, to + i * by_unit + s * width, width, kept(z))

    return forward


def _output(samples: int, width: int) -> Any:
    """Return the forward function of the last layer; ``by_unit`` is the stride of its inputs and of its outputs."""

    @inner(samples, width)
    def output(source, at, by_unit, tile, weights, bias, inputs, count, results, to, length):  # type: ignore[no-untyped-def]
        aligned_stack()
        for i in range(count):
            row = (weights + i * inputs) * width
            for s in range(0, length * width, samples * width):
                z = grid(samples, load(tile, (bias + i) * width, width, 1, width))
                z = add_product(source, at + s, width, by_unit, tile, row, 0, width, inputs, z, samples)
                store(results, to + i * by_unit + s, width, z)

    return output


def _gradients(shared: bool, width: int) -> Any:
    """Return the function that adds one layer's gradients to the tile; here ``across`` is the stride of inputs."""

    add = add_product_shared if shared else add_product

    @inner(shared, width)
    def gradients(source, at, across, along, tile, weights, biases, inputs, count, units, place, pitch, length):  # type: ignore[no-untyped-def]
        aligned_stack()
        by_unit, by_row, bias = pitch * width, inputs * width, biases * width
        whole_inputs, whole_units = inputs // GRADIENTS * GRADIENTS, count // GRADIENTS * GRADIENTS
        for i in range(0, whole_units, GRADIENTS):
            delta, row = (place + i) * by_unit, (weights + i * inputs) * width
            for k in range(0, whole_inputs, GRADIENTS):
                to, of = row + k * width, at + k * across
                sums = load_grid(tile, to, width, by_row, GRADIENTS, GRADIENTS, width)
                sums = add(source, of, across, along, units, delta, by_unit, width, length, sums, GRADIENTS)
                store_grid(tile, to, width, by_row, GRADIENTS, sums)
            for k in range(whole_inputs, inputs):
                to, of = row + k * width, at + k * across
                sums = load(tile, to, by_row, GRADIENTS, width)
                sums = add(source, of, across, along, units, delta, by_unit, width, length, sums, 1)
                store(tile, to, by_row, sums)
            sums = load(tile, bias + i * width, width, GRADIENTS, width)
            for s in range(0, length * width, width):
                sums = sums + load(units, delta + s, by_unit, GRADIENTS, width)
            store(tile, bias + i * width, width, sums)
        for i in range(whole_units, count):
            delta, row = (place + i) * by_unit, (weights + i * inputs) * width
            for k in range(0, whole_inputs, GRADIENTS):
                to, of = row + k * width, at + k * across
                sums = load(tile, to, width, GRADIENTS, width)
                sums = add(source, of, across, along, units, delta, by_unit, width, length, sums, GRADIENTS)
                store(tile, to, width, sums)
            for k in range(whole_inputs, inputs):
                to, of = row + k * width, at + k * across
                sums = load(tile, to, width, 1, width)
                sums = add(source, of, across, along, units, delta, by_unit, width, length, sums, 1)
                store(tile, to, width, sums)
            sums = load(tile, bias + i * width, width, 1, width)
            for s in range(0, length * width, width):
                sums = sums + load(units, delta + s, by_unit, 1, width)
            store(tile, bias + i * width, width, sums)

    return gradients


def _backward(dtype: str, activation: str, samples: int, width: int) -> Any:
    """Return the function that overwrites the outputs of the layer below with its deltas."""
    inputs_at_once, zero = SUMS // samples, np.dtype(dtype).type(0)
    delta, keeps = elementwise_of_two(ACTIVATIONS[activation].delta), ACTIVATIONS[activation].kept is not None

    @inner(dtype, activation, samples, width)
    def backward(tile, weights, inputs, count, units, slopes, below, place, pitch, length):  # type: ignore[no-untyped-def]
        aligned_stack()
        by_unit = pitch * width
        kept = slopes if keeps else units
        whole = inputs // inputs_at_once * inputs_at_once
        for k in range(0, whole, inputs_at_once):
            for s in range(0, length * width, samples * width):
                sums = grid(samples, grid(inputs_at_once, splat(zero, width)))
                sums = add_product(
                    units,
                    place * by_unit + s,
                    width,
                    by_unit,
                    tile,
                    (weights + k) * width,
                    width,
                    inputs * width,
                    count,
                    sums,
                    samples,
                )
                to = (below + k) * by_unit + s
                slope = load_grid(kept, to, width, by_unit, samples, inputs_at_once, width)
                store_grid(units, to, width, by_unit, samples, delta(slope, sums))
        for k in range(whole, inputs):
            for s in range(0, length * width, samples * width):
                sums = grid(samples, splat(zero, width))
                sums = add_product(
                    units,
                    place * by_unit + s,
                    width,
                    by_unit,
                    tile,
                    (weights + k) * width,
                    width,
                    inputs * width,
                    count,
                    sums,
                    samples,
                )
                to = (below + k) * by_unit + s
                store(units, to, width, delta(load(kept, to, width, samples, width), sums))

    return backward
