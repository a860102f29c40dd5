"""SweepFiles: the files of one sweep, by what they are; where the store is shared, workers write their shards too."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import pyarrow as pa

from sweeps.config import schema as sweep_file
from sweeps.config.schema import SweepConfig
from sweeps.errors import StoreError
from sweeps.execution.worker import ShardFailure, ShardResult
from sweeps.plan.planner import Shard
from sweeps.store.backends import Storage, storage_at
from sweeps.store.backends import local_lease as leases
from sweeps.store.backends.base import Lease, unwritten
from sweeps.store.shard_files import extent, read_table, schema, write_table

if TYPE_CHECKING:
    from sweeps.store.store import Store

STATES = ("planned", "running", "interrupted", "computed", "logged", "reported")  # see SweepFiles.state()
_SHARD = re.compile(r"(\d{5,})\.parquet")
_FAILURE = re.compile(r"(\d{5,})\.txt")
_AHEAD = 8  # files of a shared store that are asked for at once
T = TypeVar("T")


@dataclass(frozen=True)
class FailureFile:
    """The traceback of a shard that could not be run."""

    storage: Storage
    index: int  # of the shard

    def __str__(self) -> str:
        """Its path or URI."""
        return self.storage.locate(_failure(self.index))

    def read_text(self) -> str:
        """The traceback, below a line that says how often the shard was tried."""
        return self.storage.read(_failure(self.index)).decode()


class SweepFiles:
    """One sweep's files."""

    def __init__(self, where: str | Path | Storage) -> None:
        """The sweep in a folder, at a URI or in a storage."""
        self._storage = storage_at(where) if isinstance(where, str | Path) else where
        self._lease: Lease | None = None  # while this process holds it
        self._manifest: dict[str, Any] | None = None

    @property
    def sweep_id(self) -> str:
        """The sweep's id, its folder's name."""
        return self.where.rpartition("/")[2]

    @property
    def store(self) -> Store:
        """The store that the sweep is in."""
        from sweeps.store.store import Store

        return Store(self._storage.parent(2).locate())

    @property
    def where(self) -> str:
        """Its folder's path or URI."""
        return self._storage.locate()

    @property
    def folder(self) -> Path:
        """Its folder.

        Raises:
            StoreError: it is in none.
        """
        return self._storage.path()

    @property
    def created(self) -> str:
        """When it was planned, ISO 8601; empty where the manifest is damaged."""
        try:
            return str(self.manifest()["created"])
        except StoreError:
            return ""

    @property
    def config_path(self) -> Path:
        """The resolved config's path; raises as folder."""
        return self._storage.path("config.yaml")

    @property
    def plan_path(self) -> Path:
        """The manifest's path; raises as folder."""
        return self._storage.path("plan.json")

    @property
    def tracking_path(self) -> Path:
        """The path of where the sweep is logged, see :meth:`tracking`; raises as folder."""
        return self._storage.path("tracking.json")

    @property
    def shards_folder(self) -> Path:
        """The shard files' folder; raises as folder."""
        return self._storage.path("shards")

    @property
    def report_folder(self) -> Path:
        """The report's folder; raises as folder."""
        return self._storage.path("report")

    @property
    def config_location(self) -> str:
        """The resolved config's path or URI, for messages."""
        return self._storage.locate("config.yaml")

    def exists(self) -> bool:
        """Whether there is such a sweep."""
        # In a bucket its files appear one by one, the plan last.
        return self._storage.exists("plan.json" if self._storage.is_shared else "")

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Whoever writes the sweep's files holds this meanwhile; it dies with its holder.

        Raises:
            SweepHeld: another process has it.
        """
        with self._storage.lease(f"sweep {self.sweep_id}") as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def check_lease(self) -> None:
        """Whether this process still holds the lease, if it took it; all that writes asks first.

        Raises:
            SweepHeld: it was lost, as it may be where the store is on another host.
        """
        if self._lease is not None:
            self._lease.check()

    def holder(self) -> leases.Holder | None:
        """Who works on the sweep now."""
        return self._storage.holder()

    def for_workers(self) -> SweepFiles | None:
        """What workers write their shards through; None where that is the driver's."""
        return SweepFiles(self._storage) if self._storage.is_shared else None

    def manifest(self) -> dict[str, Any]:
        """What plan.json holds.

        Raises:
            StoreError: it is damaged.
        """
        if self._manifest is not None:
            return dict(self._manifest)
        manifest = self._read_json("plan.json")
        missing = {"sweep_id", "name", "created", "trials", "shards"} - manifest.keys()
        if missing:
            raise StoreError(f"{self._storage.locate('plan.json')}: damaged: no {', '.join(sorted(missing))}")
        if self._storage.is_shared:
            self._manifest = manifest  # it never changes, and asking takes its time
        return dict(manifest)

    def config_yaml(self) -> str:
        """The resolved config's text.

        Raises:
            StoreError: it cannot be read.
        """
        return self._read("config.yaml")

    def config(self) -> SweepConfig:
        """The resolved config.

        Raises:
            StoreError, ConfigError: it is damaged.
        """
        return sweep_file.loads(self.config_yaml(), self.config_location)

    def write_shard(self, result: ShardResult) -> None:
        """Store a shard's table; its earlier failure is forgotten."""
        self.check_lease()
        write_table(self._storage, _shard(result.shard.index), result.table, keep=True)
        self._storage.remove(_failure(result.shard.index))

    def replace_shard(self, index: int, table: pa.Table) -> None:
        """Store another table in place of a shard's."""
        self.check_lease()
        write_table(self._storage, _shard(index), table)

    def write_failure(self, failure: ShardFailure) -> None:
        """Keep a failed shard's traceback, and how often it was tried in all."""
        shard, tries = failure.shard, failure.tries + self.tries(failure.shard.index)
        head = f"trials {shard.start} to {shard.stop - 1}: given up after {tries} {'try' if tries == 1 else 'tries'}"
        self._write_text(_failure(shard.index), f"{head}\n\n{failure.traceback}")

    def tries(self, index: int) -> int:
        """How often a shard that could not be run was tried."""
        try:
            told = re.search(r"given up after (\d+) ", self._storage.read(_failure(index)).decode())
        except FileNotFoundError:
            return 0
        return int(told[1]) if told else 0

    def failures(self) -> list[FailureFile]:
        """The tracebacks of shards that could not be run, and have not been since."""
        found = (_FAILURE.fullmatch(name) for name in self._storage.files("failures"))
        indices = sorted(int(m[1]) for m in found if m)
        done = self.done() if indices else set()
        return [FailureFile(self._storage, index) for index in indices if index not in done]

    def remove_pieces(self) -> None:
        """Remove what a killed process was writing; whoever holds the lease may."""
        self._storage.remove_pieces()

    def done(self) -> set[int]:
        """Indices of the shards that are stored."""
        return {int(m[1]) for name in self._storage.files("shards") if (m := _SHARD.fullmatch(name))}

    def stored_trials(self) -> int:
        """How many trials the stored shards hold, by their places in the plan; no shard is read."""
        manifest = self.manifest()
        trials, size = int(manifest["trials"]), int(manifest["trials_per_shard"])
        return sum(max(0, min(size, trials - index * size)) for index in self.done())

    def stamps(self) -> dict[int, str]:
        """Of each stored shard a text that is another one when its file is."""
        stamps = self._storage.stamps("shards")
        return {int(m[1]): stamp for name, stamp in stamps.items() if (m := _SHARD.fullmatch(name))}

    def kept(self) -> bytes | None:
        """What readers of the shards keep for the next one; see sweeps.results.cache."""
        return self._storage.read("kept") if self._storage.exists("kept") else None

    def keep(self, data: bytes) -> None:
        """Keep this instead.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self._storage.write("kept", data)
        except OSError as error:
            raise StoreError(f"{self._storage.locate('kept')}: cannot be written: {error.strerror}") from error

    def missing(self, shards: Iterable[Shard]) -> list[Shard]:
        """The shards that are still to be run."""
        done = self.done()
        return [shard for shard in shards if shard.index not in done]

    def read_shard(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """One shard's table, with its metadata.

        Raises:
            StoreError: the file is damaged.
        """
        return read_table(self._storage, _shard(index), columns)

    def read_shards(self, indices: Iterable[int], columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The same of several shards, in this order."""
        return self._ahead(lambda index: self.read_shard(index, columns), indices)

    def schema(self, index: int) -> pa.Schema:
        """One shard's columns and metadata.

        Raises:
            StoreError: the file is damaged.
        """
        return schema(self._storage, _shard(index))

    def extent(self, index: int) -> tuple[int, int]:
        """One shard's first trial and number of trials, from the file's footer.

        Raises:
            StoreError: the file is damaged.
        """
        return extent(self._storage, _shard(index))

    def extents(self, indices: Iterable[int]) -> Iterator[tuple[int, int]]:
        """The same of several shards, in this order."""
        return self._ahead(self.extent, indices)

    def _ahead(self, read: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
        """What is read of shards, in order; on a shared store a few are asked for ahead."""
        if not self._storage.is_shared:
            yield from map(read, indices)
            return
        with ThreadPoolExecutor(_AHEAD) as pool:
            asked: deque[Future[T]] = deque()
            for index in indices:
                asked.append(pool.submit(read, index))
                if len(asked) > _AHEAD:
                    yield asked.popleft().result()
            while asked:
                yield asked.popleft().result()

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The stored shards' tables, in order of trials."""
        return self.read_shards(sorted(self.done()), columns)

    def metadata(self) -> dict[str, Any]:
        """What the shards say of themselves: recorded steps, parameter names, kernel, device, kind of prediction."""
        schema = self.schema(min(self.done()))
        raw = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        return {
            "steps": json.loads(raw["steps"]),
            "parameters": json.loads(raw["parameters"]),
            "kernel": raw["kernel"],
            "device": raw["device"],
            "prediction": raw.get("prediction"),
        }

    def copies(self) -> Iterator[tuple[Path, str | None]]:
        """What MLflow keeps of the sweep, as files or folders of this machine, each with the folder that it goes to.

        Of a shared store one file at a time is here, until the next is asked for.
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

    @contextmanager
    def writing_report(self, name: str) -> Iterator[TextIO]:
        """A file of the report; it is there, whole, when the block ends well.

        Raises:
            StoreError: it cannot be written.
        """
        self.check_lease()
        try:
            with self._storage.writing_text(f"report/{name}") as file:
                yield file
        except OSError as error:
            where = self._storage.locate("report")
            raise StoreError(f"{where}: the report cannot be written: {error.strerror}") from error

    def remove_report(self, name: str) -> None:
        """Remove a file of the report, if it is there."""
        self._storage.remove(f"report/{name}")

    def report_location(self, name: str) -> str:
        """The path or URI of a file of the report."""
        return self._storage.locate(f"report/{name}")

    def is_reported(self) -> bool:
        """Whether the report was written."""
        return self._storage.exists("report/report.html")

    def tracking(self) -> dict[str, Any]:
        """Where and how far the sweep is logged; empty before it is. Its own place, if it is logged elsewhere too."""
        return next(iter(self.places()), {})

    def places(self) -> list[dict[str, Any]]:
        """All places where the sweep is logged, its own first."""
        if not self._storage.exists("tracking.json"):
            return []
        own = self._read_json("tracking.json")
        elsewhere = own.pop("elsewhere", [])
        return [own, *elsewhere]

    def write_tracking(self, record: dict[str, Any]) -> None:
        """Keep where and how far the sweep is logged; the first place that is written is the sweep's own."""
        places = {place["uri"]: place for place in self.places()} | {record["uri"]: record}
        self._write_places(list(places.values()))

    def relocate(self, before: str, after: str) -> None:
        """The MLflow at one URI is at another one now."""
        places = self.places()
        if any(place["uri"] == before for place in places):
            self._write_places([p | {"uri": after} if p["uri"] == before else p for p in places])

    def _write_places(self, places: list[dict[str, Any]]) -> None:
        own, *elsewhere = places
        document = own | ({"elsewhere": elsewhere} if elsewhere else {})
        self._write_text("tracking.json", json.dumps(document, indent=2) + "\n")

    def progress(self) -> dict[str, Any]:
        """How far the running process is, or the last one was, as sweeps.service.monitoring.progress_file.Counts; empty if unknown."""
        try:
            return self._read_json("progress.json")
        except StoreError:
            return {}

    def write_progress(self, record: dict[str, Any]) -> None:
        """Keep how far the sweep is.

        Raises:
            StoreError: it cannot be written.
        """
        self._write_text("progress.json", json.dumps(record) + "\n")

    def read_report(self) -> str | None:
        """The report page; None before it is written."""
        try:
            return self._storage.read("report/report.html").decode()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            where = self._storage.locate("report")
            raise StoreError(f"{where}: the report cannot be read: {error}") from error

    def state(self) -> str:
        """How far the sweep is.

        ``running``: a process works on it. Else: ``planned`` before anybody has; ``interrupted``, shards are missing;
        ``computed``, every shard is stored or was given up (see :meth:`failures`); ``logged`` to MLflow; ``reported``.
        """
        if self.holder():
            return "running"
        done, total = self.done(), int(self.manifest()["shards"])
        if not done and not self._storage.exists("lease"):
            return "planned"
        if len(done) + len(self.failures()) < total:
            return "interrupted"
        if not any(place.get("complete") for place in self.places()):
            return "computed"
        return "reported" if self.is_reported() else "logged"

    def _write_text(self, name: str, text: str) -> None:
        self.check_lease()
        try:
            with self._storage.writing_text(name) as file:
                file.write(text)
        except OSError as error:
            raise unwritten(self._storage, name, error) from error

    def _read(self, name: str) -> str:
        try:
            return self._storage.read(name).decode()
        except (OSError, ValueError) as error:
            raise StoreError(f"{self._storage.locate(name)}: cannot be read: {error}") from error

    def _read_json(self, name: str) -> dict[str, Any]:
        where = self._storage.locate(name)
        try:
            document = json.loads(self._read(name))
        except ValueError as error:
            raise StoreError(f"{where}: cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise StoreError(f"{where}: damaged: not a JSON object")
        return document


def _shard(index: int) -> str:
    return f"shards/{index:05}.parquet"


def _failure(index: int) -> str:
    return f"failures/{index:05}.txt"
