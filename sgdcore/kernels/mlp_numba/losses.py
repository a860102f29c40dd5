"""Losses for the numba kernel for perceptrons: their derivatives in the outputs, and their sums over samples.

They have torch's values, also for NaN and at the edges between their parts. ``network`` and the goals are those of
passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sgdcore.kernels.mlp_numba.layers import inner
from sgdcore.kernels.simd.lanes import load, load_double, select, splat, store
from sgdcore.kernels.simd.math import elementwise, exp, log_cosh, tanh
from sgdcore.kernels.simd.matmul import grid
from sgdcore.tasks.losses import LOSSES

_MSE, _MAE, _HUBER, _LOG_COSH, _QUANTILE = map(LOSSES.index, ("mse", "mae", "huber", "log_cosh", "quantile"))
_exp, _tanh, _log_cosh = elementwise(exp), elementwise(tanh), elementwise(log_cosh)


def losses_of_batches(dtype: str, at_once: int, width: int) -> Any:
    """Return the function that overwrites outputs with the derivatives of a batch's mean loss."""
    number = np.dtype(dtype).type
    of_errors = _of_errors(dtype, at_once, width)

    @inner(dtype, at_once, width)
    def loss_deltas(scratch, at, goal_columns, network, length, count):  # type: ignore[no-untyped-def]
        """Overwrite the outputs; weights are the column of goals after the targets."""
        units, _, _, goals = scratch
        shape, pitch, loss, option = network
        outputs, by_unit = shape[len(shape) - 1], pitch * width
        share = 1.0 / (count * outputs)
        scale = splat(number(share), width)
        for i in range(outputs):
            to, of = at + i * by_unit, i * by_unit
            if loss <= _QUANTILE:
                of_errors(units, to, goals, of, loss, option, share, length)
            else:
                for s in range(0, length * width, at_once * width):
                    rate = _exp(load(units, to + s, width, at_once, width))
                    store(units, to + s, width, scale * (rate - load(goals, of + s, width, at_once, width)))
            if goal_columns > outputs:
                for s in range(0, length * width, at_once * width):
                    weight = load(goals, outputs * by_unit + s, width, at_once, width)
                    store(units, to + s, width, load(units, to + s, width, at_once, width) * weight)

    return loss_deltas


def _of_errors(dtype: str, at_once: int, width: int) -> Any:
    """Return the function for losses of the difference between output and target."""
    zero, number = np.dtype(dtype).type(0), np.dtype(dtype).type

    @inner(dtype, at_once, width)
    def of_errors(units, at, goals, of, loss, option, share, length):  # type: ignore[no-untyped-def]
        """Overwrite one output."""
        scale = splat(number(2.0 * share if loss == _MSE else share), width)
        low, high = splat(zero, width) - scale, scale
        knee, tied, unknown = splat(zero, width), splat(zero, width), splat(zero, width)
        if loss == _MAE:
            scale = splat(zero, width)
        elif loss == _HUBER:
            knee = splat(number(option), width)
            low, high = low * knee, high * knee
        elif loss == _QUANTILE:
            low, high = splat(number(-option * share), width), splat(number((1.0 - option) * share), width)
            tied, unknown = (
                splat(number((0.5 - option) * share), width),
                splat(number((1.0 - 2.0 * option) * share), width),
            )
        for s in range(0, length * width, at_once * width):
            residual = load(units, at + s, width, at_once, width) - load(goals, of + s, width, at_once, width)
            if loss == _LOG_COSH:
                slope = scale * _tanh(residual)
            elif loss == _QUANTILE:
                slope = grid(at_once, tied)
            else:
                slope = scale * residual
            if loss != _MSE and loss != _LOG_COSH:
                slope = select(residual > knee, high, slope)
                slope = select(splat(zero, width) - knee > residual, low, slope)
            if loss == _MAE or loss == _QUANTILE:  # noqa: SIM109 - a tuple would have to be compiled
                slope = select(residual != residual, unknown, slope)
            store(units, at + s, width, slope)

    return of_errors


def losses_of_sets(width: int) -> Any:
    """Return the function that adds every trial's losses over samples, in float64."""

    @inner(width)
    def add_losses(units, at, goals, start, many, network, losses):  # type: ignore[no-untyped-def]
        """Add every trial's losses for outputs that are rows."""
        shape, pitch, loss, option = network
        outputs = shape[len(shape) - 1]
        sums, zero, half, knee = (
            load(losses, 0, width, 1, width),
            splat(0.0, width),
            splat(0.5, width),
            splat(option, width),
        )
        for s in range(many):
            for i in range(outputs):
                output = load_double(units, at + (i * pitch + s) * width, width)
                target = splat(np.float64(goals[start + s, i]), width)
                residual = output - target
                size = select(residual > zero, residual, zero - residual)
                if loss == _MSE:
                    value = residual * residual
                elif loss == _MAE:
                    value = size
                elif loss == _HUBER:
                    value = select(knee > size, half * size * size, knee * (size - half * knee))
                elif loss == _LOG_COSH:
                    value = _log_cosh(residual)
                elif loss == _QUANTILE:
                    value = select(residual > zero, residual - knee * residual, zero - knee * residual)
                else:
                    value = _exp(output) - target * output
                if goals.shape[1] > outputs:
                    value = value * splat(np.float64(goals[start + s, outputs]), width)
                sums = sums + value
        store(losses, 0, width, sums)

    return add_losses
