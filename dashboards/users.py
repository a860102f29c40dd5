"""Users: the dashboard's logins, from a file of names and password hashes that is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections import deque
from pathlib import Path

from werkzeug.security import check_password_hash, generate_password_hash

from sweeps.errors import InputError
from sweeps.text.sanitize import visible

_HASH = re.compile(r"(scrypt|pbkdf2)(:\w+)*\$[^$\s]+\$[0-9a-f]+")
_MOST_FAILURES, _WITHIN_SECONDS = 10, 60.0  # per address

_log = logging.getLogger(__name__)


def hashed(password: str) -> str:
    """Return a password's hash, as stored in the users file.

    Raises:
        InputError: the password is empty.
    """
    if not password:
        raise InputError("the password is empty: pass it on standard input")
    return generate_password_hash(password)


class Users:
    """The users in a file with lines ``name:hash``; empty lines and lines that begin with # are skipped.

    Args:
        path: the file.

    Raises:
        InputError: the file cannot be read, or a line is invalid; the message never contains any part of a hash.
    """

    def __init__(self, path: Path) -> None:
        """Read the file."""
        self._path = path
        self._stamp, self._hashes = self._read()
        if not self._hashes:
            raise InputError(
                f"{visible(str(path))}: no users; add lines 'name:hash' (hash: 'sweeps dashboard --hash-password')"
            )
        self.throttle = Throttle()
        self._unknown_user = generate_password_hash(secrets.token_hex())
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, str] = {}  # verified passwords, as digests under a key of this process
        self._lock = threading.Lock()

    def check(self, name: str, password: str) -> bool:
        """Return whether the password is correct; takes equally long for unknown names."""
        stored = self._current().get(name)
        digest = hmac.digest(self._key, f"{name}\0{stored}\0{password}".encode(), "sha256")
        if stored is not None and any(hmac.compare_digest(digest, known) for known in list(self._known)):
            return True  # scripts send the password with every request, and hashing takes a tenth of a second
        right = check_password_hash(stored or self._unknown_user, password) and stored is not None
        if right:
            with self._lock:
                self._known[digest] = name
                while len(self._known) > 1000:
                    del self._known[next(iter(self._known))]
        return right

    def mark(self, name: str) -> str | None:
        """Return the mark stored in the user's sessions: it becomes invalid if the user or the password changes."""
        stored = self._current().get(name)
        return None if stored is None else hashlib.sha256(stored.encode()).hexdigest()[:16]

    def _current(self) -> dict[str, str]:
        try:
            status = self._path.stat()
            if (status.st_mtime_ns, status.st_size, status.st_ino) != self._stamp:
                self._stamp, self._hashes = self._read()
        except (OSError, InputError) as error:
            _log.error("all logins are rejected until the users file is valid: %s", error)
            self._stamp, self._hashes = (0, 0, 0), {}
        return self._hashes

    def _read(self) -> tuple[tuple[int, int, int], dict[str, str]]:
        shown, found = visible(str(self._path)), dict[str, str]()
        try:
            status = self._path.stat()
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise InputError(f"{shown}: cannot read the users file: {reason}") from error
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line or line.startswith("#"):
                continue
            name, _, stored = line.partition(":")
            if not name or not _HASH.fullmatch(stored):
                raise InputError(
                    f"{shown}: line {number}: must be 'name:hash'; get the hash with 'sweeps dashboard --hash-password'"
                )
            if name in found:
                raise InputError(f"{shown}: line {number}: {visible(name)!r} is listed twice")
            found[name] = stored
        return (status.st_mtime_ns, status.st_size, status.st_ino), found


class Throttle:
    """A count of failed logins by address: at most ten per minute."""

    def __init__(self) -> None:
        """Start without failures."""
        self._failures: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def failed(self, address: str) -> None:
        """Count a failed login."""
        with self._lock:
            self._failures.setdefault(address, deque(maxlen=_MOST_FAILURES)).append(time.monotonic())
            for other in [a for a, times in self._failures.items() if time.monotonic() - times[-1] > _WITHIN_SECONDS]:
                del self._failures[other]

    def seconds(self, address: str) -> int:
        """Return how many seconds the address must wait; 0 if it can try now."""
        with self._lock:
            times = self._failures.get(address, deque())
            left = times[0] + _WITHIN_SECONDS - time.monotonic() if len(times) == _MOST_FAILURES else 0
        return max(0, int(left + 0.999))
