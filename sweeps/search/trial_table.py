"""Tables of trials, whose values are listed instead of computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweeps.search.base import FloatArray, Mask, TrialSet


@dataclass(frozen=True, eq=False)
class TrialTable:
    """A table of trials: arrays of equal length by column name."""

    columns: Mapping[str, FloatArray]

    @classmethod
    def of(cls, sets: Sequence[TrialSet]) -> TrialTable:
        """Return all rows of several sets, in order."""
        parts = [each.rows(np.arange(len(each), dtype=np.int64)) for each in sets]
        return cls({name: np.concatenate([part[name] for part in parts]) for name in sets[0].names})

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(self.columns)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> FloatArray:
        """Return a column."""
        return self.columns[name]

    def rows(self, indices: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Return the columns of the rows with these indices."""
        return {name: values[indices] for name, values in self.columns.items()}

    def take(self, mask: Mask) -> TrialTable:
        """Return the rows where a mask is true."""
        return TrialTable({name: values[mask] for name, values in self.columns.items()})

    def replace(self, name: str, values: FloatArray) -> TrialTable:
        """Return the table with a column replaced."""
        return TrialTable({**self.columns, name: values})

    def keys(self) -> Iterator[bytes]:
        """Yield a key per row; equal rows have equal keys, NaN equals NaN."""
        matrix = np.column_stack([self.columns[name] for name in sorted(self.columns)]) + 0.0  # no negative zeros
        matrix[np.isnan(matrix)] = np.nan  # one bit pattern
        return (row.tobytes() for row in matrix)
