"""A private Ray head with its Jobs API: a real one of our own on 127.0.0.1, with a token, gone when a test is done."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_START_SECONDS = 120
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class RayHead:
    """A running head.

    Args:
        address: of its Jobs API.
        token: that it asks for.
        store: the SWEEPS_STORE of its jobs.
        process: that everything else of it ends with.
    """

    address: str
    token: str = field(repr=False)
    store: Path
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_API_SERVER_ADDRESS": self.address}


@contextmanager
def private_head(cores: int = 2) -> Iterator[RayHead]:
    """A head while the context lasts, in a process group of its own.

    Raises:
        RuntimeError: it does not start.
    """
    # Ray puts sockets under its folder, whose paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    port, token = _free_port(), secrets.token_hex(16)
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    _BIN / "ray",
                    "start",
                    "--head",
                    "--block",
                    "--node-ip-address=127.0.0.1",
                    "--port=0",
                ),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={port}", "--include-dashboard=true"),
                *(f"--ray-client-server-port={_free_port()}", "--dashboard-agent-listen-port=0", f"--num-cpus={cores}"),
                *("--disable-usage-stats", f"--temp-dir={folder / 'r'}", "--object-store-memory=100000000"),
            ],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))},
                "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": token,
                "SWEEPS_STORE": str(folder / "store"),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        head = RayHead(f"http://127.0.0.1:{port}", token, folder / "store", process)
        _await(head, log)
        yield head
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _await(head: RayHead, log: Path) -> None:
    """Wait until it takes jobs: its page answers before its agent does."""
    until = time.monotonic() + _START_SECONDS
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"})
    while time.monotonic() < until and head.process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"Ray's head does not start:\n{log.read_text(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
