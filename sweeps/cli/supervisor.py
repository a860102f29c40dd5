"""Supervision of sweeps that may run on Ray: a child process runs them, and its parent reports how the child ended.

If a driver has lost its node or a task's state, Ray terminates it at once, with exit code 1 and without an exception.
The parent can still report how to continue the sweep. The child is killed if its parent dies.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import NoReturn

from sweeps.cli import interrupts
from sweeps.errors import ClusterLost
from sweeps.parent_death import die_with

_ENDED = "\0"  # sent by a child that ends normally, whatever its exit code
_LONGEST = 65536
_parent_pipes: list[int] = []  # the pipe to the parent, in a child


def supervise() -> None:
    """Continue in a child process, before anything heavy is imported. The parent does not return."""
    read, write = os.pipe()
    interrupts.install()
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # a signal that is ignored need not wake anybody up
    awaited = {number for number in interrupts.SIGNALS if signal.getsignal(number) != signal.SIG_IGN} | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)  # none is lost, however closely they follow one another
    parent, child = os.getpid(), os.fork()
    if child:
        os.close(write)
        _stand_by(child, read, awaited)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(read)
    die_with(parent)
    _parent_pipes.append(write)
    interrupts.watch(before_exit=_say_end)
    atexit.register(_end)


def tell(go_on: str) -> None:
    """Keep the command that continues the sweep for messages, also of the parent if there is one."""
    interrupts.continue_with(go_on)
    _write(f"{go_on}\n")


def _write(text: str) -> None:
    """Send a line to the parent, if there is one."""
    for pipe in _parent_pipes:
        os.write(pipe, text.encode())


def leave(code: int) -> None:
    """Exit at once if this process is a child, without the cleanup that would block after the cluster is lost."""
    if not _parent_pipes:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _end()
    os._exit(code)


def _end() -> None:
    """End normally, whatever signals still arrive."""
    interrupts.ignore()
    _say_end()


def _say_end() -> None:
    """Tell the parent that this process ends by itself."""
    _write(f"{_ENDED}\n")


def _stand_by(child: int, read: int, awaited: set[signal.Signals]) -> NoReturn:
    """Pass signals on, wait for the child and exit with its exit code. Report the child if it was killed."""
    ended = status = 0
    while not ended:
        if signal.sigwait(awaited) == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
        else:
            os.kill(child, interrupts.PASSED_ON)  # to a zombie at worst: only this process reaps it
    code = os.waitstatus_to_exitcode(status)
    os.set_blocking(read, False)  # a grandchild can keep the other end open without writing
    try:
        lines = os.read(read, _LONGEST).decode().split("\n")[:-1]
    except BlockingIOError:
        lines = []
    if lines[-1:] == [_ENDED]:
        os._exit(code if code >= 0 else 128 - code)
    from sweeps.cli.terminal import complain

    how = f" (signal {-code})" if code < 0 else ""
    cause = f"its process has ended{how}; on Ray this means that its node or its cluster is lost"
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        cause = f"its process was killed (signal {-code})"
    complain(f"the sweep is interrupted: {cause}{f'; continue with: {lines[-1]}' if lines else ''}")
    sys.stderr.flush()
    os._exit(128 - code if code in (-signal.SIGKILL, -signal.SIGTERM) else ClusterLost.exit_code)
