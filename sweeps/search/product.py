"""Products of axes, whose rows are computed on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeps.search.base import FloatArray, Mask

_FEW = 10_000  # comparisons; up to this number a direct comparison is faster than sorting


@dataclass(frozen=True, eq=False)
class Product:
    """The product of named axes, in the order of itertools.product: the last axis varies fastest."""

    axes: tuple[tuple[str, FloatArray], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The axes' names."""
        return tuple(name for name, _ in self.axes)

    def __len__(self) -> int:
        """Return the number of rows."""
        return math.prod(len(values) for _, values in self.axes)

    def __getitem__(self, name: str) -> FloatArray:
        """Return the values of an axis."""
        return dict(self.axes)[name]

    def replace(self, name: str, values: FloatArray) -> Product:
        """Return the product with other values on one axis."""
        return Product(tuple((n, values if n == name else v) for n, v in self.axes))

    def split(self, name: str, test: Callable[[FloatArray], Mask]) -> tuple[Product, Product]:
        """Return the part for which an axis's values pass a test, and the rest; either can be empty."""
        values = self[name]
        passed = test(values)
        return self.replace(name, values[passed]), self.replace(name, values[~passed])

    def rows(self, indices: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Return the columns of the rows with these indices."""
        columns = {}
        for name, values in reversed(self.axes):
            indices, digit = np.divmod(indices, len(values))
            columns[name] = values[digit]
        return {name: columns[name] for name, _ in self.axes}

    def without(self, other: Product) -> list[Product]:
        """Return the rows that the other product does not contain, as at most one product per axis.

        The first holds the rows that differ in the first axis, the second those that first differ in the second axis,
        and so on.
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
    """Products overlap in too many places to separate them in reasonable time."""


def disjoint(blocks: Sequence[Product], comparisons: int) -> Iterator[list[Product]]:
    """Yield each block split into products without the rows of earlier blocks; NaN equals NaN.

    Raises:
        TooManyOverlaps: more than ``comparisons`` pairs of blocks would have to be compared.
    """
    boxes = [_box(block) for block in blocks]
    lows, highs = np.array([low for low, _ in boxes]), np.array([high for _, high in boxes])
    for n, block in enumerate(blocks):
        pieces = [block]
        # Most pairs of blocks are disjoint, and one comparison of all bounding boxes finds those that are not.
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
    """Return the smallest and the largest value of each axis, in the order of names; NaN counts as -inf."""
    values = [np.where(np.isnan(block[name]), -np.inf, block[name]) for name in sorted(dict(block.axes))]
    return np.array([v.min() for v in values]), np.array([v.max() for v in values])


def _is_in(values: FloatArray, others: FloatArray) -> Mask:
    if len(values) * len(others) <= _FEW:
        inside: Mask = (values[:, np.newaxis] == others).any(axis=1)
    else:
        inside = np.isin(values, others)
    return inside | (np.isnan(values) & np.isnan(others).any())
