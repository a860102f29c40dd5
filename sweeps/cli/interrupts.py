"""Interrupts of a command: Ctrl-C, SIGTERM and SIGHUP. The first is handled, the second answered, the third obeyed.

A supervised command runs in a child process (see sweeps.cli.supervisor). A terminal sends Ctrl-C to both processes,
``kill`` to one of them. The parent passes on all of its signals as PASSED_ON, so that the child can count its own and
the parent's signals separately: the larger count is the number of times that the user has asked.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable
from threading import Thread, main_thread
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PASSED_ON = signal.SIGRTMIN + 7
INTERRUPTED = 130  # exit code
_WAKE_UP = PASSED_ON + 1


class _Interrupts:
    """The interrupts of this process so far."""

    def __init__(self) -> None:
        self.is_installed = self.is_watched = self.is_raised = False
        self.own = self.passed_on = 0
        self.go_on = ""  # the command that continues the sweep
        self.before_exit: Callable[[], None] | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt for the first interrupt only, so that nothing disturbs what it started."""
        if not self.is_watched:
            self.count(number)
        if not self.is_raised:
            self.is_raised = True
            raise KeyboardInterrupt

    def count(self, number: int) -> None:
        """Count a signal. Answer the second interrupt; end the process at the third."""
        before = max(self.own, self.passed_on)
        if number == PASSED_ON:
            self.passed_on += 1
        else:
            self.own += 1
        match max(self.own, self.passed_on):
            case same if same == before:
                return
            case 2:
                _tell("being tidied up: finished trials are kept, MLflow's run is closed; interrupt again to end now")
            case 3:
                _tell(f"ended at once; finished trials are kept{f'; continue with: {self.go_on}' * bool(self.go_on)}")
                if self.before_exit is not None:
                    self.before_exit()
                os._exit(INTERRUPTED)


_interrupts = _Interrupts()


def install() -> None:
    """Handle interrupts in this process until it exits."""
    for number in (*SIGNALS, PASSED_ON):
        if not (number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN):  # started by nohup
            signal.signal(number, _interrupts.handle)
    _interrupts.is_installed = True
    atexit.register(ignore)  # runs after the functions of libraries, which are registered later


def watch(before_exit: Callable[[], None] | None = None) -> None:
    """Count interrupts in a thread, since Python calls no handler while a kernel runs in the main thread.

    Args:
        before_exit: called before an interrupt ends the process at once.
    """
    if not _interrupts.is_installed:
        return  # the command is called by another program
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(_WAKE_UP, lambda number, frame: None)
    _interrupts.is_watched, _interrupts.before_exit = True, before_exit

    def count() -> None:
        while numbers := os.read(read, 1):
            if numbers[0] in (*SIGNALS, PASSED_ON):
                # The kernel gives a signal to any thread, but only the main thread handles it, once it is woken up.
                signal.pthread_kill(main_thread().ident or 0, _WAKE_UP)
                _interrupts.count(numbers[0])

    Thread(target=count, name="interrupts", daemon=True).start()


def ignore() -> None:
    """Ignore interrupts from here on: at exit Python restores the default handlers, which would kill the process."""
    for number in (*SIGNALS, PASSED_ON, _WAKE_UP):
        signal.signal(number, signal.SIG_IGN)


def continue_with(command: str) -> None:
    """Name the command that continues the sweep, for the message of a process that is ended at once."""
    _interrupts.go_on = command


def _tell(text: str) -> None:
    """Write a line to standard error, but not by print(), in whose middle this can happen."""
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:
        return  # the terminal is closed: nobody can read it
