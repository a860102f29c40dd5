"""Scheduled rates: the rows that a tile holds in ``fixed``, and where in it the rates of each step are.

``rates`` are -lr and momentum (empty if it is constant) in the run's dtype, and which as in sgdcore.rates.Rates, the
number of each group there, the first row, and the steps of a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.kernels.linear_numba.forms import RATE_ROWS
from sgdcore.kernels.simd.lanes import GROUP, compiled, splat, store
from sgdcore.kernels.simd.memory import or_empty
from sgdcore.rates import Rates


def rate_arrays(rates: Rates | None, groups: list[int], dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the scheduled rates of these groups for the compiled code; empty arrays if there are none."""
    numbers: NDArray[np.uintp] = np.array(groups, np.uintp)
    if rates is None:
        return or_empty(None, 3, dtype), or_empty(None, 3, dtype), or_empty(None, 1, np.uintp), numbers, 0, 1
    lr = np.empty(rates.lr.shape, dtype)
    np.negative(rates.lr, out=lr, casting="unsafe")
    momentum = or_empty(None, 3, dtype) if rates.momentum is None else rates.momentum.astype(dtype)
    return lr, momentum, rates.which.astype(np.uintp), numbers, rates.first_row, rates.steps_per_row


@compiled
def note_columns(columns, shared, which, trials):  # type: ignore[no-untyped-def]
    """Note the rates' column of every lane, and which GROUPs of lanes have one in common; once per tile."""
    for lane in range(len(columns)):
        columns[lane] = which[trials[min(lane, len(trials) - 1)]]
    for group in range(len(shared)):
        others = 0
        for lane in range(group * GROUP + 1, (group + 1) * GROUP):
            others += columns[lane] != columns[group * GROUP]
        shared[group] = others == 0


@compiled
def hold_rates(fixed, held, places, at, to, rates, begin, columns, shared, running):  # type: ignore[no-untyped-def]
    """Fill ``places`` with the places of the rates of steps ``at``, ``at`` + 1 ...; return the step that they last to.

    ``held`` are the first row and the number of rows in ``fixed``, from ``begin`` on. Others replace them if the rates
    of step ``at`` are not among them.
    """
    lr, momentum, _, groups, first_row, steps_per_row = rates
    height = len(groups) * len(running) * (2 if len(momentum) > 0 else 1)
    row = at // steps_per_row
    if not held[0] <= row < held[0] + held[1]:
        held[0], held[1] = row, min(RATE_ROWS, first_row + len(lr) - row)
        _fill(fixed, begin, rates, row - first_row, held[1], columns, shared, running)
    to = min(to, (held[0] + held[1]) * steps_per_row)
    step = at
    while step < to:
        until = min(to, (row + 1) * steps_per_row)
        for k in range(step - at, until - at):
            places[k] = begin + (row - held[0]) * height
        step, row = until, row + 1
    return to


@compiled
def _fill(fixed, begin, rates, first, count, columns, shared, running):  # type: ignore[no-untyped-def]
    """Write ``count`` rows of rates, from ``first`` on: -lr of every group, then its momentum if it is scheduled."""
    lr, momentum, _, groups, _, _ = rates
    lanes, here = len(running), begin
    for row in range(np.uintp(first), np.uintp(first + count)):
        for group in groups:
            _spread(fixed, here, lr[row, group], columns, shared)
            here += lanes
        if len(momentum) > 0:
            for group in groups:
                _spread(fixed, here, momentum[row, group], columns, shared)
                here += lanes
    for lane in range(lanes):
        if not running[lane]:  # an idle lane stays where it is at rates of 0
            for at in range(begin + lane, here, lanes):
                fixed[at] = fixed.dtype.type(0)


@compiled
def _spread(fixed, begin, rates, columns, shared):  # type: ignore[no-untyped-def]
    """Write the rate of every lane."""
    for group in range(np.uintp(len(shared))):
        first = group * np.uintp(GROUP)
        if shared[group]:
            store(fixed, begin + first, GROUP, splat(rates[columns[first]], GROUP))
        else:
            for lane in range(first, first + np.uintp(GROUP)):
                fixed[np.uintp(begin) + lane] = rates[columns[lane]]
