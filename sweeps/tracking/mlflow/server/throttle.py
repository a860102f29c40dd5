"""Pace: how many calls a server is sent at once; half as many after a refusal, gradually more again after successes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Throttle:
    """Places for calls under way, shared by all threads that call one server.

    Args:
        places: at most, and at first, so many at once.
    """

    def __init__(self, places: int) -> None:
        """All places are free."""
        self._most = self._places = float(places)
        self._under_way = 0
        self._lowered = self._not_before = 0.0  # by time.monotonic()
        self._hurried = False
        self._changed = threading.Condition()

    @property
    def places(self) -> int:
        """How many calls may be under way at the moment."""
        return int(self._places)

    @contextmanager
    def place(self) -> Iterator[float]:
        """Wait for a free place and hold it; gives the time at which it became free."""
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
        """A call went well: one more place after as many of those as there are places."""
        with self._changed:
            self._places = min(self._most, self._places + 1 / self._places)
            self._changed.notify()

    def refused(self, began: float, wait: float = 0.0) -> None:
        """A call that had its place since ``began`` was refused: half the places, and no call for ``wait`` seconds.

        Calls that were under way together are refused together; that counts once.
        """
        with self._changed:
            now = time.monotonic()
            if began >= self._lowered:
                self._places, self._lowered = max(1.0, self._places / 2), now
            self._not_before = max(self._not_before, now + wait)

    def rest(self, seconds: float) -> bool:
        """Wait before a call is repeated; False if there is no time for that."""
        until = time.monotonic() + seconds
        with self._changed:
            while not self._hurried and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._hurried

    def hurry(self) -> None:
        """Somebody is waiting for the end: nobody waits for a place or to repeat a call any more."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
