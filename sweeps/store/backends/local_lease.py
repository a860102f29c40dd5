"""The lease of a sweep in a folder: a file lock, which the kernel releases when its holder dies for any reason.

The lease is an exclusive ``flock`` on a file. It belongs to the open file, not to the file's name or content: the file
remains after its holder has ended, and is then unlocked. It contains the holder's details for error messages.

On network file systems the lease is as reliable as their ``flock``. NFS on Linux uses a lock of the server, which
excludes other hosts unless the file system is mounted with ``local_lock`` or ``nolock``. A host that disappears keeps
the lock until the server releases it (NFSv4: after the server's lease time, about 90 s; NFSv3: when the host is back).
Lustre needs the mount option ``flock``. If the file system does not support locks, the sweep is rejected.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from sweeps.errors import StoreError, SweepHeld

_TRIES, _PAUSE_SECONDS = 10, 0.05  # a process that only checks for a holder has the lock for a moment


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease; fields that cannot be read are empty."""

    host: str = ""
    pid: int = 0
    user: str = ""
    since: str = ""
    command: str = ""

    def __str__(self) -> str:
        """Return a description for messages."""
        if not self.pid:
            return "another process"
        return f"'{self.command}' (process {self.pid} of {self.user} on {self.host}, since {self.since})"


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lease of a file until the end of the block, or until this process dies.

    Args:
        path: the file, created if it does not exist.
        what: the name of the leased object for messages.

    Raises:
        SweepHeld: another process holds it; the message names it.
        StoreError: the file cannot be written, or its file system does not support locks.
    """
    try:
        file = _taken(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be locked: {error.strerror}; on a read-only store, use commands that only read: "
            "list, show, verify, report --format html"
        ) from error
    if file is None:
        raise SweepHeld(f"{what} is held by {_read(path)}; wait for it or stop it")
    with file:
        yield


def holder(path: Path) -> Holder | None:
    """Return the holder of a file's lease; None if it is free."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    except OSError:
        pass  # a file that does not exist or cannot be locked has no holder
    return None


def _taken(path: Path) -> IO[str] | None:
    """Return the locked file, with this process's details in it; None if another process has the lock."""
    file = path.open("a+", encoding="utf-8")
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        file.truncate(0)
        json.dump(asdict(myself()), file)
        file.flush()
        return file
    file.close()
    return None


def _read(path: Path) -> Holder:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return Holder()  # the holder has just taken the lock and is writing its details


def myself() -> Holder:
    """Return this process as a holder."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    # Arguments can contain passwords; the command's name does not.
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
    return Holder(socket.gethostname(), os.getpid(), user, datetime.now(UTC).isoformat(timespec="seconds"), command)
