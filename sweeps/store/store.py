"""Store: one class owns every path; files are whole or not there, in a folder or in a bucket on S3.

sweep-store/
  mlflow.db, artifacts/            the embedded MLflow, what ``sweeps ui`` serves; in a folder only
  schedules.db, schedules/         what is due, and what the processes of schedules print; in a folder only
  data/                            data files that were sent along with sweeps (--copy-data); in a folder only
  sweeps/<sweep id>/
    config.yaml, plan.json         the resolved config; counts, digests, versions
    tracking.json                  where the trials are logged, and whether all of them are
    progress.json                  how far the running process is, or the last one was
    lease                          held by the process that works on the sweep
    shards/00000.parquet ...       one file a shard
    failures/00000.txt ...         the traceback of a shard that could not be run, and how often it was tried
    report/                        report.html, report.md, trials.csv, ...
    kept                           what a reader of all shards has found, for the next one; may be removed

Store and SweepFiles know what the files are; how they are read and written is the storage's (see sweeps.store.backends).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sweeps.errors import StoreError, SweepHeld, TrackingError
from sweeps.store.backends import aside, storage_at
from sweeps.store.stage_files import STAGES, stages_document
from sweeps.store.sweep_files import STATES, SweepFiles

__all__ = ["STATES", "SWEEP_ID", "Store", "SweepFiles"]

SWEEP_ID = re.compile(r"[0-9a-f]{1,32}")
_SIDE_BY_SIDE = 16  # sweeps of a shared store that are looked at at once
T = TypeVar("T")


class Store:
    """A folder of sweeps, or a prefix of them in a bucket."""

    def __init__(self, where: str | Path) -> None:
        """The store at a folder's path, which need not exist yet, or at an ``s3://bucket/prefix`` URI.

        Raises:
            StoreError: it is neither.
        """
        self._storage = storage_at(where)
        if "?" in self.where:
            raise StoreError(f"{self.where}: a store's path may not contain '?', which ends a database's name")

    @classmethod
    def of(cls, files: SweepFiles) -> Store:
        """Return the store that holds a sweep."""
        return cls(files.storage.parent(2).locate())

    @property
    def where(self) -> str:
        """Its path or URI."""
        return self._storage.locate()

    @property
    def is_shared(self) -> bool:
        """Whether every worker reaches it, whatever its host."""
        return self._storage.is_shared

    @property
    def root(self) -> Path:
        """Its folder.

        Raises:
            StoreError: it is in none.
        """
        return self._storage.path()

    @property
    def tracking_uri(self) -> str:
        """The embedded MLflow database.

        Raises:
            TrackingError: a shared store has none.
        """
        if self.is_shared:
            named = "name one with --tracking-uri or MLFLOW_TRACKING_URI"
            raise TrackingError(f"{self.where}: a shared store has no MLflow of its own: {named}")
        return f"sqlite:///{self.database}"

    @property
    def database(self) -> Path:
        """The embedded MLflow database's file; raises as root, as all that is in folders only."""
        return self.root / "mlflow.db"

    @property
    def schedules_folder(self) -> Path:
        """What the processes of schedules print."""
        return self.root / "schedules"

    @property
    def schedules_uri(self) -> str:
        """The database in which schedulers keep what is due."""
        return f"sqlite:///{self.schedules_database}"

    @property
    def schedules_database(self) -> Path:
        """The file of that database."""
        return self.root / "schedules.db"

    @property
    def artifacts(self) -> Path:
        """Where the embedded MLflow keeps artifacts."""
        return self.root / "artifacts"

    def check_writable(self) -> None:
        """Write to the store; its folder is made.

        Raises:
            StoreError, StoreUnavailable: that cannot be done.
        """
        self._storage.check_writable()

    def create(
        self, sweep_id: str, config_yaml: str, manifest: dict[str, Any], is_adaptive: bool = False
    ) -> SweepFiles:
        """A new sweep's folder, with its config and plan; it appears whole or not at all.

        Raises:
            SweepHeld: another process has made it meanwhile.
        """
        plan = json.dumps(manifest, indent=2) + "\n"
        stages = {STAGES: json.dumps(stages_document([], complete=False), indent=2) + "\n"} if is_adaptive else {}
        folder = f"sweeps/{sweep_id}"
        try:
            self._storage.add(folder, {"config.yaml": config_yaml, **stages, "plan.json": plan}, empty="shards")
        except FileExistsError as error:
            raise SweepHeld(f"sweep {sweep_id}: another process has just made it; say it again") from error
        except OSError as error:
            where = self._storage.locate(folder)
            raise StoreError(f"{where}: cannot be written: {error.strerror}") from error
        return self._sweep(sweep_id)

    def keep_data(self, path: Path) -> Path:
        """A copy of a data file in the store, named by its content; for files that are not there to stay."""
        try:
            content = path.read_bytes()
            kept = self.root / "data" / f"{hashlib.sha256(content).hexdigest()[:32]}{path.suffix}"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                with aside(kept) as piece:
                    piece.write_bytes(content)
        except OSError as error:
            raise StoreError(f"{path}: cannot be kept in the store {self.where}: {error.strerror}") from error
        return kept

    def remove(self, files: SweepFiles) -> None:
        """Delete a sweep: first it is no longer there, then its files are deleted. MLflow keeps its runs.

        Raises:
            SweepHeld: a process works on the sweep.
            StoreError: it cannot be removed.
        """
        try:
            with files.lease():
                self._storage.discard(f"sweeps/{files.sweep_id}", "plan.json")
        except OSError as error:
            raise StoreError(f"{files.where}: cannot be removed: {error.strerror}") from error

    def sweeps(self) -> list[SweepFiles]:
        """All sweeps, the newest first, damaged ones last."""
        return [files for files, _ in self.survey(lambda files: None)]

    def survey(self, look: Callable[[SweepFiles], T]) -> list[tuple[SweepFiles, T]]:
        """All sweeps, the newest first, damaged ones last, and what ``look`` says of each."""

        def seen(sweep_id: str) -> tuple[str, SweepFiles, T] | None:
            files = self._sweep(sweep_id)
            return (files.created, files, look(files)) if files.exists() else None

        ids = self._ids()
        if self.is_shared:
            with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
                found = list(filter(None, pool.map(seen, ids)))
        else:
            found = list(filter(None, map(seen, ids)))
        return [(files, said) for _, files, said in sorted(found, key=lambda entry: entry[0], reverse=True)]

    def lasting_files(self) -> Iterator[Path]:
        """All files that a copy of the store needs besides databases; not what is being written, nor locks."""
        databases = (self.database.name, self.schedules_database.name)
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                passing = name.startswith(".") or name.endswith(".new") or name == "lease"
                if not passing and not name.startswith(databases) and path.is_file() and not path.is_symlink():
                    yield path

    def get(self, sweep_id: str) -> SweepFiles | None:
        """The sweep that has exactly this id, if there is one."""
        files = self._sweep(sweep_id)
        return files if files.exists() else None

    def find(self, prefix: str) -> SweepFiles:
        """The sweep whose id starts with ``prefix``.

        Raises:
            StoreError: there is none, or more than one.
        """
        if not SWEEP_ID.fullmatch(prefix):
            raise StoreError(f"{prefix!r}: not a sweep id; ids are hexadecimal, in lower case, see 'sweeps list'")
        matches = [
            files
            for sweep_id in self._ids()
            if sweep_id.startswith(prefix) and (files := self._sweep(sweep_id)).exists()
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = sorted(files.sweep_id for files in matches)
            raise StoreError(f"{prefix!r}: more than one sweep: {', '.join(ids[:10])}")
        newest = [files.sweep_id for files in self.sweeps()[:5]]
        known = f"; its newest sweeps: {', '.join(newest)}" if newest else ", which holds no sweeps"
        raise StoreError(f"{prefix!r}: no such sweep in the store {self.where}{known}")

    def _ids(self) -> list[str]:
        return [name for name in self._storage.folders("sweeps") if SWEEP_ID.fullmatch(name)]

    def _sweep(self, sweep_id: str) -> SweepFiles:
        return SweepFiles(self._storage.within(f"sweeps/{sweep_id}"))
