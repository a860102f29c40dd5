"""Shard times: where the trials of each shard lie in the time of the sweep, as MLflow shows it.

They are not part of the shard files, whose bytes depend on the trials alone. One file, times/00000.json ..., holds the
times of 256 shards. Sweeps of earlier versions have none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sweeps.store.backends.base import Storage
from sweeps.store.json_files import write_json
from sweeps.store.manifest import Milliseconds, StoredDocument, read_document
from sweeps.store.sweep_part import SweepPart

STARTED, ENDED = "started_ms", "ended_ms"  # columns that with_times() adds
_SHARDS_PER_FILE = 256
_FOLDER = "times"


@dataclass(frozen=True)
class ShardTimes:
    """The times of a shard's trials; all in milliseconds since 1970 except ``seconds``.

    Args:
        start_ms: the start of the first trial.
        end_ms: the start of the next shard's trials at the earliest.
        seconds: the time that one core took for all trials.
        stored_ms: the time when the shard was stored.
    """

    start_ms: int
    end_ms: int
    seconds: float
    stored_ms: int

    def of(self, trials: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the start and the end of each of the shard's trials, in order.

        The starts are spread evenly, and differ if the shard has a millisecond for each trial. A trial lasts for its
        share of the shard's computing time, but at least a millisecond, and not beyond the time when it was stored: on
        many cores, shares are longer than the time between two starts.
        """
        starts = self.start_ms + np.arange(trials, dtype=np.int64) * (self.end_ms - self.start_ms) // trials
        ends = starts + round(1000 * self.seconds / trials)
        return starts, np.maximum(np.minimum(ends, self.stored_ms), starts + 1)

    def last_ms(self, trials: int) -> int:
        """Return the time when all trials have ended and are stored."""
        return max(self.stored_ms, int(self.of(trials)[1][-1]))


def now_ms() -> int:
    """Return the current time in milliseconds since 1970, as MLflow stores it."""
    return time.time_ns() // 1_000_000


def with_times(table: pa.Table, times: ShardTimes | None) -> pa.Table:
    """Return the table of a whole shard with the columns STARTED and ENDED, if its times are known."""
    if times is None:
        return table
    starts, ends = times.of(len(table))
    return table.append_column(STARTED, pa.array(starts)).append_column(ENDED, pa.array(ends))


class _StoredTimes(StoredDocument):
    start_ms: Milliseconds
    end_ms: Milliseconds
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    stored_ms: Milliseconds


class _TimesFile(StoredDocument):
    shards: dict[str, _StoredTimes]


class ShardTimesFiles(SweepPart):
    """The times of one sweep's shards, read once: only the process that holds the sweep writes them."""

    def __init__(self, storage: Storage, check_lease: Callable[[], None]) -> None:
        """Access the files without reading them."""
        super().__init__(storage, check_lease)
        self._known: dict[int, ShardTimes] | None = None

    def all(self) -> dict[int, ShardTimes]:
        """Return the times by shard.

        Raises:
            StoreError: a file is damaged.
        """
        if self._known is None:
            found: dict[int, ShardTimes] = {}
            for name in sorted(self._storage.files(_FOLDER)):
                if name.endswith(".json"):
                    _, file = read_document(self._storage, f"{_FOLDER}/{name}", _TimesFile)
                    found |= {int(index): _times(stored) for index, stored in file.shards.items()}
            self._known = found
        return self._known

    def at(self, index: int) -> ShardTimes | None:
        """Return a shard's times; None if they are not known."""
        return self.all().get(index)

    def write(self, times: dict[int, ShardTimes]) -> None:
        """Add the times of shards.

        Raises:
            StoreError: they cannot be written.
            SweepHeld: the lease was lost.
        """
        known = self.all()
        known |= times  # in place: a copy would take longer, the more shards there are
        self._check_lease()
        for number in sorted({index // _SHARDS_PER_FILE for index in times}):
            first = number * _SHARDS_PER_FILE
            shards = {str(i): vars(known[i]) for i in range(first, first + _SHARDS_PER_FILE) if i in known}
            write_json(self._storage, f"{_FOLDER}/{number:05}.json", {"shards": shards})


def _times(stored: _StoredTimes) -> ShardTimes:
    return ShardTimes(stored.start_ms, stored.end_ms, stored.seconds, stored.stored_ms)
