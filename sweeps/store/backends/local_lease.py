"""Lease: one process at a time works on a sweep; the kernel takes it back when its holder dies, however it dies.

The lease is an exclusive ``flock`` on a file. It belongs to the open file, not to the file's name or text: the file
stays when its holder is gone, and then holds nobody. The holder's facts are written in it, for whoever comes second.

On network file systems it is worth what their ``flock`` is worth. NFS on Linux makes it a lock of the server, so that
it holds between hosts, unless the mount says ``local_lock`` or ``nolock``; a host that vanishes keeps it until the
server lets go (NFSv4: after its own lease's time, about 90 s; NFSv3: when the host is back). Lustre needs the mount
option ``flock``. Where the file system refuses to lock, the sweep is refused, not left unguarded.
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

_TRIES, _PAUSE_SECONDS = 10, 0.05  # somebody who only looks has the lock for a moment


@dataclass(frozen=True)
class Holder:
    """Who has a lease. Facts are empty where they cannot be read."""

    host: str = ""
    pid: int = 0
    user: str = ""
    since: str = ""
    command: str = ""

    def __str__(self) -> str:
        """In a few words."""
        if not self.pid:
            return "another process"
        return f"'{self.command}' (process {self.pid} of {self.user} on {self.host}, since {self.since})"


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lease of a file for as long as the context lasts, or until this process dies.

    Args:
        path: the file, made where it is not there.
        what: whose lease it is, for the message.

    Raises:
        SweepHeld: somebody else has it; the message says who.
        StoreError: the file cannot be written, or its file system cannot lock.
    """
    try:
        file = _taken(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be locked: {error.strerror}") from error
    if file is None:
        raise SweepHeld(f"{what} is held by {_read(path)}; wait for it, or end it")
    with file:
        yield


def holder(path: Path) -> Holder | None:
    """Who has the lease of a file; None if nobody has."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    except OSError:
        pass  # there is no such file, or it cannot be locked: then nobody holds it
    return None


def _taken(path: Path) -> IO[str] | None:
    """The locked file with this process' facts in it; None if somebody else has the lock."""
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
        return Holder()  # it has just been taken, and is being written


def myself() -> Holder:
    """This process, as a holder."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    # Arguments may hold passwords; the command's name does not.
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
    return Holder(socket.gethostname(), os.getpid(), user, datetime.now(UTC).isoformat(timespec="seconds"), command)
