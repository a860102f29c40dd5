"""The batches of a segment as the step functions read them: single samples, or blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.batches import steps_per_epoch
from sgdcore.kernels.base import Problem, Segment
from sgdcore.kernels.linear_numba.forms import RECTANGLE, TRIANGLE, Form
from sgdcore.kernels.linear_numba.qr_blocks import blocks_of_rows

EXACT = 2  # largest batch whose sums equal torch's bit for bit
ROW_BYTES = 1 << 24  # bytes of rows at a time, for a run of any length


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of the steps up to ``stop``: step t uses row (t - origin) % len(table) of the table.

    For samples, the table holds their indices in ``data`` (the features) and ``targets``, -1 for none. For blocks of
    rows, it holds their offsets in ``data``.
    """

    form: Form
    data: NDArray[Any]
    targets: NDArray[Any]
    table: NDArray[Any]
    origin: int
    stop: int

    def arrays(self, ahead: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], int]:
        """Return data, targets, the table and its length, for the compiled code.

        The first rows of the table are repeated after its end, so that ``ahead`` steps from any row are contiguous.
        """
        rows, size = self.table.shape
        again = np.resize(self.table, (rows + ahead - 1, size)).astype(np.int64)
        return self.data, self.targets, again, rows


def stretches(problem: Problem, segment: Segment, start: int) -> Iterator[Batches]:
    """Yield the segment's batches from step ``start`` on: all at once, or in parts that fit in memory."""
    n, dtype = problem.features.shape[0], problem.features.dtype
    size, per_epoch = min(segment.batch_size, n), steps_per_epoch(n, segment.batch_size)
    origin, samples = segment.first_epoch * per_epoch, segment.samples.reshape(-1, n)
    if size == n and n > EXACT:
        samples = np.arange(n, dtype=samples.dtype)[np.newaxis]  # a full batch: the order does not matter
    table = np.full((len(samples), per_epoch * size), -1, samples.dtype)
    table[:, :n] = samples
    table = table.reshape(-1, size)
    shape = (dtype.name, problem.features.shape[1], problem.bias)
    if size <= EXACT:
        yield Batches(Form(*shape, size), problem.features.ravel(), problem.targets, table, origin, segment.stop)
        return
    design = np.hstack([problem.features, np.ones((n, int(problem.bias)), dtype)])
    parameters = design.shape[1]
    form = Form(*shape, TRIANGLE, parameters) if size > parameters else Form(*shape, RECTANGLE, size)
    if segment.stop - start > len(table):  # each row is used more than once
        data, places = _laid_out(problem, design, table, form)
        yield Batches(form, data, problem.targets, places, origin, segment.stop)
        return
    most = max(1, ROW_BYTES // (form.numbers * dtype.itemsize))
    while True:
        first = (start - origin) % len(table)
        rows = table[first : first + min(most, segment.stop - start)]
        data, places = _laid_out(problem, design, rows, form)
        yield Batches(form, data, problem.targets, places, start, start + len(rows))
        start += len(rows)
        if start == segment.stop:
            return


def _laid_out(
    problem: Problem, design: NDArray[Any], table: NDArray[Any], form: Form
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows of these batches and a table of their offsets."""
    assert problem.training is not None
    directions = problem.training.right if len(problem.training.right) else np.zeros((1, design.shape[1]))
    steepest = directions[0] if form.batch == TRIANGLE else None
    data = blocks_of_rows(design, problem.targets, table, form.block, steepest).ravel()
    return data, np.arange(len(table), dtype=table.dtype)[:, np.newaxis]
