"""Shards, which are ranges of a plan's trials that run and are stored together, and their results."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Rung:
    """The rung that a shard's trials are trained to: its epochs, and the trials' rows of the rung before, if any."""

    epochs: int
    before: pa.Table | None = None


@dataclass(frozen=True)
class Shard:
    """A range of the plan's trials that run and are stored together."""

    index: int
    start: int
    stop: int
    rows: NDArray[np.int64] | None = field(default=None, compare=False)  # the trials to run; None: all
    rung: Rung | None = field(default=None, compare=False)  # None: train to the end

    def __len__(self) -> int:
        """Return the number of trials."""
        return self.stop - self.start


@dataclass(frozen=True)
class Shards(Sequence[Shard]):
    """All shards of a plan in order, created on demand. No shard has trials of two stages.

    Args:
        stages: the number of trials and of trials per shard of each stage.
    """

    stages: tuple[tuple[int, int], ...]

    @cached_property
    def _first(self) -> tuple[list[int], list[int]]:
        """The first shard and the first trial of each stage, followed by the totals."""
        shards = [-(-trials // size) for trials, size in self.stages]
        return [0, *accumulate(shards)], [0, *accumulate(trials for trials, _ in self.stages)]

    def __len__(self) -> int:
        """Return the number of shards."""
        return self._first[0][-1]

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> list[Shard]: ...
    def __getitem__(self, index: int | slice) -> Shard | list[Shard]:
        """Return a shard, or a list of shards for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        shards, trials = self._first
        stage = bisect_right(shards, place) - 1
        size = self.stages[stage][1]
        start = trials[stage] + (place - shards[stage]) * size
        return Shard(place, start, min(start + size, trials[stage + 1]))

    def holding(self, trials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of each trial's shard."""
        first_shards, first_trials = map(np.asarray, self._first)
        stage = np.searchsorted(first_trials[1:], trials, side="right")
        sizes = np.array([size for _, size in self.stages])
        return np.asarray(first_shards[stage] + (trials - first_trials[stage]) // sizes[stage], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ShardResult:
    """The result of a shard: its trials as a table with the shard file's columns, and the seconds they took."""

    shard: Shard
    table: pa.Table
    seconds: float
    unstored: str = ""  # the reason why the worker could not store it


@dataclass(frozen=True)
class ShardStored:
    """A shard that its worker has stored, and the seconds that its trials took."""

    shard: Shard
    seconds: float


@dataclass(frozen=True)
class ShardFailure:
    """A shard that raised, with its traceback, or whose worker process died on every try, with the reason."""

    shard: Shard
    traceback: str
    tries: int = 1
