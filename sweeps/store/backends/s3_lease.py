"""The lease of a sweep on S3: an object that its holder rewrites periodically (its heartbeat) while it lives.

A process can take a lease that does not exist, was released, or has not been written for ``LAPSES_SECONDS``. It uses a
conditional write, so that only one of several processes succeeds. The age of a lease is measured by the server's clock
alone. A holder measures the time since just before it sent its last write, with a clock that also runs while the
machine sleeps, so it always notices the loss of a lease before another process can take it.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sweeps.errors import StoreUnavailable, SweepHeld
from sweeps.store.backends.local_lease import Holder, myself
from sweeps.store.backends.s3_client import ConditionFailed, StoredObject

LAPSES_SECONDS = 60.0  # after the last heartbeat
_BEATS = 4  # heartbeats in that time
_ROUNDING_SECONDS = 1.0  # times in HTTP are whole seconds
_TRIES = 5
_GOODBYE_SECONDS = 10.0  # to wait for a heartbeat in progress when the lease is released


@dataclass(frozen=True)
class _Found:
    """The content of the lease's object."""

    etag: str
    facts: dict[str, Any]  # empty if the lease was released
    age: float

    @property
    def holder(self) -> Holder | None:
        """The holder; None if the lease was released or has lapsed."""
        if not self.facts or self.age >= float(self.facts.get("lapses", LAPSES_SECONDS)) + _ROUNDING_SECONDS:
            return None
        try:
            return Holder(**self.facts["holder"])
        except (KeyError, TypeError):
            return Holder()


def holder(stored: StoredObject) -> Holder | None:
    """Return the holder of the lease; None if it is free."""
    found = _look(stored)
    return found.holder if found else None


@contextmanager
def held(stored: StoredObject, what: str) -> Iterator[Heartbeat]:
    """Hold the lease until the end of the block, while this process lives and the server can be reached.

    Raises:
        SweepHeld: another process holds it; the message names it.
        StoreUnavailable: the server is unreachable or rejects the request.
    """
    heartbeat = Heartbeat(stored, what)
    try:
        yield heartbeat
    finally:
        heartbeat.end()


class Heartbeat:
    """A lease held by this process, with the thread that renews it."""

    def __init__(self, stored: StoredObject, what: str) -> None:
        """Take the lease. Raises the same errors as :func:`held`."""
        self._stored, self._what, self._seconds = stored, what, LAPSES_SECONDS
        self._myself = asdict(myself())
        self._token = secrets.token_hex(8)  # identifies this holder's writes
        self._etag, self._until = "", 0.0
        self._lost = ""  # how the lease was lost
        self._fault = ""  # the error of the last heartbeat
        self._take()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that the lease is still held.

        Raises:
            SweepHeld: it was lost.
        """
        lost = self._lost
        if not lost and _clock() >= self._until:
            lost = f"could not be renewed for {self._seconds:g} s" + (f" ({self._fault})" if self._fault else "")
        if lost:
            raise SweepHeld(
                f"the lease of {self._what} {lost}; this process has stopped writing; continue with 'sweeps resume'"
            )

    def end(self) -> None:
        """Stop the heartbeat and release the lease."""
        self._end.set()
        self._thread.join(_GOODBYE_SECONDS)
        if self._thread.is_alive() or self._lost:
            return
        try:
            self._stored.put(b"{}", replaces=self._etag)
        except (StoreUnavailable, OSError):
            return  # the lease lapses by itself, and this error must not hide the process's own outcome

    def _take(self) -> None:
        found = _look(self._stored)
        for _ in range(_TRIES):
            if found is not None and (holder := found.holder) is not None and not self._is_ours(found):
                lapses = float(found.facts.get("lapses", LAPSES_SECONDS))
                raise SweepHeld(
                    f"{self._what} is held by {holder}; wait for it or stop it (the lease of a killed process "
                    f"expires within {lapses + 2 * _ROUNDING_SECONDS:g} s)"
                )
            try:
                self._write(found.etag if found else None)
                return
            except (ConditionFailed, BlockingIOError):
                found = _look(self._stored)  # another process was faster, or the response to this write was lost
        raise SweepHeld(f"{self._what} keeps being taken by other processes; wait for them to finish")

    def _beat(self) -> None:
        while not self._end.wait(self._seconds / _BEATS):
            try:
                self._write(self._etag)
                self._fault = ""
            except ConditionFailed:
                self._look_for_own()
            except (StoreUnavailable, OSError) as error:
                self._fault = str(error)  # retried at the next beat; check() detects when it is too late
            if self._lost:
                return

    def _look_for_own(self) -> None:
        """Find out whether an unexpected version of the lease was written by this holder, with a lost response."""
        try:
            found = _look(self._stored)
        except StoreUnavailable as error:
            self._fault = str(error)
            return
        if found is not None and self._is_ours(found):
            self._etag = found.etag  # the next beat replaces it
        else:
            taker = found.holder if found else None
            self._lost = f"was taken by {taker}" if taker else "was lost"

    def _write(self, replaces: str | None) -> None:
        """Write a heartbeat."""
        began = _clock()
        # A random value gives each heartbeat a different content, and so a different ETag.
        facts = {"holder": self._myself, "lapses": self._seconds, "token": self._token, "beat": secrets.token_hex(8)}
        self._etag = self._stored.put(json.dumps(facts).encode(), new=replaces is None, replaces=replaces)
        self._until = began + self._seconds

    def _is_ours(self, found: _Found) -> bool:
        return found.facts.get("token") == self._token


def _look(stored: StoredObject) -> _Found | None:
    try:
        found = stored.get()
    except FileNotFoundError:
        return None
    try:
        facts = json.loads(found.content)
    except ValueError:
        facts = None
    return _Found(found.etag, facts if isinstance(facts, dict) else {}, found.age)


def _clock() -> float:
    """Return the seconds of a clock that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
