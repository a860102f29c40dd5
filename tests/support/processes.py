"""Processes of a service under test: started with what they need, known by their log, killed, and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_START_SECONDS = 120
_END_SECONDS = 30


@dataclass
class Part:
    """A process, and those that it starts.

    Args:
        command: what runs.
        environment: all of it.
        log: what it has printed since it was started.
        ready: whether it does what it is there for.
    """

    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    ready: Callable[[], bool]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            RuntimeError: it ends before, or takes too long.
        """
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + _START_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > until:
                self.end()
                raise RuntimeError(f"{self.command[:3]} does not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As the kernel does where memory is short: no process of it is asked."""
        assert self.process is not None
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            kill(pid)
        self.process.wait(_END_SECONDS)

    def end(self) -> None:
        """Ask it to end, and wait until it has; nothing where it does not run."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()


def until(what: Callable[[], T], seconds: float = 300, pause: float = 0.1) -> T:
    """What there is, once there is something."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it has not come"
        time.sleep(pause)
    return found


def answers(address: str, headers: Mapping[str, str] | None = None) -> bool:
    """Whether an address answers with success."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=dict(headers or {})), timeout=10):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill(pid: int) -> None:
    """SIGKILL, unless it has just ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    try:
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
