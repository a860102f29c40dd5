"""Block: a product of axes, as a formula; its rows are computed when asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """The product of named axes; the last axis runs fastest, as in itertools.product. Booleans are 0.0 and 1.0."""

    axes: tuple[tuple[str, tuple[float, ...]], ...]

    def __len__(self) -> int:
        """Number of rows."""
        return math.prod(len(values) for _, values in self.axes)

    def __getitem__(self, name: str) -> tuple[float, ...]:
        """One axis' values."""
        return dict(self.axes)[name]

    def replace(self, name: str, values: tuple[float, ...]) -> Block:
        """The same block with other values on one axis."""
        return Block(tuple((n, values if n == name else v) for n, v in self.axes))

    def split(self, name: str, test: Callable[[float], bool]) -> tuple[Block, Block]:
        """The part where an axis' values pass a test, and the rest; either may be empty."""
        return (
            self.replace(name, tuple(v for v in self[name] if test(v))),
            self.replace(name, tuple(v for v in self[name] if not test(v))),
        )

    def rows(self, indices: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Columns of the rows with these indices."""
        columns = {}
        for name, values in reversed(self.axes):
            indices, digit = np.divmod(indices, len(values))
            columns[name] = np.asarray(values, dtype=np.float64)[digit]
        return {name: columns[name] for name, _ in self.axes}

    def contains(self, columns: dict[str, FloatArray]) -> NDArray[np.bool_]:
        """Which of the given rows are also rows of this block; NaN equals NaN."""
        inside = np.ones(len(next(iter(columns.values()))), dtype=bool)
        for name, values in self.axes:
            inside &= np.isin(columns[name], values) | (np.isnan(columns[name]) & np.isnan(values).any())
        return inside

    def meets(self, other: Block) -> bool:
        """Whether the two blocks share a row."""
        return all(
            set(values) & set(other[name]) or (np.isnan(values).any() and np.isnan(other[name]).any())
            for name, values in self.axes
        )
