"""Pipeline: logs shards in a thread of its own while others are computed; a tracking fault stops only the tracking."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sweeps.events import log_event
from sweeps.text.redact import first_line
from sweeps.tracking.base import TrackedSweep, Tracker

_END = None


@dataclass(frozen=True)
class _Amend:
    """Not a shard: what was logged earlier is to be looked at."""

    chosen: dict[int, list[int]] | None


class BackgroundTracking:
    """Logs a sweep's trials to a tracker.

    Shards are named by their index and read from the store when their turn comes, so the waiting ones take no memory.

    Args:
        tracker: where to log.
        sweep: what is logged.
        logged: called with a number of trials after they are logged.
    """

    def __init__(
        self,
        tracker: Tracker,
        sweep: TrackedSweep,
        logged: Callable[[int], None],
    ) -> None:
        """Nothing is logged before start()."""
        self.error: Exception | None = None
        self.trials = 0  # logged so far
        self.run: dict[str, str] = {}
        self._tracker, self._sweep, self._logged = tracker, sweep, logged
        self._shards: queue.SimpleQueue[tuple[int, list[int] | None] | _Amend | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin: the parent run first."""
        self._thread.start()

    def put(self, shard: int, trials: list[int] | None = None) -> None:
        """Log some trials of a shard that is in the store, or all of them."""
        self._shards.put((shard, trials))

    def amend(self, chosen: dict[int, list[int]] | None = None) -> None:
        """All shards are stored: bring what was logged earlier in line with them; see :meth:`Tracker.amend`."""
        self._shards.put(_Amend(chosen))

    def join(self) -> None:
        """Wait until all that was put is logged, or tracking has failed; see ``error``."""
        self._shards.put(_END)
        self._thread.join()

    def interrupt(self) -> None:
        """Stop after the pack, or with the public client the trials, being logged, and mark the parent run."""
        self._stop.set()
        self._tracker.hurry()
        self.join()
        try:
            self._tracker.interrupt()
        except Exception as error:  # noqa: BLE001 - as a fault of the logging itself
            self.error = self.error or error

    def _work(self) -> None:
        try:
            self.run = self._tracker.start(self._sweep)
            try:
                self._log_all()
            finally:
                self._tracker.end_trials()
        except Exception as error:  # noqa: BLE001 - the sweep goes on; whoever joins reads it
            self.error = error
            why = first_line(error)
            log_event("tracking failed", self._sweep.sweep_id, level=logging.ERROR, logged=self.trials, reason=why)

    def _log_all(self) -> None:
        steps: list[int] | None = None
        while (entry := self._shards.get()) is not _END:
            if self._stop.is_set():
                continue
            if isinstance(entry, _Amend):
                self._tracker.amend(self._sweep, entry.chosen)
                continue
            steps = steps or self._sweep.files.shards.metadata()["steps"]
            self._log(*entry, steps)

    def _log(self, shard: int, trials: list[int] | None, steps: list[int]) -> None:
        table = self._sweep.files.shards.read(shard)
        if trials is not None:
            table = table.filter(pc.is_in(table["trial"], pa.array(trials, pa.int64())))
        for count in self._tracker.log_trials(table, steps):
            self.trials += count
            self._logged(count)
            if self._stop.is_set():
                return
