"""The rows of scheduled rates that a tile holds in ``fixed``, and where in it the rates of each step are.

``rates`` are lr, momentum (empty if it is constant) and which as in sgdcore.rates.Rates, each group's number there, the
first row, and the steps of a row.
"""

from __future__ import annotations

import numpy as np

from sgdcore.kernels.linear_numba.forms import RATE_ROWS
from sgdcore.kernels.simd.lanes import compiled


@compiled
def hold_rates(fixed, held, places, at, to, rates, begin, trials, running):  # type: ignore[no-untyped-def]
    """Fill ``places`` with the places of the rates of steps ``at``, ``at`` + 1 ...; return the step that they last to.

    ``held`` are the first row and the number of rows in ``fixed``, from ``begin`` on. Others replace them if the rates
    of step ``at`` are not among them.
    """
    lr, momentum, which, groups, first_row, steps_per_row = rates
    lanes = len(running)
    height = len(groups) * lanes * (2 if len(momentum) > 0 else 1)
    row = at // steps_per_row
    if not held[0] <= row < held[0] + held[1]:
        first = row - first_row
        held[0], held[1] = row, min(RATE_ROWS, len(lr) - first)
        starts, columns = _runs(which, trials, running)
        for k in range(held[1]):
            for place in range(len(groups)):
                here = begin + k * height + place * lanes
                _spread(fixed, here, lr[first + k, groups[place]], -1.0, starts, columns)
                if len(momentum) > 0:
                    here += len(groups) * lanes
                    _spread(fixed, here, momentum[first + k, groups[place]], 1.0, starts, columns)
    to = min(to, (held[0] + held[1]) * steps_per_row)
    step = at
    while step < to:
        until = min(to, (row + 1) * steps_per_row)
        for k in range(step - at, until - at):
            places[k] = begin + (row - held[0]) * height
        step, row = until, row + 1
    return to


@compiled
def _runs(which, trials, running):  # type: ignore[no-untyped-def]
    """Return where runs of lanes with the same column start, and their columns; -1 for lanes that do not run."""
    lanes = len(running)
    starts, columns = np.empty(lanes + 1, np.int64), np.empty(lanes, np.int64)
    count = 0
    for lane in range(lanes):
        column = which[trials[lane]] if running[lane] else -1
        if count == 0 or column != columns[count - 1]:
            starts[count], columns[count] = lane, column
            count += 1
    starts[count] = lanes
    return starts[: count + 1], columns[:count]


@compiled
def _spread(fixed, begin, rates, sign, starts, columns):  # type: ignore[no-untyped-def]
    """Write the rate of each run to its lanes; an idle lane stays where it is at a rate of 0."""
    for run in range(len(columns)):
        rate = fixed.dtype.type(0.0 if columns[run] < 0 else sign * rates[columns[run]])
        for lane in range(starts[run], starts[run + 1]):
            fixed[begin + lane] = rate
