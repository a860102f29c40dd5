"""Backup and restore of a store, and of a tracking server's database and artifacts, as one archive with checksums.

An archive is a tar file compressed with Zstandard. Its last member, ``backup.json``, holds the store's location and the
SHA-256 of all other members. A backup can be made while sweeps run: the store's files are written atomically, and they
are copied in an order in which no file refers to data newer than the files copied after it (tracking records, then the
database, then shards and artifacts). In the copy, running sweeps are interrupted; ``sweeps resume`` completes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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
    """The contents of an archive."""

    store: str  # location of the store that was backed up
    created: str
    files: int
    bytes: int
    database: bool  # whether it includes the dump of a tracking database
    artifacts: bool = False  # whether it includes a tracking server's artifacts


def backup(store: Store, archive: Path, database: str | None = None, artifacts: Path | None = None) -> Backup:
    """Write a store, and optionally a tracking server's database and artifacts, atomically into a new archive.

    Args:
        store: the store, which can be in use.
        archive: the file to write, which must not exist.
        database: the URI of the server's PostgreSQL database to dump.
        artifacts: the folder of the server's artifacts.

    Raises:
        StoreError: the store or the folder does not exist, the archive exists, or it cannot be written.
        TrackingError: the database cannot be read.
    """
    if not store.root.is_dir():
        raise StoreError(f"{store.root}: no such store")
    if artifacts is not None and not artifacts.is_dir():
        raise StoreError(f"{artifacts}: no such folder")
    if archive.exists():
        raise StoreError(f"{archive}: exists already; choose a new file, archives are not overwritten")
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
    """Restore a store from an archive, and optionally a tracking server's PostgreSQL database and artifacts.

    Paths in the embedded MLflow database are updated to the store's new location.

    Args:
        archive: an archive written by :func:`backup`.
        store: the target, which must be empty or not exist.
        database: the URI of an empty database; None skips the dump.
        artifacts: a folder that is empty or does not exist; None skips the artifacts.

    Raises:
        StoreError: the store or the folder is not empty, the archive is not a valid backup or is damaged, or it lacks
            the database or artifacts; nothing was restored.
        TrackingError: the database is not empty or cannot be written; nothing was restored.
    """
    _check_empty(store.root, "--store")
    was_there = store.root.exists()
    if artifacts is not None:
        _check_empty(artifacts, "--artifacts")
    store.check_writable()
    # Extract inside the store, which can be a separate volume, so that checked files can be moved into place.
    aside = store.root / ".restore"
    try:
        aside.mkdir()
        made = _extract(archive, aside)
        for wanted, held, what in ((database, made.database, "database"), (artifacts, made.artifacts, "artifacts")):
            if wanted is not None and not held:
                raise StoreError(f"{archive}: contains no {what}")
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
        raise StoreError(f"{folder}: is not empty; restore into an empty folder ({option})")


def _empty(folder: Path) -> None:
    """Remove the contents of a folder, but not the folder, which can be a mounted volume."""
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
                continue  # removed since the folder was listed: the record of a failure whose shard succeeded
        made = Backup(str(store.root), _now(), len(digests), sizes, database is not None, artifacts is not None)
        contents = {"format": _FORMAT, "sweeps": __version__, **made.__dict__, "sha256": digests}
        path = folder / _CONTENTS
        path.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
        _add(tar, _CONTENTS, path, folder)
    return made


def _members(store: Store, folder: Path, database: str | None, artifacts: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield the files to copy with their names in the archive, in order."""
    records = [path for files in store.sweeps() if (path := files.tracking_path).exists()]
    for path in records:
        yield path.relative_to(store.root).as_posix(), path
    for file in (store.database, store.schedules_database):
        if file.exists():
            snapshot(file, folder / file.name)
            yield file.name, folder / file.name
    if database is not None:
        dump(database, folder / _DUMP)
        yield _DUMP, folder / _DUMP
    for path in store.lasting_files():
        if path not in records:
            yield path.relative_to(store.root).as_posix(), path
    if artifacts is not None:
        for path in sorted(artifacts.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield f"{_ARTIFACTS}/{path.relative_to(artifacts).as_posix()}", path


def _add(tar: tarfile.TarFile, name: str, path: Path, folder: Path) -> tuple[int, str]:
    """Add a file to the archive. Return its size and SHA-256."""
    # Copied first, because MLflow writes artifacts in place and a member's size must be known before its content.
    with path.open("rb") as file, tempfile.TemporaryFile(dir=folder) as copy:
        digest = _copied(file, copy)
        member = tarfile.TarInfo(name)
        member.size, member.mtime = copy.tell(), int(os.fstat(file.fileno()).st_mtime)
        copy.seek(0)
        tar.addfile(member, copy)
    return member.size, digest


def _copied(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy the rest of a file. Return its SHA-256."""
    sha256 = hashlib.sha256()
    while part := source.read(_CHUNK):
        sha256.update(part)
        target.write(part)
    return sha256.hexdigest()


def _extract(archive: Path, folder: Path) -> Backup:
    """Unpack an archive and check every file's SHA-256."""
    digests: dict[str, str] = {}
    contents: dict[str, Any] | None = None
    with _opened(archive) as tar:
        for member in tar:
            target = _target(archive, folder, member)
            file = tar.extractfile(member)
            assert file is not None, "not a regular file"
            if member.name == _CONTENTS:
                contents = json.loads(file.read())
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                digests[member.name] = _copied(file, copy)
    if contents is None or contents.get("format") != _FORMAT:
        raise StoreError(f"{archive}: not a backup of a store, or incomplete")
    for name in sorted(digests.keys() | contents["sha256"].keys()):
        if digests.get(name) != contents["sha256"].get(name):
            raise StoreError(f"{archive}: damaged: the checksum of {name} does not match")
    (folder / _ARTIFACTS).mkdir(exist_ok=True)  # the archive can lack artifacts
    return Backup(**{name: contents[name] for name in Backup.__dataclass_fields__ if name in contents})


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    if not archive.is_file():
        raise StoreError(f"{archive}: no such file")
    try:
        with pa.CompressedInputStream(str(archive), "zstd") as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            yield tar
    except (tarfile.TarError, pa.ArrowInvalid, EOFError, ValueError) as error:
        raise StoreError(f"{archive}: not a backup of a store, or incomplete: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise StoreError(f"{archive}: not a backup of a store, or incomplete: {error}") from error


def _target(archive: Path, folder: Path, member: tarfile.TarInfo) -> Path:
    """Return a member's path inside the folder; reject anything but regular files, since archives are not trusted."""
    name = PurePosixPath(member.name)
    if not member.isreg() or name.is_absolute() or ".." in name.parts:
        raise StoreError(f"{archive}: {member.name!r} is not a file of a store")
    return folder / name


def _relocate(aside: Store, before: str, after: Store) -> None:
    """Replace the store's old location with the new one in its MLflow database and tracking records."""
    old = Store(Path(before))
    if aside.database.exists():
        relocate(aside.database, old.artifacts.as_uri(), after.artifacts.as_uri())
    for files in aside.sweeps():
        with suppress(StoreError):  # a damaged record is restored as it is
            files.tracking_record.relocate(old.tracking_uri, after.tracking_uri)


def _synced(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
