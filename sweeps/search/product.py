"""Product: the trials of a product of axes, as a formula; rows are computed on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeps.search.base import FloatArray, Mask

_FEW = 10_000  # comparisons, which are quicker made one by one than sorted for


@dataclass(frozen=True, eq=False)
class Product:
    """The product of named axes; the last axis runs fastest, as in itertools.product. Booleans are 0.0 and 1.0."""

    axes: tuple[tuple[str, FloatArray], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The axes' names."""
        return tuple(name for name, _ in self.axes)

    def __len__(self) -> int:
        """Number of rows."""
        return math.prod(len(values) for _, values in self.axes)

    def __getitem__(self, name: str) -> FloatArray:
        """One axis' values."""
        return dict(self.axes)[name]

    def replace(self, name: str, values: FloatArray) -> Product:
        """The same block with other values on one axis."""
        return Product(tuple((n, values if n == name else v) for n, v in self.axes))

    def split(self, name: str, test: Callable[[FloatArray], Mask]) -> tuple[Product, Product]:
        """The part where an axis' values pass a test, and the rest; either may be empty."""
        values = self[name]
        passed = test(values)
        return self.replace(name, values[passed]), self.replace(name, values[~passed])

    def rows(self, indices: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Columns of the rows with these indices."""
        columns = {}
        for name, values in reversed(self.axes):
            indices, digit = np.divmod(indices, len(values))
            columns[name] = values[digit]
        return {name: columns[name] for name, _ in self.axes}

    def without(self, other: Product) -> list[Product]:
        """The rows that the other block does not have, as blocks of their own: at most one for each axis.

        What differs from the other in its first axis; what does not, but differs in the second; and so on.
        """
        theirs = dict(other.axes)
        shared = [_is_in(values, theirs[name]) for name, values in self.axes]
        if not all(mask.any() for mask in shared):
            return [self]
        pieces, rest = [], self
        for (name, values), mask in zip(self.axes, shared, strict=True):
            if not mask.all():
                pieces.append(rest.replace(name, values[~mask]))
                rest = rest.replace(name, values[mask])
        return pieces


class TooManyOverlaps(ValueError):
    """Blocks lie across each other in so many places that to part them would take too long."""


def disjoint(blocks: Sequence[Product], comparisons: int) -> Iterator[list[Product]]:
    """Each block as blocks without the rows of those before it; NaN equals NaN.

    Raises:
        TooManyOverlaps: that takes more than so many comparisons of two blocks.
    """
    boxes = [_box(block) for block in blocks]
    lows, highs = np.array([low for low, _ in boxes]), np.array([high for _, high in boxes])
    for n, block in enumerate(blocks):
        pieces = [block]
        # Most blocks lie apart from most others, and a glance at all their boxes at once tells.
        near = ((lows[:n] <= highs[n]) & (lows[n] <= highs[:n])).all(axis=1)
        for i in np.flatnonzero(near).tolist():
            comparisons -= len(pieces)
            if comparisons < 0:
                raise TooManyOverlaps
            pieces = [part for piece in pieces for part in piece.without(blocks[i])]
            if not pieces:
                break
        yield pieces


def _box(block: Product) -> tuple[FloatArray, FloatArray]:
    """The least and the largest value on each axis, in the order of their names; NaN is the least of all."""
    values = [np.where(np.isnan(block[name]), -np.inf, block[name]) for name in sorted(dict(block.axes))]
    return np.array([v.min() for v in values]), np.array([v.max() for v in values])


def _is_in(values: FloatArray, others: FloatArray) -> Mask:
    if len(values) * len(others) <= _FEW:
        inside: Mask = (values[:, np.newaxis] == others).any(axis=1)
    else:
        inside = np.isin(values, others)
    return inside | (np.isnan(values) & np.isnan(others).any())
