"""The timeline of a sweep: place its shards in time, in the order of trials, when they are stored.

MLflow sorts runs by their start, so the starts must have the order of the trials although shards finish in any order.
Each shard has a window of the sweep's time, and the windows do not overlap. When a shard is stored, the time since the
last window is divided among all shards up to it and those that run at the same time, which find their windows reserved.
The windows are stored before the shard is logged, so that its trials have the same times if it is logged again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

from sweeps.planning.shards import Shard
from sweeps.store.shard_times import ShardTimes, now_ms
from sweeps.store.sweep_files import SweepFiles

_Window = tuple[int, int]  # start and end, in milliseconds since 1970


class Timeline:
    """The windows of a sweep's shards.

    Args:
        files: the sweep; the caller must hold its lease.
        shards: the planned shards.
    """

    def __init__(self, files: SweepFiles, shards: Sequence[Shard]) -> None:
        """Read the stored windows; store windows for stored shards without one, as those of earlier versions."""
        self._files = files
        self._placed: dict[int, ShardTimes] = {}
        known = files.times.all()
        self._windows: dict[int, _Window] = {index: (times.start_ms, times.end_ms) for index, times in known.items()}
        started = [start for start, _ in self._windows.values()]
        self._cursor = min([files.started_ms or now_ms(), *started])  # end of the last window
        self._fill_gaps(shards)
        done = files.shards.done()
        if len(self._windows) <= max(done, default=-1):
            self._reserve(shards[len(self._windows) : max(done) + 1], max(self._cursor, _updated(files)))
        lacking = sorted(done - known.keys())
        files.times.write({index: _whole(self._windows[index]) for index in lacking})
        self._cursor = max(self._cursor, now_ms())  # nothing was computed between two processes

    def place(self, shard: Shard, shards: Sequence[Shard], seconds: float, running: int) -> None:
        """Note the times of a shard that is now stored, for write() to store.

        Args:
            shard: the shard.
            shards: the planned shards.
            seconds: the time that its trials took on one core.
            running: the number of shards that run at a time.
        """
        now = max(now_ms(), self._cursor)  # the clock can be set back
        first = len(self._windows)
        if shard.index >= first:
            self._reserve(shards[first : max(shard.index + 1, first + running)], now)
        self._placed[shard.index] = ShardTimes(*self._windows[shard.index], seconds, now)

    def write(self) -> None:
        """Store the times of the shards that were placed since the last call."""
        if self._placed:
            self._files.times.write(self._placed)
            self._placed = {}

    def _fill_gaps(self, shards: Sequence[Shard]) -> None:
        """Reserve the windows of shards that were not stored although later ones were."""
        last = max(self._windows, default=-1)
        lacking = [index not in self._windows for index in range(last + 1)]
        place = 0
        for lacks, group in groupby(lacking):
            end = place + len(list(group))
            if lacks:
                self._reserve(shards[place:end], max(self._cursor, self._windows[end][0]))
            else:
                self._cursor = self._windows[end - 1][1]
            place = end

    def _reserve(self, shards: Sequence[Shard], end: int) -> None:
        """Divide the time from the cursor to ``end`` among shards, by their numbers of trials."""
        start, trials, before = self._cursor, sum(map(len, shards)), 0
        for shard in shards:
            after = before + len(shard)
            edges = (start + (end - start) * part // trials for part in (before, after))
            self._windows[shard.index] = (next(edges), next(edges))
            before = after
        self._cursor = end


def _whole(window: _Window) -> ShardTimes:
    """Return the times of a shard whose trials fill its window."""
    start, end = window
    return ShardTimes(start, end, (end - start) / 1000, end)


def _updated(files: SweepFiles) -> int:
    """Return the time when the last process counted its progress; 0 if it is not known."""
    try:
        return round(datetime.fromisoformat(str(files.progress().get("updated"))).timestamp() * 1000)
    except ValueError:
        return 0
