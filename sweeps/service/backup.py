"""Backup and restore: a store, and a tracking server's database and artifacts, as one archive that checks itself.

An archive is a tar file compressed by Zstandard, with ``backup.json`` as its last member: where the store was, and the
SHA-256 of everything before it. It can be made while sweeps run. A store's files are whole or not there, and nothing
that is read speaks of what is read later: first how far a sweep is said to be logged, then the database, then shards
and artifacts. So the copy is a store whose sweeps were killed while they ran, and ``sweeps resume`` goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from sweeps.errors import StoreError
from sweeps.store.store import Store
from sweeps.tracking.mlflow.database.dump import dump, restore_dump
from sweeps.tracking.mlflow.database.relocate import relocate, snapshot
from sweeps.version import __version__

_CONTENTS, _DUMP, _ARTIFACTS = "backup.json", "database.dump", "server-artifacts"
_FORMAT = 1
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Backup:
    """What an archive holds."""

    store: str  # where the store was
    created: str
    files: int
    bytes: int
    database: bool  # whether the dump of a tracking database is in it
    artifacts: bool = False  # whether a tracking server's artifacts are


def backup(store: Store, archive: Path, database: str | None = None, artifacts: Path | None = None) -> Backup:
    """Write a store, and what a tracking server keeps, into a new archive; it appears whole or not at all.

    Args:
        store: may be in use.
        archive: must not exist.
        database: the URI of the server's PostgreSQL database, which is dumped.
        artifacts: the folder of the server's artifacts.

    Raises:
        StoreError: there is no store or folder, the archive is there already, or it cannot be written.
        TrackingError: the database cannot be read.
    """
    if not store.root.is_dir():
        raise StoreError(f"{store.root}: there is no store")
    if artifacts is not None and not artifacts.is_dir():
        raise StoreError(f"{artifacts}: there is no folder")
    if archive.exists():
        raise StoreError(f"{archive}: is there already; an archive is not overwritten")
    aside = archive.with_name(f".{archive.name}.{os.getpid()}.new")
    try:
        with tempfile.TemporaryDirectory(dir=archive.absolute().parent, prefix=".sweeps-backup-") as folder:
            with pa.CompressedOutputStream(str(aside), "zstd") as stream:
                made = _write(store, stream, Path(folder), database, artifacts)
            _synced(aside)
        aside.rename(archive)
    except OSError as error:
        raise StoreError(f"{archive}: cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
    return made


def restore(archive: Path, store: Store, database: str | None = None, artifacts: Path | None = None) -> Backup:
    """Make a store of an archive, and fill a tracking server's empty PostgreSQL database and folder of artifacts.

    Paths in the embedded MLflow are changed to where the store is now, so that its artifacts are found.

    Args:
        archive: written by :func:`backup`.
        store: must be empty, or not there.
        database: its URI; None leaves the dump alone.
        artifacts: the folder, empty or not there; None leaves those in the archive alone.

    Raises:
        StoreError: the store or the folder holds something, or the archive is damaged or is none, or does not have what
            is asked for; nothing was restored.
        TrackingError: the database holds something, or cannot be filled; nothing was restored.
    """
    _check_empty(store.root, "--store")
    was_there = store.root.exists()
    if artifacts is not None:
        _check_empty(artifacts, "--artifacts")
    store.check_writable()
    # Within the store, which may be a volume of its own: there what was checked is moved to its place.
    aside = store.root / ".restore"
    try:
        aside.mkdir()
        made = _extract(archive, aside)
        for wanted, held, what in ((database, made.database, "database"), (artifacts, made.artifacts, "artifacts")):
            if wanted is not None and not held:
                raise StoreError(f"{archive}: holds no {what}")
        _relocate(Store(aside), made.store, store)
        with ExitStack() as undo:
            if artifacts is not None:
                undo.callback(_empty, artifacts)
                shutil.copytree(aside / _ARTIFACTS, artifacts, dirs_exist_ok=True)
            if database is not None:
                restore_dump(aside / _DUMP, database)
            undo.pop_all()
        shutil.rmtree(aside / _ARTIFACTS, ignore_errors=True)
        (aside / _DUMP).unlink(missing_ok=True)
        for path in aside.iterdir():
            path.rename(store.root / path.name)
        return made
    except OSError as error:
        raise StoreError(f"{store.root}: cannot be restored: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if not (was_there or any(store.root.iterdir())):
            store.root.rmdir()


def _check_empty(folder: Path, option: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder}: is not empty; restore into a folder of its own ({option})")


def _empty(folder: Path) -> None:
    """Remove all that is in a folder, which may be a volume and stays."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write(store: Store, stream: Any, folder: Path, database: str | None, artifacts: Path | None) -> Backup:
    digests: dict[str, str] = {}
    sizes = 0
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, path in _members(store, folder, database, artifacts):
            try:
                size, digests[name] = _add(tar, name, path, folder)
                sizes += size
            except FileNotFoundError:
                continue  # it was there when the folder was listed: a failure that has been made good
        made = Backup(str(store.root), _now(), len(digests), sizes, database is not None, artifacts is not None)
        contents = {"format": _FORMAT, "sweeps": __version__, **made.__dict__, "sha256": digests}
        path = folder / _CONTENTS
        path.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
        _add(tar, _CONTENTS, path, folder)
    return made


def _members(store: Store, folder: Path, database: str | None, artifacts: Path | None) -> Iterator[tuple[str, Path]]:
    """What is copied, by its name in the archive, in order."""
    said = [path for files in store.sweeps() if (path := files.tracking_path).exists()]
    for path in said:
        yield path.relative_to(store.root).as_posix(), path
    for file in (store.database, store.schedules_database):
        if file.exists():
            snapshot(file, folder / file.name)
            yield file.name, folder / file.name
    if database is not None:
        dump(database, folder / _DUMP)
        yield _DUMP, folder / _DUMP
    for path in store.lasting_files():
        if path not in said:
            yield path.relative_to(store.root).as_posix(), path
    if artifacts is not None:
        for path in sorted(artifacts.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield f"{_ARTIFACTS}/{path.relative_to(artifacts).as_posix()}", path


def _add(tar: tarfile.TarFile, name: str, path: Path, folder: Path) -> tuple[int, str]:
    """Copy a file; returns its size and SHA-256."""
    # Twice, for MLflow writes artifacts in place: a member's size has to be known before the first of its bytes.
    with path.open("rb") as file, tempfile.TemporaryFile(dir=folder) as copy:
        digest = _copied(file, copy)
        member = tarfile.TarInfo(name)
        member.size, member.mtime = copy.tell(), int(os.fstat(file.fileno()).st_mtime)
        copy.seek(0)
        tar.addfile(member, copy)
    return member.size, digest


def _copied(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy all that is left of a file; returns its SHA-256."""
    sha256 = hashlib.sha256()
    while part := source.read(_CHUNK):
        sha256.update(part)
        target.write(part)
    return sha256.hexdigest()


def _extract(archive: Path, folder: Path) -> Backup:
    """Unpack an archive and hold every file against its digest."""
    digests: dict[str, str] = {}
    contents: dict[str, Any] | None = None
    with _opened(archive) as tar:
        for member in tar:
            target = _target(archive, folder, member)
            file = tar.extractfile(member)
            assert file is not None, "a regular file"
            if member.name == _CONTENTS:
                contents = json.loads(file.read())
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                digests[member.name] = _copied(file, copy)
    if contents is None or contents.get("format") != _FORMAT:
        raise StoreError(f"{archive}: not a backup of a store, or not a whole one")
    for name in sorted(digests.keys() | contents["sha256"].keys()):
        if digests.get(name) != contents["sha256"].get(name):
            raise StoreError(f"{archive}: damaged: {name} is not what was backed up")
    (folder / _ARTIFACTS).mkdir(exist_ok=True)  # there may have been none
    return Backup(**{name: contents[name] for name in Backup.__dataclass_fields__ if name in contents})


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    if not archive.is_file():
        raise StoreError(f"{archive}: there is no such file")
    try:
        with pa.CompressedInputStream(str(archive), "zstd") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            yield tar
    except (tarfile.TarError, pa.ArrowInvalid, EOFError, ValueError) as error:
        raise StoreError(f"{archive}: not a backup of a store, or not a whole one: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise StoreError(f"{archive}: not a backup of a store, or not a whole one: {error}") from error


def _target(archive: Path, folder: Path, member: tarfile.TarInfo) -> Path:
    """Where a member goes: regular files within the folder only, whatever an archive from elsewhere says."""
    name = PurePosixPath(member.name)
    if not member.isreg() or name.is_absolute() or ".." in name.parts:
        raise StoreError(f"{archive}: {member.name!r} is no file of a store")
    return folder / name


def _relocate(aside: Store, before: str, after: Store) -> None:
    """Let everything that names the store's old place name its new one."""
    old = Store(Path(before))
    if aside.database.exists():
        relocate(aside.database, old.artifacts.as_uri(), after.artifacts.as_uri())
    for files in aside.sweeps():
        files.tracking_record.relocate(old.tracking_uri, after.tracking_uri)


def _synced(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
