"""Create MLflow's SQLite database, so that a kill at any moment leaves either no database or a whole one.

MLflow migrates a new file in place, in dozens of steps, and cannot continue where a kill has stopped it. So the tables
are made in a file aside, which is then linked to its name. They are made once for each version of MLflow, in the user's
cache, and copied from there.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from sweeps.errors import TrackingError
from sweeps.text.uris import sqlite_uri
from sweeps.tracking.mlflow.database.base import BUSY_SECONDS

_COMPANIONS = ("-journal", "-wal", "-shm")  # files in which SQLite keeps changes that are not in the database yet


def create_missing(path: Path) -> Path | None:
    """Create MLflow's database if there is none, or only a half-made one in which nothing was logged.

    Any number of processes can call this at once.

    Returns:
        Where a half-made database was moved; None if there was none.

    Raises:
        TrackingError: the file cannot be written.
    """
    moved = None
    try:
        while True:
            if not path.exists() and not any(map(Path.exists, _companions(path))):
                _create(path)
                return moved
            path.touch()  # if only companions are left, SQLite would apply them to the new database
            inode = path.stat().st_ino
            if not _is_half_made(path):
                return moved
            moved = _set_aside(path, inode) or moved
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(f"{path}: the database cannot be opened: {error}") from error


def _create(path: Path) -> None:
    """Create the database unless another process does so first."""
    piece = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
    try:
        _make(piece)
        with piece.open("rb") as file:
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # unlike a rename, a link never replaces a database that is already in use
            os.link(piece, path)
    finally:
        piece.unlink(missing_ok=True)


def _make(piece: Path) -> None:
    """Make MLflow's tables in a new file, from the copy in the user's cache if there is one."""
    from mlflow.version import VERSION

    template = _cache() / f"mlflow-{VERSION}.db"
    with suppress(OSError):
        shutil.copyfile(template, piece)
        if _is_whole(piece):
            return
    _migrate(piece)
    with suppress(OSError):  # without a writable cache, every new store takes this long
        template.parent.mkdir(parents=True, exist_ok=True)
        kept = template.with_name(f".{template.name}.{os.getpid()}.{secrets.token_hex(4)}.new")
        shutil.copyfile(piece, kept)
        kept.rename(template)


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache"))
    # Without a home, "~" remains: a path below a device cannot be created.
    return (base if base.is_absolute() else Path(os.devnull)) / "sgd-sweeps"


def _migrate(piece: Path) -> None:
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    with tempfile.TemporaryDirectory(prefix="sweeps-mlflow-") as folder:
        made = Path(folder) / "mlflow.db"
        engine = sqlalchemy.create_engine(sqlite_uri(made))
        try:
            _initialize_tables(engine)  # type: ignore[no-untyped-call]
        finally:
            engine.dispose()
        shutil.copyfile(made, piece)


def _is_whole(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as connection:
            [[found]] = connection.execute("PRAGMA quick_check(1)").fetchall()
            return found == "ok" and connection.execute("SELECT count(*) FROM alembic_version").fetchall() == [(1,)]
    except sqlite3.Error:
        return False


def _is_half_made(path: Path) -> bool:
    """Return whether the tables are incomplete, and empty."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            logged = ("runs", ""), ("experiments", "WHERE experiment_id != 0"), ("registered_models", "")
            for table, where in logged:
                if table in tables and connection.execute(f"SELECT 1 FROM {table} {where} LIMIT 1").fetchone():
                    return False
            is_versioned = "alembic_version" in tables
            versions = connection.execute("SELECT version_num FROM alembic_version").fetchall() if is_versioned else []
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
            return False  # MLflow's client says so
        raise
    if tables - {"alembic_version"} and not tables & {"experiments", "_alembic_tmp_experiments"}:
        return False  # the database of another program
    from mlflow.store.db.utils import _get_latest_schema_revision

    return versions != [(_get_latest_schema_revision(),)]  # type: ignore[no-untyped-call]


def _set_aside(path: Path, inode: int) -> Path | None:
    """Rename the half-made file with this inode; return its new name, or None if another process was faster."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not os.fstat(file.fileno()).st_ino == path.stat().st_ino == inode:
            return None
        kept = path.with_name(f"{path.name}.half-made-{secrets.token_hex(4)}")
        for companion in _companions(path):
            with suppress(FileNotFoundError):
                companion.rename(kept.with_name(kept.name + companion.name.removeprefix(path.name)))
        path.rename(kept)
        return kept
    return None


def _companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) for suffix in _COMPANIONS]
