"""The service's doors without containers: PostgreSQL with its users and MLflow with its login, from the same files."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.support.command_line import Cli
from tests.support.documents import ROOT
from tests.support.postgres import Cluster, private_cluster
from tests.support.processes import Part, answers, free_port

BIN = Path(sys.executable).parent
SERVICE = ROOT / "deploy" / "compose"


def make_secrets(folder: Path) -> str:
    """What ``make secrets`` runs; returns what it says."""
    command = [sys.executable, SERVICE / "make_secrets.py", folder]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class ServiceStack:
    """MLflow's server, which asks for a login, and the PostgreSQL behind it.

    Args:
        uri: MLflow's.
        secrets: the folder of the passwords.
        postgres: the database server.
        mlflow: the server's processes.
    """

    uri: str
    secrets: Path
    postgres: Cluster
    mlflow: Part

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
def service_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceStack]:
    folder = tmp_path_factory.mktemp("service")
    make_secrets(folder / "secrets")
    with private_cluster() as cluster:
        make_roles(cluster, folder / "secrets")
        port = free_port()
        server = mlflow_server(cluster, folder, port)
        server.start()
        try:
            yield ServiceStack(f"http://127.0.0.1:{port}", folder / "secrets", cluster, server)
        finally:
            server.end()


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


def mlflow_server(cluster: Cluster, folder: Path, port: int) -> Part:
    """MLflow's server, as in its container."""
    environment = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
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
        "WORKERS": "1",  # one starts sooner
    }
    ready = partial(answers, f"http://127.0.0.1:{port}/health")
    return Part([SERVICE / "mlflow" / "server.sh"], environment, folder / "mlflow.log", ready)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line, in a folder of its own."""
    return Cli(tmp_path)
