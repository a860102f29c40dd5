"""The whole service in containers, by a real Docker engine and Compose: `make test-compose`, not part of `make test`.

The project, its ports, secrets and volumes are this run's own and gone at its end. What is set in the environment for
docker-compose.yml, such as TORCH_INDEX, holds here too.
"""

import json
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from tests.deploy.conftest import make_secrets
from tests.support.command_line import Cli
from tests.support.documents import ROOT
from tests.support.processes import free_port

_SIZES = {
    "RAY_WORKER_CPUS": "1",
    "RAY_WORKER_MEMORY": "2G",
    "RAY_HEAD_MEMORY": "3G",
    "RAY_OBJECT_STORE": "536870912",
}


class Stack:
    """A project of Compose's."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet."""
        self.name = f"sweeps-test-{secrets.token_hex(3)}"
        self.secrets = folder / "secrets"
        make_secrets(self.secrets)
        self.ports = {f"{name}_PORT": str(free_port()) for name in ("MLFLOW", "DASHBOARD", "RAY")}
        self.mlflow, self.dashboard, self.ray = (f"http://127.0.0.1:{port}" for port in self.ports.values())
        self.cli = Cli(folder)
        self.engine = docker.from_env()

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    def compose(self, *arguments: str, code: int = 0) -> str:
        """What ``docker compose`` prints."""
        command = [*shlex.split(os.environ.get("COMPOSE", "docker compose")), "--project-name", self.name]
        done = subprocess.run(
            [*command, "--file", ROOT / "docker-compose.yml", *arguments],
            env={**_SIZES, **os.environ, **self.ports, "SWEEPS_SECRETS": str(self.secrets)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == code, f"{shlex.join(arguments)}: {done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    def up(self, *services: str) -> None:
        """Start some services, or all with two workers, and wait until they are healthy."""
        self.compose("up", "--detach", "--wait", *(services or ("--scale", "ray-worker=2")))

    def containers(self) -> list[dict[str, Any]]:
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return [json.loads(line) for line in lines]

    def is_healthy(self) -> bool:
        return all(container["Health"] == "healthy" for container in self.containers())

    def crash(self, service: str) -> None:
        """Kill all processes of a container but its init, which then ends too; of several containers the first."""
        self._first(service).exec_run(["sh", "-c", "kill -KILL -1"])

    def started(self, service: str) -> str:
        """When a service's first container was started."""
        return str(self._first(service).attrs["State"]["StartedAt"])

    def _first(self, service: str) -> Any:
        wanted = {"project": self.name, "service": service, "container-number": "1"}
        labels = [f"com.docker.compose.{key}={value}" for key, value in wanted.items()]
        [container] = self.engine.containers.list(all=True, filters={"label": labels})
        return container

    def submit(self, sweep: Path, *options: str, code: int = 0) -> str:
        """What ``sweeps submit`` says, run on this side of the ports."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.secrets / "ray_token")}
        return self.cli("submit", sweep, "--address", self.ray, *options, code=code, **token).stdout

    def ask(self, path: str, user: str = "viewer", **body: object) -> Any:
        """The answer of MLflow's REST API."""
        answer = requests.post(
            f"{self.mlflow}/api/2.0/mlflow/{path}", json=body, auth=(user, self.secret(f"mlflow_{user}")), timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """All runs of an experiment, as MLflow has them."""
        found = requests.get(
            f"{self.mlflow}/api/2.0/mlflow/experiments/get-by-name",
            params={"experiment_name": experiment},
            auth=("viewer", self.secret("mlflow_viewer")),
            timeout=60,
        ).json()
        number = found["experiment"]["experiment_id"]
        runs: list[dict[str, Any]] = []
        token = None
        while True:
            page = self.ask("runs/search", experiment_ids=[number], max_results=1000, page_token=token)
            runs += page.get("runs", [])
            token = page.get("next_page_token")
            if not token:
                return runs


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service, built from this checkout and healthy."""
    project = Stack(tmp_path_factory.mktemp("compose"))
    try:
        project.compose("build")
        try:
            project.up()
        except AssertionError:
            sys.stderr.write(project.compose("ps", "--all") + project.compose("logs", "--tail", "30"))
            raise
        yield project
    finally:
        project.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "20")
        left = project.compose("ps", "--all", "--quiet")
        assert left == ""
