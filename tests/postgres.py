"""A private PostgreSQL: a real server of our own on 127.0.0.1 for tests and benchmarks, gone when they are done."""

from __future__ import annotations

import glob
import itertools
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_USER = "sweeps"
_UNPRIVILEGED = ("postgres", "nobody")  # PostgreSQL does not run as root
# A test's data need not outlive a power cut. Each test has a database of its own, which MLflow keeps connections to.
_HASTY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "500"}


@dataclass
class Cluster:
    """A running server.

    Args:
        port: on 127.0.0.1.
        password: of its one user, a superuser.
    """

    port: int
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        """No database is made yet."""
        self._numbers = itertools.count(1)

    def uri(self, database: str) -> str:
        """The SQLAlchemy URI of a database, with the password."""
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one statement that cannot be in a transaction, such as CREATE DATABASE."""
        import psycopg

        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def new_database(self) -> str:
        """The URI of a fresh database with MLflow's tables."""
        name = f"database{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {self._migrated}")
        return self.uri(name)

    def copy(self, uri: str) -> str:
        """The URI of a copy of a database; whoever is connected to it loses the connection."""
        original, name = uri.rpartition("/")[2], f"database{next(self._numbers)}"
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{original}'")
        self.execute(f"CREATE DATABASE {name} TEMPLATE {original}")
        return self.uri(name)

    @cached_property
    def _migrated(self) -> str:
        """The database that all are copied from: MLflow takes seconds to make its tables, a copy 0.1 s."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.execute("CREATE DATABASE migrated")
        SqlAlchemyStore(self.uri("migrated"), "/nowhere").engine.dispose()  # type: ignore[no-untyped-call]
        return "migrated"


@contextmanager
def private_cluster(durable: bool = False) -> Iterator[Cluster]:
    """A fresh server while the context lasts, with the default settings, or without what makes it survive power cuts.

    Raises:
        RuntimeError: PostgreSQL is not installed, or does not start.
    """
    owner = _owner()
    folder = Path(tempfile.mkdtemp(prefix="sweeps-postgres-"))
    data, log = folder / "data", folder / "log"
    try:
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        cluster = Cluster(_free_port(), secrets.token_hex(16))
        with tempfile.NamedTemporaryFile("w", dir=folder) as file:
            file.write(cluster.password)
            file.flush()
            os.chmod(file.name, 0o644)  # the folder is closed to others
            secret = ("--auth=scram-sha-256", f"--username={_USER}", f"--pwfile={file.name}")
            locale = ("--encoding=UTF8", "--locale=C.UTF-8")
            _run(owner, folder, "initdb", f"--pgdata={data}", *secret, *locale, *(() if durable else ("--no-sync",)))
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "port": cluster.port}
        settings |= {} if durable else _HASTY
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        try:
            _run(owner, folder, "pg_ctl", "start", "--wait", f"--pgdata={data}", f"--log={log}")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text() if log.exists() else ''}") from error
        try:
            yield cluster
        finally:
            _run(owner, folder, "pg_ctl", "stop", "--wait", "--mode=immediate", f"--pgdata={data}")
    finally:
        shutil.rmtree(folder)


def _owner() -> pwd.struct_passwd | None:
    """Whom the server runs as where we are root."""
    if os.geteuid() != 0:
        return None
    return next(entry for entry in pwd.getpwall() if entry.pw_name in _UNPRIVILEGED)


def _run(owner: pwd.struct_passwd | None, folder: Path, program: str, *arguments: str) -> None:
    newest_first = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: -int(path.split("/")[4]))
    path = shutil.which(program, path=os.pathsep.join([*newest_first, os.environ["PATH"]]))
    if path is None:
        raise RuntimeError("the tests and benchmarks need PostgreSQL (Debian: apt-get install postgresql)")
    user, group, groups = (owner.pw_uid, owner.pw_gid, [owner.pw_gid]) if owner else (None, None, None)
    done = subprocess.run(
        [path, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        user=user,
        group=group,
        extra_groups=groups,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
