"""Start and stop an MLflow server on this machine, such as the UI of a store."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from sweeps.errors import TrackingError
from sweeps.store.store import Store
from sweeps.tracking.mlflow.database.create import create_missing

_START_SECONDS = 180  # a busy machine can take this long


@contextmanager
def serve(store: Store, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run the MLflow UI of a store; yield its address and server process. Port 0 uses any free port.

    Raises:
        TrackingError: there is no database yet, the port is taken or the server does not start.
    """
    if not store.database.exists():
        raise TrackingError(f"{store.database}: there is no such database; the first sweep of the store creates it")
    create_missing(store.database)  # a half-made one, which MLflow's server could not open
    with mlflow_server(store.tracking_uri, store.artifacts, port) as server:
        yield server


@contextmanager
def mlflow_server(
    database: str, artifacts: Path, port: int = 0, workers: int = 1, loop: Literal["auto", "asyncio"] = "auto"
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run MLflow's server on a database; yield its address and process.

    Raises:
        TrackingError: the port is taken or the server does not start.
    """
    port = _free_port(port)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--default-artifact-root", artifacts.as_uri()]
    # With asyncio and several workers every call takes 44 ms longer, because Nagle's algorithm stays on and waits for a
    # delayed acknowledgement. For a single user, one worker is as fast as several and starts sooner.
    command += ["--workers", str(workers), "--uvicorn-opts", f"--loop {loop}"]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    environment["MLFLOW_BACKEND_STORE_URI"] = database  # not an argument, because all users can read those
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait(address, process)
        yield address, process
    finally:
        _end(process)


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(f"port {port} is taken; choose another one with --port, or 0 for any") from error
        return int(probe.getsockname()[1])


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise TrackingError(f"MLflow's server exited at startup with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    raise TrackingError(f"MLflow's server did not respond within {_START_SECONDS} s; try again")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group of the server and its workers."""
    for signal_number, seconds in ((15, 10), (9, 10)):
        try:
            os.killpg(process.pid, signal_number)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue
