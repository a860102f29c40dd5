"""The service's doors without containers: PostgreSQL with its users and MLflow with its login, from the same files."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.postgres import Cluster, private_cluster
from tests.sweeps.conftest import ROOT, Cli

SERVICE = ROOT / "configs" / "service"
_START_SECONDS = 120


def make_secrets(folder: Path) -> str:
    """What ``make secrets`` runs; returns what it says."""
    command = [sys.executable, SERVICE / "make_secrets.py", folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Doors:
    """MLflow's server, which asks for a login, and the PostgreSQL behind it.

    Args:
        uri: MLflow's.
        secrets: the folder of the passwords.
        postgres: the database server.
    """

    uri: str
    secrets: Path
    postgres: Cluster

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    def database(self, user: str, name: str = "mlflow") -> str:
        """The URI of a database, with a user's password."""
        return f"postgresql://{user}:{self.secret(f'postgres_{user}')}@127.0.0.1:{self.postgres.port}/{name}"

    def login(self, user: str) -> dict[str, str]:
        """The environment of somebody who tracks as a user of MLflow's."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": self.secret(f"mlflow_{user}"),
        }


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("service")
    make_secrets(folder / "secrets")
    with private_cluster() as cluster:
        make_roles(cluster, folder / "secrets")
        with mlflow_server(cluster, folder) as uri:
            yield Doors(uri, folder / "secrets", cluster)


def make_roles(cluster: Cluster, secrets: Path) -> None:
    """PostgreSQL's users and databases, as its container makes them."""
    psql = shutil.which("psql")
    assert psql, "psql is needed: 'make postgresql' installs it"
    command = [psql, "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={SERVICE / 'postgres' / 'roles.sql'}"]
    done = subprocess.run(
        [*command, cluster.uri("postgres")],
        env={**os.environ, "SECRETS": str(secrets)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def mlflow_server(cluster: Cluster, folder: Path) -> Iterator[str]:
    """MLflow's address while it runs, started as in its container."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "SECRETS": str(folder / "secrets"),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(cluster.port),
        "PGUSER": "mlflow",
        "PGPASSWORD": (folder / "secrets" / "postgres_mlflow").read_text(),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": (folder / "secrets" / "mlflow_session_key").read_text(),
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*",
        "PORT": str(port),
    }
    log = folder / "mlflow.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [SERVICE / "mlflow" / "server.sh"], env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line, in a folder of its own."""
    return Cli(tmp_path)
