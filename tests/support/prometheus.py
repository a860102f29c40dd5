"""A private Prometheus server on 127.0.0.1 for tests, stopped when they are done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import free_port

_START_SECONDS = 60


def program(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``: next to Python, where the Makefile puts it, or on the PATH."""
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert path, f"the tests need {name}: run make prometheus"
    return path


class Prometheus:
    """A running server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of an instant query at the current time."""
        return list(self._get("query", query=expression)["result"])

    def _get(self, endpoint: str, **arguments: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.address}/api/v1/{endpoint}?{urllib.parse.urlencode(arguments)}") as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        data: dict[str, Any] = document["data"]
        return data


@contextmanager
def private_prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """Run a server with this configuration inside the context; its data is in ``folder``."""
    port = free_port()
    arguments = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=error"]
    command = [program("prometheus"), *arguments, f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        until = time.monotonic() + _START_SECONDS
        while not _ready(server.address):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"Prometheus does not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(60)


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/-/ready", timeout=5):
            return True
    except OSError:
        return False
