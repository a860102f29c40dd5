"""Supervision: a sweep on Ray runs in a child process, and this one says how it ended.

Ray ends a driver that has lost its node, or a task's state, on the spot: no exception, no word, exit code 1. Whatever
becomes of the child, its parent says what is kept and how to go on. The child dies with its parent.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from sweeps.errors import ClusterLost

_ENDED = "\0"  # the child came to its own end, good or bad
_LONGEST = 65536
_PR_SET_PDEATHSIG = 1
_SAME_SIGNAL_SECONDS = 3.0  # a terminal's Ctrl-C comes to both, and from the parent once more
_told: list[int] = []  # the pipe to the parent, where there is one


def supervise(arguments: list[str]) -> None:
    """Where the command line asks for a sweep on Ray: go on in a child; the parent does not return."""
    while arguments and arguments[0].startswith("-"):  # options of all commands, with their values
        arguments = arguments[1:] if "=" in arguments[0] else arguments[2:]
    if arguments[:1] not in (["run"], ["resume"]) or {"inline", "--executor=inline", "--help"} & set(arguments):
        return
    read, write = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child:
        os.close(write)
        _stand_by(child, read)
    os.close(read)
    _die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _Once())
    _told.append(write)
    atexit.register(_end)


def tell(go_on: str) -> None:
    """Tell the parent, if there is one, with which command the sweep goes on."""
    for pipe in _told:
        os.write(pipe, f"{go_on}\n".encode())


def leave(code: int) -> None:
    """End this process, if it is a child, without waiting for what cannot be ended well any more."""
    if not _told:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _end()
    os._exit(code)


def _end() -> None:
    """Nothing interrupts any more what has come to its end: Python gives signals back to the kernel, which kills."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    tell(_ENDED)


class _Once:
    """Raises KeyboardInterrupt for a signal, but not for the same one told twice."""

    def __init__(self) -> None:
        self._last = -_SAME_SIGNAL_SECONDS

    def __call__(self, number: int, frame: FrameType | None) -> None:
        before, self._last = self._last, time.monotonic()
        if self._last - before > _SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt


def _die_with(parent: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed just before
        os._exit(1)


def _stand_by(child: int, read: int) -> NoReturn:
    """Pass signals on, wait for the end of the child, and end as it does."""

    def passed_on(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(child, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, passed_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.set_blocking(read, False)  # whoever still has the other end writes no more
    try:
        told = os.read(read, _LONGEST).decode().split("\n")[:-1]
    except BlockingIOError:
        told = []
    if told[-1:] == [_ENDED]:
        os._exit(code if code >= 0 else 128 - code)
    from sweeps.cli.terminal import complain

    by = f"Ray has ended its process{f' (signal {-code})' if code < 0 else ''}: its node or its cluster is lost"
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        by = f"its process was killed (signal {-code})"
    complain(f"the sweep is interrupted: {by}{f'; go on with: {told[-1]}' if told else ''}")
    sys.stderr.flush()
    os._exit(128 - code if code in (-signal.SIGKILL, -signal.SIGTERM) else ClusterLost.exit_code)
