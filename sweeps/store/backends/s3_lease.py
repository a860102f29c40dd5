"""Heartbeat: the lease of a sweep on S3, an object that its holder writes anew as long as it lives.

Whoever finds no lease, a released one, or one that was not written for ``LAPSES_SECONDS`` may take it, by a write on
the condition that it is still what was found: of two takers one wins. How old a lease is, the server says: its own time
less that of the object, so that no host's clock matters. A holder counts from before its last write went out, by a
clock that runs while the machine sleeps: it knows that it may have lost the lease before anybody can have taken it.
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

LAPSES_SECONDS = 60.0  # after its last heartbeat
_BEATS = 4  # in that time
_ROUNDING_SECONDS = 1.0  # HTTP's times are whole seconds
_TRIES = 5
_GOODBYE_SECONDS = 10.0  # for a heartbeat under way when the holder is done


@dataclass(frozen=True)
class _Found:
    """The lease's object."""

    etag: str
    facts: dict[str, Any]  # empty where it was released
    age: float

    @property
    def holder(self) -> Holder | None:
        """Who holds it, unless it was released or has lapsed."""
        if not self.facts or self.age >= float(self.facts.get("lapses", LAPSES_SECONDS)) + _ROUNDING_SECONDS:
            return None
        try:
            return Holder(**self.facts["holder"])
        except (KeyError, TypeError):
            return Holder()


def holder(stored: StoredObject) -> Holder | None:
    """Who has the lease; None if nobody has."""
    found = _look(stored)
    return found.holder if found else None


@contextmanager
def held(stored: StoredObject, what: str) -> Iterator[Heartbeat]:
    """Hold the lease for as long as the context lasts, this process lives and the server can be reached.

    Raises:
        SweepHeld: somebody else has it; the message says who.
        StoreUnavailable: the server cannot be reached, or refuses.
    """
    heartbeat = Heartbeat(stored, what)
    try:
        yield heartbeat
    finally:
        heartbeat.end()


class Heartbeat:
    """A lease that was taken, and the thread that keeps it."""

    def __init__(self, stored: StoredObject, what: str) -> None:
        """Take the lease; raises as held() does."""
        self._stored, self._what, self._seconds = stored, what, LAPSES_SECONDS
        self._myself = asdict(myself())
        self._token = secrets.token_hex(8)  # by which it knows its own writing
        self._etag, self._until = "", 0.0
        self._lost = ""  # how
        self._fault = ""  # of the last heartbeat
        self._take()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Whether the lease is still held.

        Raises:
            SweepHeld: it was lost.
        """
        lost = self._lost
        if not lost and _clock() >= self._until:
            lost = f"could not be kept for {self._seconds:g} s" + (f" ({self._fault})" if self._fault else "")
        if lost:
            raise SweepHeld(f"the lease of {self._what} {lost}; this process writes no more: 'sweeps resume' goes on")

    def end(self) -> None:
        """Stop, and let the lease go."""
        self._end.set()
        self._thread.join(_GOODBYE_SECONDS)
        if self._thread.is_alive() or self._lost:
            return
        try:
            self._stored.put(b"{}", replaces=self._etag)
        except (StoreUnavailable, OSError):
            return  # it lapses by itself; what this process has come to says more than that

    def _take(self) -> None:
        found = _look(self._stored)
        for _ in range(_TRIES):
            if found is not None and (holder := found.holder) is not None and not self._is_ours(found):
                lapses = float(found.facts.get("lapses", LAPSES_SECONDS))
                raise SweepHeld(
                    f"{self._what} is held by {holder}; wait for it, or end it (one that was killed lets go within "
                    f"{lapses + 2 * _ROUNDING_SECONDS:g} s)"
                )
            try:
                self._write(found.etag if found else None)
                return
            except (ConditionFailed, BlockingIOError):
                found = _look(self._stored)  # somebody else was faster, or the answer to this very write was lost
        raise SweepHeld(f"{self._what} is taken by others again and again; wait for them")

    def _beat(self) -> None:
        while not self._end.wait(self._seconds / _BEATS):
            try:
                self._write(self._etag)
                self._fault = ""
            except ConditionFailed:
                self._look_for_own()
            except (StoreUnavailable, OSError) as error:
                self._fault = str(error)  # tried again at the next beat; check() knows when it is too late
            if self._lost:
                return

    def _look_for_own(self) -> None:
        """Another writing is there than the last that was answered: perhaps this holder's own."""
        try:
            found = _look(self._stored)
        except StoreUnavailable as error:
            self._fault = str(error)
            return
        if found is not None and self._is_ours(found):
            self._etag = found.etag  # the next beat says it anew
        else:
            taker = found.holder if found else None
            self._lost = f"was taken by {taker}" if taker else "was taken away"

    def _write(self, replaces: str | None) -> None:
        """Say that this process lives."""
        began = _clock()
        # Each heartbeat has other bytes, and so another ETag.
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
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
