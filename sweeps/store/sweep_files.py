"""The files of one sweep, grouped by purpose: shards, their times, stages, report and tracking record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sweeps.config import strict_yaml
from sweeps.config.digests import changed_keys
from sweeps.config.loader import loads
from sweeps.config.schema import SweepConfig
from sweeps.errors import StoreError
from sweeps.planning.shards import Shards
from sweeps.store.backends import storage_at
from sweeps.store.backends.base import Lease, Storage
from sweeps.store.backends.local_lease import Holder
from sweeps.store.json_files import read_json, read_text, write_json
from sweeps.store.manifest import Manifest, read_document
from sweeps.store.report_files import ReportFiles
from sweeps.store.rung_files import RungFiles
from sweeps.store.shard_files import ShardFiles
from sweeps.store.shard_times import ShardTimesFiles
from sweeps.store.stage_files import StageFiles, StageRecord
from sweeps.store.tracking_record import TrackingRecord
from sweeps.text.sanitize import visible

STATES = ("planned", "running", "interrupted", "failed", "computed", "logged", "reported")  # see SweepFiles.state()
_MOST_KEYS = 8  # in a message


@dataclass(frozen=True)
class Extent:
    """The planned part of a sweep.

    Args:
        stages: the planned stages; a grid has one.
        is_complete: whether no stage follows them.
    """

    stages: tuple[StageRecord, ...]
    is_complete: bool

    @property
    def trials(self) -> int:
        """The number of planned trials."""
        return sum(stage.trials for stage in self.stages)

    @property
    def packs(self) -> Shards:
        """The planned shards."""
        return Shards(tuple(pack for stage in self.stages for pack in stage.packs))

    @property
    def shards(self) -> int:
        """The number of planned shards."""
        return len(self.packs)


class SweepFiles:
    """The files of one sweep."""

    def __init__(self, where: str | Path | Storage) -> None:
        """Open the sweep in a folder, at a URI or in a storage; nothing is read yet."""
        self._storage = storage_at(where) if isinstance(where, str | Path) else where
        self._lease: Lease | None = None  # while this process holds it
        self._manifest: dict[str, Any] | None = None
        self.shards = ShardFiles(self._storage, self.check_lease, lambda: self.planned().shards)
        self.rungs = RungFiles(self._storage, self.check_lease)
        self.times = ShardTimesFiles(self._storage, self.check_lease)
        self.stages = StageFiles(self._storage, self.check_lease)
        self.report = ReportFiles(self._storage, self.check_lease)
        self.tracking_record = TrackingRecord(self._storage, self.check_lease)

    def __reduce__(self) -> tuple[type[SweepFiles], tuple[str]]:
        """Open the same files in another process, which does not hold the lease."""
        return SweepFiles, (self.where,)

    @property
    def sweep_id(self) -> str:
        """The sweep's id, its folder's name."""
        return self.where.rpartition("/")[2]

    @property
    def storage(self) -> Storage:
        """The storage of the sweep's folder."""
        return self._storage

    @property
    def where(self) -> str:
        """The path or URI of the sweep's folder."""
        return self._storage.locate()

    @property
    def folder(self) -> Path:
        """The sweep's folder.

        Raises:
            StoreError: the store is not in a folder.
        """
        return self._storage.path()

    @property
    def config_path(self) -> Path:
        """The resolved config's path; raises StoreError like :attr:`folder`."""
        return self._storage.path("config.yaml")

    @property
    def plan_path(self) -> Path:
        """The manifest's path; raises StoreError like :attr:`folder`."""
        return self._storage.path("plan.json")

    @property
    def tracking_path(self) -> Path:
        """The tracking record's path; raises StoreError like :attr:`folder`."""
        return self._storage.path("tracking.json")

    @property
    def config_location(self) -> str:
        """The resolved config's path or URI, for messages."""
        return self._storage.locate("config.yaml")

    @property
    def created(self) -> str:
        """The time when the sweep was planned, in ISO 8601; empty if the manifest is damaged."""
        try:
            return str(self.manifest()["created"])
        except StoreError:
            return ""

    @property
    def started_ms(self) -> int | None:
        """The time when the sweep was planned, in milliseconds since 1970; None if the manifest does not say it."""
        manifest = self.manifest()
        try:
            planned = datetime.fromisoformat(manifest["created"]).timestamp() * 1000
        except ValueError:
            planned = None
        return manifest.get("started_ms") or (None if planned is None else round(planned))

    @property
    def ended_ms(self) -> int | None:
        """The time when the last shard was stored, in milliseconds since 1970; None if it is not known."""
        shards = self.planned().packs
        ends = (times.last_ms(len(shards[index])) for index, times in self.times.all().items() if index < len(shards))
        return max(ends, default=None)

    def exists(self) -> bool:
        """Return whether the sweep exists."""
        # In a bucket the files appear one by one, the plan last.
        return self._storage.exists("plan.json" if self._storage.is_shared else "")

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the sweep's lease, which is required for writing, until the end of the block or of the process.

        Raises:
            SweepHeld: another process holds it.
        """
        with self._storage.lease(f"sweep {self.sweep_id}") as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def check_lease(self) -> None:
        """Check that this process still holds the lease that it took; called before every write.

        Raises:
            SweepHeld: the lease was lost, which can happen on a shared store.
        """
        if self._lease is not None:
            self._lease.check()

    def holder(self) -> Holder | None:
        """Return the process that holds the sweep; None if there is none."""
        return self._storage.holder()

    def for_workers(self, on_this_host: bool = False) -> ShardFiles | None:
        """Return the shard files for workers to write to; None if the driver writes them.

        Args:
            on_this_host: whether all workers are other processes of this host, which see its folders.
        """
        return ShardFiles(self._storage, _no_lease) if self._storage.is_shared or on_this_host else None

    def remove_pieces(self) -> None:
        """Remove the partial files of a killed process. The caller must hold the lease."""
        self._storage.remove_pieces()

    def manifest(self) -> dict[str, Any]:
        """Return the content of plan.json.

        Raises:
            StoreError: it is damaged.
        """
        if self._manifest is not None:
            return dict(self._manifest)
        manifest, _ = read_document(self._storage, "plan.json", Manifest)
        if self._storage.is_shared:
            self._manifest = manifest  # it never changes, and requests are slow
        return manifest

    def damage(self) -> str | None:
        """Return what is wrong with the sweep's JSON files, in one line; None if they can be read."""
        try:
            self.planned()
            self.tracking_record.places()
        except StoreError as error:
            return str(error)
        return None

    def config_yaml(self) -> str:
        """Return the resolved config's text.

        Raises:
            StoreError: it cannot be read.
        """
        return read_text(self._storage, "config.yaml")

    def config(self) -> SweepConfig:
        """Return the resolved config.

        Raises:
            StoreError: it cannot be read, or was changed since the sweep was planned.
            ConfigError: it is invalid.
        """
        text, digests = self.config_yaml(), self.manifest().get("config")
        if digests is not None and (changed := changed_keys(strict_yaml.read(text, self.config_location), digests)):
            keys = ", ".join(changed[:_MOST_KEYS]) + ", ..." * (len(changed) > _MOST_KEYS)
            raise StoreError(
                f"{self.config_location}: changed since the sweep was planned: {visible(keys)}; "
                "restore the file, or start a new sweep with the changed config"
            )
        return loads(text, self.config_location, stored=True)

    def planned(self) -> Extent:
        """Return the planned part of the sweep.

        Raises:
            StoreError: the manifest or stages.json is damaged.
        """
        manifest = self.manifest()
        trials, shards = manifest["trials"], manifest["shards"]
        size = manifest.get("trials_per_shard") or max(1, -(-trials // max(shards, 1)))
        facts = manifest.get("dropped", {}), manifest.get("merged", {})
        parts = tuple(manifest.get("parts", ()))
        first = StageRecord(trials, size, tuple(manifest.get("swept", ())), *facts, parts)
        later, is_complete = self.stages.records()
        return Extent((first, *later), is_complete)

    def stored_trials(self) -> int:
        """Return the number of trials in the stored shards, computed from the plan without reading them."""
        shards = self.planned().packs
        return sum(len(shards[index]) for index in self.shards.done())

    def is_computed(self) -> bool:
        """Return whether every trial of the sweep is stored."""
        planned = self.planned()
        return planned.is_complete and len(self.shards.done()) == planned.shards

    def state(self) -> str:
        """Return the sweep's state.

        ``running``: a process holds it. Otherwise ``planned``: nothing was run; ``interrupted``: shards are missing;
        ``failed``: all that can be run is stored, but some shards raised (see :meth:`ShardFiles.failures`);
        ``computed``: every shard is stored; ``logged``: the trials are in MLflow; ``reported``: the report is written
        as well. :meth:`missing` says what a sweep that is not reported lacks.
        """
        if self.holder():
            return "running"
        done, planned = self.shards.done(), self.planned()
        if not done and not self._storage.exists("lease"):
            return "planned"
        failed = len(self.shards.failures())
        if len(done) + failed < planned.shards or not (planned.is_complete or failed):
            return "interrupted"
        if failed:
            return "failed"
        if not any(place.get("complete") for place in self.tracking_record.places()):
            return "computed"
        return "reported" if self.report.is_written() else "logged"

    def missing(self) -> list[str]:
        """Return what the sweep lacks, in words: trials, runs in MLflow, the report; empty if it is whole.

        Raises:
            StoreError: a file of the sweep is damaged.
        """
        planned, lacking = self.planned(), []
        if missing := planned.trials - self.stored_trials():
            lacking.append(f"{missing:,} of {planned.trials:,} trials")
        elif not planned.is_complete:
            lacking.append("later stages")
        if not any(place.get("complete") for place in self.tracking_record.places()):
            lacking.append("some runs in MLflow")
        if not self.report.is_written():
            lacking.append("the report")
        return lacking

    def progress(self) -> dict[str, Any]:
        """Return the counts of the running or last process (sweeps.execution.progress.Counts); empty if unreadable."""
        try:
            return read_json(self._storage, "progress.json")
        except StoreError:
            return {}

    def write_progress(self, record: dict[str, Any]) -> None:
        """Write progress.json.

        Raises:
            StoreError: it cannot be written.
        """
        self.check_lease()
        write_json(self._storage, "progress.json", record)

    def read_cache(self) -> bytes | None:
        """Return the cached aggregates of the shards, if there are any; see sweeps.results.cache."""
        return self._storage.read("kept") if self._storage.exists("kept") else None

    def write_cache(self, data: bytes) -> None:
        """Replace the cached aggregates.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self._storage.write("kept", data)
        except OSError as error:
            raise StoreError(f"{self._storage.locate('kept')}: cannot be written: {error.strerror}") from error

    def copies(self) -> Iterator[tuple[Path, str | None]]:
        """Yield the files and folders to log to MLflow as local paths, each with its target folder.

        On a shared store, each file is a temporary copy that is removed when the next one is requested.
        """
        for name in ("config.yaml", "plan.json"):
            with self._storage.local(name) as path:
                yield path, None
        for folder in ("shards", "report"):
            if not self._storage.is_shared:
                if self._storage.exists(folder):
                    yield self._storage.path(folder), folder
                continue
            for name in sorted(self._storage.files(folder)):
                with self._storage.local(f"{folder}/{name}") as path:
                    yield path, folder


def _no_lease() -> None:
    """Do nothing: the lease is held by the driver, not by its workers."""
