"""Mergeable summaries of many rows: the first k rows in an order, and the distinct values of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MAX_DISTINCT = 65_536  # distinct values kept exactly

Key = NDArray[Any]


@dataclass(frozen=True, eq=False)
class TopK:
    """The first rows of a table when sorted by the keys in ascending order, NaN last.

    The keys must be unique per row; then the sum does not depend on how the rows were grouped.
    """

    table: pa.Table
    keys: tuple[Key, ...]
    limit: int
    total: int  # number of rows considered

    @classmethod
    def of(cls, table: pa.Table, rows: NDArray[np.intp], keys: Sequence[Key], limit: int) -> TopK:
        """Select the first ``limit`` of ``rows``; ``keys`` are columns of the whole table."""
        chosen = rows[_first([key[rows] for key in keys], limit)]
        return cls(table.take(pa.array(chosen)), tuple(key[chosen] for key in keys), limit, len(rows))

    def __add__(self, other: TopK) -> TopK:
        """Return the first rows of both."""
        keys = [np.concatenate(pair) for pair in zip(self.keys, other.keys, strict=True)]
        table = pa.concat_tables([self.table, other.table])
        both = TopK.of(table, np.arange(len(table)), keys, self.limit)
        return replace(both, total=self.total + other.total)

    def __len__(self) -> int:
        """Return the number of rows kept."""
        return len(self.table)


@dataclass(frozen=True, eq=False)
class DistinctValues:
    """The distinct values of a column, ascending: all of them or, beyond MAX_DISTINCT, both ends and a uniform sample.

    The sample consists of the values with the smallest hashes, so it does not depend on how the rows were grouped.
    """

    sample: NDArray[np.float64]
    least: float
    greatest: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> DistinctValues:
        """Collect the distinct values of an array without NaN."""
        distinct = np.unique(values.astype(np.float64))
        if not len(distinct):
            return cls(distinct, np.inf, -np.inf)
        return cls(_sampled(distinct), float(distinct[0]), float(distinct[-1]))

    def __add__(self, other: DistinctValues) -> DistinctValues:
        """Return the distinct values of both."""
        sample = _sampled(np.union1d(self.sample, other.sample))
        return DistinctValues(sample, min(self.least, other.least), max(self.greatest, other.greatest))

    def __len__(self) -> int:
        """Return the number of distinct values; an estimate if only a sample is kept."""
        if len(self.sample) < MAX_DISTINCT:
            return len(self.sample)
        return round((MAX_DISTINCT - 1) * 2.0**64 / float(hashes(self.sample).max()))

    @property
    def values(self) -> NDArray[np.float64]:
        """The distinct values, or both ends and the sample."""
        return np.union1d(self.sample, [self.least, self.greatest]) if len(self.sample) else self.sample


def hashes(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Hash each 8-byte value to 64 bits with the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = values.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _first(keys: Sequence[Key], limit: int) -> NDArray[np.intp]:
    """Return the indices of the first rows, in order; a later key is consulted only for ties in the earlier ones."""
    head, *rest = keys
    rows = np.arange(len(head))
    if len(head) > limit:
        last = np.partition(head, limit - 1)[limit - 1]
        less = np.flatnonzero(head < last) if last == last else np.flatnonzero(head == head)
        tied = np.flatnonzero(head == last) if last == last else np.flatnonzero(head != head)
        places = _first([key[tied] for key in rest], limit - len(less)) if rest else slice(limit - len(less))
        rows = np.concatenate([less, tied[places]])
    return np.asarray(rows[np.lexsort([key[rows] for key in reversed(keys)])], dtype=np.intp)


def _sampled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(values) <= MAX_DISTINCT:
        return values
    return np.sort(values[np.argpartition(hashes(values), MAX_DISTINCT)[:MAX_DISTINCT]])
