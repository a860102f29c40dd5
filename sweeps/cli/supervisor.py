"""Supervision of sweeps on Ray: the sweep runs in a child process, and its parent reports how the child ended.

If a driver has lost its node or a task's state, Ray terminates it at once, with exit code 1 and without an exception.
The parent can still report how to continue the sweep. The child is killed if its parent dies.
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

_ENDED = "\0"  # sent by a child that ends normally, whatever its exit code
_LONGEST = 65536
_PR_SET_PDEATHSIG = 1
_SAME_SIGNAL_SECONDS = 3.0  # a terminal sends Ctrl-C to both processes, and the parent passes it on as well
_parent_pipes: list[int] = []  # the pipe to the parent, in a child


def supervise() -> None:
    """Continue in a child process, before anything heavy is imported. The parent does not return."""
    read, write = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child:
        os.close(write)
        _stand_by(child, read)
    os.close(read)
    _die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _Once())
    _parent_pipes.append(write)
    atexit.register(_end)


def tell(go_on: str) -> None:
    """Send the command that continues the sweep to the parent, if there is one."""
    for pipe in _parent_pipes:
        os.write(pipe, f"{go_on}\n".encode())


def leave(code: int) -> None:
    """Exit at once if this process is a child, without the cleanup that would block after the cluster is lost."""
    if not _parent_pipes:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _end()
    os._exit(code)


def _end() -> None:
    """Ignore signals from here on: at exit Python restores the default handlers, and a signal would kill the child."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    tell(_ENDED)


class _Once:
    """A signal handler that raises KeyboardInterrupt, but only once for a signal that is delivered twice."""

    def __init__(self) -> None:
        self._last = -_SAME_SIGNAL_SECONDS

    def __call__(self, number: int, frame: FrameType | None) -> None:
        before, self._last = self._last, time.monotonic()
        if self._last - before > _SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt


def _die_with(parent: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent was killed before prctl took effect
        os._exit(1)


def _stand_by(child: int, read: int) -> NoReturn:
    """Pass signals on, wait for the child and exit with its exit code. Report the child if it was killed."""

    def passed_on(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(child, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, passed_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.set_blocking(read, False)  # a grandchild can keep the other end open without writing
    try:
        lines = os.read(read, _LONGEST).decode().split("\n")[:-1]
    except BlockingIOError:
        lines = []
    if lines[-1:] == [_ENDED]:
        os._exit(code if code >= 0 else 128 - code)
    from sweeps.cli.terminal import complain

    cause = f"Ray has ended its process{f' (signal {-code})' if code < 0 else ''}: its node or its cluster is lost"
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        cause = f"its process was killed (signal {-code})"
    complain(f"the sweep is interrupted: {cause}{f'; continue with: {lines[-1]}' if lines else ''}")
    sys.stderr.flush()
    os._exit(128 - code if code in (-signal.SIGKILL, -signal.SIGTERM) else ClusterLost.exit_code)
