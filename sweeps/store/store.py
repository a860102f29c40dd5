"""The store of sweeps, in a folder or in a bucket on S3. All files are written atomically.

sweep-store/
  mlflow.db, artifacts/            the embedded MLflow, served by ``sweeps ui``; in a folder only
  schedules.db, schedules/         the tick table, and logs of local scheduled sweeps; in a folder only
  data/                            data files copied into the store (--copy-data); in a folder only
  sweeps/<sweep id>/
    config.yaml, plan.json         the resolved config; counts, digests, versions
    stages.json, stages/           the later stages of a sweep whose method learns
    warm_start.json                the settings of an earlier sweep that it learns from
    tracking.json                  where the trials are logged, and whether all of them are
    progress.json                  the counts of the running or last process
    lease                          held by the process that works on the sweep
    shards/00000.parquet ...       one file per shard
    failures/00000.txt ...         the traceback of a failed shard, and its number of tries
    report/                        report.html, report.md, trials.csv, ...
    kept                           cached aggregates of the shards; can be removed

Store and SweepFiles know the files; the storage reads and writes them (see sweeps.store.backends).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sweeps.config.datasets import MAX_DATA_BYTES
from sweeps.errors import StoreError, SweepHeld, TrackingError
from sweeps.store.backends import aside, storage_at
from sweeps.store.stage_files import STAGES, stages_document
from sweeps.store.sweep_files import STATES, SweepFiles
from sweeps.text.regular_file import read_regular
from sweeps.text.sanitize import visible
from sweeps.text.uris import sqlite_uri

__all__ = ["LATEST", "STATES", "SWEEP_ID", "Store", "SweepFiles"]

SWEEP_ID = re.compile(r"[0-9a-f]{1,32}")
LATEST = "latest"  # stands for the newest sweep wherever an id is taken
_MAX_NAMED = 10  # sweeps in a message
_SIDE_BY_SIDE = 16  # sweeps of a shared store that are read concurrently
T = TypeVar("T")


class Store:
    """A store of sweeps in a folder, or under a prefix of a bucket."""

    def __init__(self, where: str | Path) -> None:
        """Access the store in a folder, which need not exist yet, or at an ``s3://bucket/prefix`` URI.

        Raises:
            StoreError: ``where`` is neither.
        """
        self._storage = storage_at(where)
        if "?" in self.where:
            raise StoreError(f"{self.where}: a store's path must not contain '?', which is special in database URIs")

    @classmethod
    def of(cls, files: SweepFiles) -> Store:
        """Return the store that holds a sweep."""
        return cls(files.storage.parent(2).locate())

    @property
    def where(self) -> str:
        """The store's path or URI."""
        return self._storage.locate()

    @property
    def is_shared(self) -> bool:
        """Whether workers on all hosts can access the store."""
        return self._storage.is_shared

    @property
    def root(self) -> Path:
        """The store's folder.

        Raises:
            StoreError: the store is not in a folder.
        """
        return self._storage.path()

    @property
    def tracking_uri(self) -> str:
        """The URI of the embedded MLflow database.

        Raises:
            TrackingError: the store is shared and has none.
        """
        if self.is_shared:
            remedy = "set --tracking-uri or MLFLOW_TRACKING_URI"
            raise TrackingError(f"{self.where}: a shared store has no embedded MLflow; {remedy}")
        return sqlite_uri(self.database)

    @property
    def database(self) -> Path:
        """The file of the embedded MLflow database; raises StoreError like :attr:`root`."""
        return self.root / "mlflow.db"

    @property
    def schedules_folder(self) -> Path:
        """The folder for the logs of local scheduled sweeps."""
        return self.root / "schedules"

    @property
    def schedules_uri(self) -> str:
        """The URI of the tick table's database."""
        return sqlite_uri(self.schedules_database)

    @property
    def schedules_database(self) -> Path:
        """The file of the tick table's database."""
        return self.root / "schedules.db"

    @property
    def artifacts(self) -> Path:
        """The artifact folder of the embedded MLflow."""
        return self.root / "artifacts"

    def check_exists(self) -> None:
        """Check that the store exists, for commands that only read it; a prefix of a bucket always does.

        Raises:
            StoreError: there is no such folder.
        """
        if not self.is_shared and not self.root.exists():
            raise StoreError(f"{self.root}: no such store; check --store, or run a sweep, which creates it")

    def check_writable(self) -> None:
        """Check that the store can be written, and create its folder.

        Raises:
            StoreError: it cannot be written.
            StoreUnavailable: its server is unreachable or rejects the request.
        """
        self._storage.check_writable()

    def create(
        self,
        sweep_id: str,
        config_yaml: str,
        manifest: dict[str, Any],
        is_adaptive: bool = False,
        others: Mapping[str, str] | None = None,
    ) -> SweepFiles:
        """Create a sweep's folder with its config, its plan and other text files, atomically.

        Raises:
            SweepHeld: another process has just created it.
            StoreError: it cannot be written.
        """
        plan = json.dumps(manifest, indent=2) + "\n"
        stages = {STAGES: json.dumps(stages_document([], complete=False), indent=2) + "\n"} if is_adaptive else {}
        folder = f"sweeps/{sweep_id}"
        files = {"config.yaml": config_yaml, **(others or {}), **stages, "plan.json": plan}
        try:
            self._storage.add(folder, files, empty="shards")
        except FileExistsError as error:
            raise SweepHeld(f"sweep {sweep_id}: another process has just created it; run the command again") from error
        except OSError as error:
            where = self._storage.locate(folder)
            raise StoreError(f"{where}: cannot be written: {error.strerror}") from error
        return self._sweep(sweep_id)

    def keep_data(self, path: Path) -> Path:
        """Copy a data file into the store, under a name derived from its content, and return the copy's path."""
        try:
            content = read_regular(path, MAX_DATA_BYTES)
            kept = self.root / "data" / f"{hashlib.sha256(content).hexdigest()[:32]}{path.suffix}"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                with aside(kept) as piece:
                    piece.write_bytes(content)
        except OSError as error:
            raise StoreError(f"{path}: cannot be copied into the store {self.where}: {error.strerror}") from error
        return kept

    def remove(self, files: SweepFiles) -> None:
        """Delete a sweep; it disappears atomically before its files are deleted. Its MLflow runs remain.

        Raises:
            SweepHeld: a process holds the sweep.
            StoreError: it cannot be removed.
        """
        try:
            with files.lease():
                self._storage.discard(f"sweeps/{files.sweep_id}", "plan.json")
        except OSError as error:
            raise StoreError(f"{files.where}: cannot be removed: {error.strerror}") from error

    def sweeps(self) -> list[SweepFiles]:
        """Return all sweeps, newest first, damaged ones last."""
        return [files for files, _ in self.survey(lambda files: None)]

    def survey(self, look: Callable[[SweepFiles], T]) -> list[tuple[SweepFiles, T]]:
        """Return all sweeps, newest first, damaged ones last, each with the result of ``look``."""

        def seen(sweep_id: str) -> tuple[str, SweepFiles, T] | None:
            files = self._sweep(sweep_id)
            return (files.created, files, look(files)) if files.exists() else None

        ids = self._ids()
        if self.is_shared:
            with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
                found = list(filter(None, pool.map(seen, ids)))
        else:
            found = list(filter(None, map(seen, ids)))
        return [(files, result) for _, files, result in sorted(found, key=lambda entry: entry[0], reverse=True)]

    def lasting_files(self) -> Iterator[Path]:
        """Yield all files for a backup except databases, locks and files that are being written."""
        databases = (self.database.name, self.schedules_database.name)
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                passing = name.startswith(".") or name.endswith(".new") or name == "lease"
                if not passing and not name.startswith(databases) and path.is_file() and not path.is_symlink():
                    yield path

    def get(self, sweep_id: str) -> SweepFiles | None:
        """Return the sweep with exactly this id; None if there is none."""
        files = self._sweep(sweep_id)
        return files if files.exists() else None

    def find(self, wanted: str) -> SweepFiles:
        """Return the sweep with an id or a unique prefix of one, the newest with a name, or for ``latest`` the newest.

        Raises:
            StoreError: no sweep matches, or more than one id.
        """
        ids = [sweep_id for sweep_id in self._ids() if sweep_id.startswith(wanted)] if wanted else []
        matches = [files for files in map(self._sweep, sorted(ids)) if files.exists()]
        if len(matches) == 1:
            return matches[0]
        if exact := [files for files in matches if files.sweep_id == wanted]:
            return exact[0]
        newest = [files for files in self.sweeps() if files.created]
        for files in newest:
            if wanted in (LATEST, files.manifest()["name"]):
                return files
        if matches:
            candidates = ", ".join(map(_described, matches[:_MAX_NAMED]))
            raise StoreError(f"{wanted!r}: matches more than one sweep: {candidates}")
        what = "no such sweep" if SWEEP_ID.fullmatch(wanted) or wanted == LATEST else "not a sweep id, nor a name"
        known = f"; its newest sweeps: {', '.join(map(_described, newest[:5]))}" if newest else ", which is empty"
        raise StoreError(f"{wanted!r}: {what} in the store {self.where}{known}")

    def _ids(self) -> list[str]:
        return [name for name in self._storage.folders("sweeps") if SWEEP_ID.fullmatch(name)]

    def _sweep(self, sweep_id: str) -> SweepFiles:
        return SweepFiles(self._storage.within(f"sweeps/{sweep_id}"))


def _described(files: SweepFiles) -> str:
    """Return a sweep's id and name for messages."""
    return f"{files.sweep_id} ({visible(str(files.manifest()['name']))})" if files.created else files.sweep_id
