"""A private Ray head with its Jobs API, on 127.0.0.1 with a token, stopped when a test is done."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import Part, answers, free_port

_BIN = Path(sys.executable).parent
_ROOT = Path(__file__).parents[2]


class RayHead:
    """A head and the nodes that join it.

    Args:
        folder: the folder of all its files; its path can have a few dozen characters only, as Ray puts sockets in it.
        cores: cores of the head.
        environment: additional variables for it and its jobs.
    """

    def __init__(self, folder: Path, cores: int, **environment: str) -> None:
        """Prepare the head without starting it."""
        self.address = f"http://127.0.0.1:{(jobs := free_port())}"  # the Jobs API
        self.gcs = f"127.0.0.1:{(gcs := free_port())}"  # the address that nodes and drivers join
        self.token = secrets.token_hex(16)
        self.store = folder / "store"  # SWEEPS_STORE of its jobs
        self.nodes: list[Part] = []
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))},
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "SWEEPS_STORE": str(self.store),
            **environment,
        }
        command = [
            *(sys.executable, _BIN / "ray", "start", "--head", "--block", "--disable-usage-stats"),
            *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={free_port()}"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}"),
            *(f"--num-cpus={cores}", "--object-store-memory=100000000", "--dashboard-agent-listen-port=0"),
            f"--temp-dir={folder / 'r'}",
        ]
        self.part = Part(command, self._environment, folder / "head.log", self._takes_jobs)

    @property
    def environment(self) -> dict[str, str]:
        """The environment that a client needs."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_API_SERVER_ADDRESS": self.address}

    def add(self, cores: int) -> Part:
        """Add a node on this machine."""
        command = [sys.executable, "-m", "tests.support.ray_node", self.gcs, str(cores)]
        log = self._folder / f"node{len(self.nodes)}.log"
        node = Part(command, self._environment | {"PYTHONPATH": str(_ROOT)}, log, lambda: _has_joined(log))
        node.start()
        self.nodes.append(node)
        return node

    def end(self) -> None:
        """Stop all processes."""
        for part in (*self.nodes, self.part):
            part.end()

    def _takes_jobs(self) -> bool:
        """Return whether the Jobs API accepts requests: its page answers before its agent does."""
        return answers(f"{self.address}/api/jobs/", {"Authorization": f"Bearer {self.token}"})


@contextmanager
def private_head(cores: int = 2, **environment: str) -> Iterator[RayHead]:
    """Run a head inside the context, in a separate process group.

    Raises:
        RuntimeError: it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    head = RayHead(folder, cores, **environment)
    try:
        head.part.start()
        yield head
    finally:
        head.end()
        shutil.rmtree(folder, ignore_errors=True)


def _has_joined(log: Path) -> bool:
    return log.read_text().endswith("has joined\n")
