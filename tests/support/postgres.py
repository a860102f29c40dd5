"""A private PostgreSQL server on 127.0.0.1 for tests and benchmarks, removed when they are done."""

from __future__ import annotations

import glob
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support.processes import free_port

_USER = "sweeps"
_UNPRIVILEGED = ("postgres", "nobody")  # PostgreSQL does not run as root
# A test's data need not survive a power cut. Each test has its own database, to which MLflow keeps connections.
_HASTY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "500"}


@dataclass
class Cluster:
    """A running server.

    Args:
        folder: the folder of all its files; the data are in ``data``.
        port: the port on 127.0.0.1.
        password: the password of its only user, a superuser.
        owner: the system user that runs it if this process is root.
    """

    folder: Path
    port: int
    password: str = field(repr=False)
    owner: pwd.struct_passwd | None = None

    def __post_init__(self) -> None:
        """Start without a template database."""
        self._numbers = itertools.count(1)

    def uri(self, database: str) -> str:
        """Return the SQLAlchemy URI of a database, with the password."""
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str) -> None:
        """Run one statement that cannot be in a transaction, such as CREATE DATABASE."""
        import psycopg

        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def new_database(self) -> str:
        """Return the URI of a fresh database with MLflow's tables."""
        name = f"database{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {self._migrated}")
        return self.uri(name)

    def copy(self, uri: str) -> str:
        """Return the URI of a copy of a database; all its connections are closed."""
        original, name = uri.rpartition("/")[2], f"database{next(self._numbers)}"
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{original}'")
        self.execute(f"CREATE DATABASE {name} TEMPLATE {original}")
        return self.uri(name)

    def start(self) -> None:
        """Start the server, for the first time or after :meth:`kill`; return when it accepts connections.

        Raises:
            RuntimeError: it does not start.
        """
        log = self.folder / "log"
        try:
            self.run("pg_ctl", "start", "--wait", f"--pgdata={self.folder / 'data'}", f"--log={log}")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.read_text() if log.exists() else ''}") from error

    @contextmanager
    def killed(self) -> Iterator[None]:
        """Kill the server for the duration of the context."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def kill(self) -> None:
        """Kill the server at once, as the kernel does if memory is short; return when all its processes have exited."""
        lock = self.folder / "data" / "postmaster.pid"
        [pid, *_] = lock.read_text().split("\n")
        processes = [int(pid), *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        os.kill(int(pid), signal.SIGKILL)
        while any(_lives(process) for process in processes):  # the others notice and exit
            time.sleep(0.01)
        lock.unlink()  # a zombie process would be taken for a running server

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the owner.

        Raises:
            RuntimeError: it fails.
        """
        done = subprocess.run(
            [_program(program), *arguments], capture_output=True, text=True, check=False, **self._as_owner
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Stop the server and remove its folder when the block or this process ends, for whatever reason."""
        end = f"read _; '{_program('pg_ctl')}' stop --wait --mode=immediate --pgdata=data; cd /; rm -rf '{self.folder}'"
        # The kernel closes our end of its pipe if we are killed; a terminal's Ctrl-C does not reach it.
        watcher = subprocess.Popen(
            ["/bin/sh", "-c", end],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._as_owner,
        )
        try:
            yield
        finally:
            watcher.communicate()

    @property
    def _as_owner(self) -> dict[str, Any]:
        owner = self.owner
        whom = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [owner.pw_gid]} if owner else {}
        return {"cwd": self.folder, **whom}

    @cached_property
    def _migrated(self) -> str:
        """The database that all are copied from: MLflow takes seconds to create its tables, a copy 0.1 s."""
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.execute("CREATE DATABASE migrated")
        SqlAlchemyStore(self.uri("migrated"), "/nowhere").engine.dispose()  # type: ignore[no-untyped-call]
        return "migrated"


@contextmanager
def private_cluster(durable: bool = False) -> Iterator[Cluster]:
    """Run a fresh server inside the context, with default settings or, unless ``durable``, without syncing to disk.

    Raises:
        RuntimeError: PostgreSQL is not installed, or does not start.
    """
    owner, folder = _owner(), Path(tempfile.mkdtemp(prefix="sweeps-postgres-"))
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    cluster = Cluster(folder, free_port(), secrets.token_hex(16), owner)
    with cluster.ended():
        with tempfile.NamedTemporaryFile("w", dir=folder) as file:
            file.write(cluster.password)
            file.flush()
            os.chmod(file.name, 0o644)  # others cannot open the folder
            secret = ("--auth=scram-sha-256", f"--username={_USER}", f"--pwfile={file.name}")
            locale = ("--encoding=UTF8", "--locale=C.UTF-8")
            cluster.run("initdb", f"--pgdata={folder / 'data'}", *secret, *locale, *(() if durable else ("--no-sync",)))
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": cluster.port}
        settings |= {} if durable else _HASTY
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        cluster.start()
        yield cluster


def _owner() -> pwd.struct_passwd | None:
    """Return the user that the server runs as if this process is root."""
    if os.geteuid() != 0:
        return None
    return next(entry for entry in pwd.getpwall() if entry.pw_name in _UNPRIVILEGED)


def _program(name: str) -> str:
    newest_first = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: -int(path.split("/")[4]))
    path = shutil.which(name, path=os.pathsep.join([*newest_first, os.environ["PATH"]]))
    if path is None:
        raise RuntimeError("the tests and benchmarks need PostgreSQL (Debian: apt-get install postgresql)")
    return path


def _lives(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
