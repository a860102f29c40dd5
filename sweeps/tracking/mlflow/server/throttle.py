"""Limit concurrent calls to a server: half as many after a rejection, gradually more after successes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Throttle:
    """A limit on concurrent calls, shared by all threads that call one server.

    Args:
        places: Maximum and initial number of concurrent calls.
    """

    def __init__(self, places: int) -> None:
        """Start with all places free."""
        self._most = self._places = float(places)
        self._under_way = 0
        self._lowered = self._not_before = 0.0  # by time.monotonic()
        self._hurried = False
        self._changed = threading.Condition()

    @property
    def places(self) -> int:
        """The number of calls currently allowed at once."""
        return int(self._places)

    @contextmanager
    def place(self) -> Iterator[float]:
        """Wait for a free place and hold it; yield the time at which it was taken."""
        with self._changed:
            while not self._hurried:
                seconds = self._not_before - time.monotonic()
                if seconds <= 0 and self._under_way < self.places:
                    break
                self._changed.wait(seconds if seconds > 0 else None)
            self._under_way += 1
        try:
            yield time.monotonic()
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify()

    def answered(self) -> None:
        """Record a success; after as many successes as there are places, one place is added."""
        with self._changed:
            self._places = min(self._most, self._places + 1 / self._places)
            self._changed.notify()

    def refused(self, began: float, wait: float = 0.0) -> None:
        """Record that a call started at ``began`` was rejected: halve the places and pause for ``wait`` seconds.

        Rejections of concurrent calls count once.
        """
        with self._changed:
            now = time.monotonic()
            if began >= self._lowered:
                self._places, self._lowered = max(1.0, self._places / 2), now
            self._not_before = max(self._not_before, now + wait)

    def rest(self, seconds: float) -> bool:
        """Wait before a retry; return False if retries are disabled."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self._hurried and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._hurried

    def hurry(self) -> None:
        """Stop all waiting, for places and for retries."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
