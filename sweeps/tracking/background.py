"""Log shards in a background thread while others are computed; a tracking error does not stop the sweep."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sweeps.events import log_event
from sweeps.store.shard_times import with_times
from sweeps.text.redact import first_line
from sweeps.tracking.base import TrackedSweep, Tracker

_END = None


@dataclass(frozen=True)
class _Amend:
    """A queue entry that requests :meth:`Tracker.amend`."""

    chosen: dict[int, list[int]] | None


class BackgroundTracking:
    """A background thread that logs a sweep's trials to a tracker.

    Shards are queued by index and read from the store when they are logged, so queued shards take no memory.

    Args:
        tracker: Tracker to log to.
        sweep: The sweep to log.
        logged: Callback that receives the number of trials just logged.
        opens: Whether the thread first checks the tracker and opens the experiment.
    """

    def __init__(
        self,
        tracker: Tracker,
        sweep: TrackedSweep,
        logged: Callable[[int], None],
        *,
        opens: bool = False,
    ) -> None:
        """Prepare the thread; nothing is logged before :meth:`start`."""
        self.error: Exception | None = None
        self.trials = 0  # logged so far
        self.run: dict[str, str] = {}
        self._tracker, self._sweep, self._logged, self._opens = tracker, sweep, logged, opens
        self._shards: queue.SimpleQueue[tuple[int, list[int] | None] | _Amend | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Start the thread, which creates or finds the parent run before it logs trials."""
        self._thread.start()

    def put(self, shard: int, trials: list[int] | None = None) -> None:
        """Queue a stored shard; ``trials`` are the numbers of the trials to log, by default all."""
        self._shards.put((shard, trials))

    def amend(self, chosen: dict[int, list[int]] | None = None) -> None:
        """Queue a correction of earlier runs once all shards are stored; see :meth:`Tracker.amend`."""
        self._shards.put(_Amend(chosen))

    def join(self) -> None:
        """Wait until everything queued is logged or tracking has failed; see ``error``."""
        self._shards.put(_END)
        self._thread.join()

    def interrupt(self) -> None:
        """Stop after the pack being logged (or trials, with the client writer), and mark the parent run as killed."""
        if self._thread.ident is None:  # not started
            return
        self._stop.set()
        self._tracker.hurry()
        self.join()
        try:
            self._tracker.interrupt()
        except Exception as error:  # noqa: BLE001 - reported like an error while logging
            self.error = self.error or error

    def _work(self) -> None:
        try:
            if self._opens:
                self._tracker.check(self._sweep.config.tracking.writer)
                self._tracker.open(self._sweep.experiment)
            self.run = self._tracker.start(self._sweep)
            # At once, so that a later attempt finds the run even if this one is killed and the experiment renamed.
            self._sweep.files.tracking_record.write({"uri": self._tracker.uri, "complete": False, **self.run})
            try:
                self._log_all()
            finally:
                self._tracker.end_trials()
        except Exception as error:  # noqa: BLE001 - the sweep continues; the caller of join() reads the error
            self.error = error
            why = first_line(error)
            log_event("tracking failed", self._sweep.sweep_id, level=logging.ERROR, logged=self.trials, reason=why)

    def _log_all(self) -> None:
        steps: list[int] = []
        while (entry := self._shards.get()) is not _END:
            if self._stop.is_set():
                continue
            if isinstance(entry, _Amend):
                self._tracker.amend(self._sweep, entry.chosen)
                continue
            if not steps or self._sweep.config.is_divided:
                steps = self._sweep.files.shards.metadata(entry[0])["steps"]
            self._log(*entry, steps)

    def _log(self, shard: int, trials: list[int] | None, steps: list[int]) -> None:
        files = self._sweep.files
        table = with_times(files.shards.read(shard), files.times.at(shard))
        if trials is not None:
            table = table.filter(pc.is_in(table["trial"], pa.array(trials, pa.int64())))
        for count in self._tracker.log_trials(table, steps):
            self.trials += count
            self._logged(count)
            if self._stop.is_set():
                return
