"""Store: one class owns every path; files are written aside and renamed, so they are there or they are not.

sweep-store/
  mlflow.db, artifacts/            the embedded MLflow, what ``sweeps ui`` serves
  schedules.db, schedules/         what is due, and what the processes of schedules print
  data/                            data files that were sent along with sweeps (--copy-data)
  sweeps/<sweep id>/
    config.yaml, plan.json         the resolved config; counts, digests, versions
    tracking.json                  where the trials are logged, and whether all of them are
    progress.json                  how far the running process is, or the last one was
    lease                          locked by the process that works on the sweep
    shards/00000.parquet ...       one file a shard
    failures/00000.txt ...         the traceback of a shard that could not be run, and how often it was tried
    report/                        report.html, report.md, trials.csv, ...
    kept                           what a reader of all shards has found, for the next one; may be removed
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps import lease as leases
from sweeps.errors import StoreError, SweepHeld
from sweeps.plan import Shard
from sweeps.worker import ShardFailure, ShardResult

STATES = ("planned", "running", "interrupted", "computed", "logged", "reported")  # see SweepFiles.state()
_SHARD = re.compile(r"(\d{5,})\.parquet")
SWEEP_ID = re.compile(r"[0-9a-f]{1,32}")


class Store:
    """A folder of sweeps."""

    def __init__(self, root: Path) -> None:
        """The store at ``root``, which need not exist yet."""
        self.root = root.expanduser().absolute()
        if "?" in str(self.root):
            raise StoreError(f"{self.root}: a store's path may not contain '?', which ends a database's name")

    @property
    def tracking_uri(self) -> str:
        """The embedded MLflow database."""
        return f"sqlite:///{self.database}"

    @property
    def database(self) -> Path:
        """The embedded MLflow database's file."""
        return self.root / "mlflow.db"

    @property
    def schedules_folder(self) -> Path:
        """What the processes of schedules print."""
        return self.root / "schedules"

    @property
    def schedules_uri(self) -> str:
        """The database in which schedulers keep what is due."""
        return f"sqlite:///{self.root / 'schedules.db'}"

    @property
    def artifacts(self) -> Path:
        """Where the embedded MLflow keeps artifacts."""
        return self.root / "artifacts"

    def check_writable(self) -> None:
        """Make the store's folder and write to it.

        Raises:
            StoreError: that cannot be done.
        """
        probe = self.root / f".probe-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(f"{self.root}: the store cannot be written: {error.strerror}") from error

    def create(self, sweep_id: str, config_yaml: str, manifest: dict[str, Any]) -> SweepFiles:
        """A new sweep's folder, with its config and plan; it appears whole or not at all."""
        files = SweepFiles(self.root / "sweeps" / sweep_id)
        aside = files.folder.with_name(f".{sweep_id}.{secrets.token_hex(4)}.new")  # two may make the same sweep at once
        try:
            (aside / "shards").mkdir(parents=True)
            _write(aside / "config.yaml", config_yaml)
            _write(aside / "plan.json", json.dumps(manifest, indent=2) + "\n")
            aside.rename(files.folder)
        except OSError as error:
            if files.folder.exists():
                shutil.rmtree(aside)
                raise SweepHeld(f"sweep {sweep_id}: another process has just made it; say it again") from error
            raise StoreError(f"{files.folder}: cannot be written: {error.strerror}") from error
        return files

    def keep_data(self, path: Path) -> Path:
        """A copy of a data file in the store, named by its content; for files that are not there to stay."""
        try:
            content = path.read_bytes()
            kept = self.root / "data" / f"{hashlib.sha256(content).hexdigest()[:32]}{path.suffix}"
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                aside = kept.with_name(f".{kept.name}.{os.getpid()}.new")
                aside.write_bytes(content)
                _rename(aside, kept)
        except OSError as error:
            raise StoreError(f"{path}: cannot be kept in the store {self.root}: {error.strerror}") from error
        return kept

    def remove(self, files: SweepFiles) -> None:
        """Delete a sweep's folder: first it is no longer there, then its files are deleted. MLflow keeps its runs.

        Raises:
            SweepHeld: a process works on the sweep.
            StoreError: it cannot be removed.
        """
        aside = files.folder.with_name(f".{files.sweep_id}.{secrets.token_hex(4)}.removed")
        try:
            with files.lease():
                files.folder.rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            raise StoreError(f"{files.folder}: cannot be removed: {error.strerror}") from error

    def sweeps(self) -> list[SweepFiles]:
        """All sweeps, the newest first, damaged ones last."""
        folder = self.root / "sweeps"
        if not folder.is_dir():
            return []
        found = [SweepFiles(path) for path in folder.iterdir() if SWEEP_ID.fullmatch(path.name)]
        return sorted(found, key=lambda files: files.created, reverse=True)

    def lasting_files(self) -> Iterator[Path]:
        """All files that a copy of the store needs besides the database; not what is being written, nor locks."""
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                passing = name.startswith(".") or name.endswith(".new") or name == "lease"
                if not passing and not name.startswith(self.database.name) and path.is_file() and not path.is_symlink():
                    yield path

    def get(self, sweep_id: str) -> SweepFiles | None:
        """The sweep that has exactly this id, if there is one."""
        files = SweepFiles(self.root / "sweeps" / sweep_id)
        return files if files.folder.is_dir() else None

    def find(self, prefix: str) -> SweepFiles:
        """The sweep whose id starts with ``prefix``.

        Raises:
            StoreError: there is none, or more than one.
        """
        ids = [files.sweep_id for files in self.sweeps()]
        if not SWEEP_ID.fullmatch(prefix):
            raise StoreError(f"{prefix!r}: not a sweep id; ids are hexadecimal, see 'sweeps list'")
        matches = [sweep_id for sweep_id in ids if sweep_id.startswith(prefix)]
        if len(matches) == 1:
            return SweepFiles(self.root / "sweeps" / matches[0])
        if matches:
            raise StoreError(f"{prefix!r}: more than one sweep: {', '.join(sorted(matches)[:10])}")
        known = f"; its newest sweeps: {', '.join(ids[:5])}" if ids else ", which holds no sweeps"
        raise StoreError(f"{prefix!r}: no such sweep in the store {self.root}{known}")


class SweepFiles:
    """One sweep's files."""

    def __init__(self, folder: Path) -> None:
        """The sweep in ``folder``."""
        self.folder = folder

    @property
    def sweep_id(self) -> str:
        """The sweep's id, its folder's name."""
        return self.folder.name

    @property
    def store(self) -> Store:
        """The store that the sweep is in."""
        return Store(self.folder.parents[1])

    @property
    def created(self) -> str:
        """When it was planned, ISO 8601; empty where the manifest is damaged."""
        try:
            return str(self.manifest()["created"])
        except StoreError:
            return ""

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.folder / "config.yaml"

    @property
    def plan_path(self) -> Path:
        """The manifest: counts, digests, versions."""
        return self.folder / "plan.json"

    @property
    def tracking_path(self) -> Path:
        """Where the sweep is logged, and how far; see :meth:`tracking`."""
        return self.folder / "tracking.json"

    @property
    def shards_folder(self) -> Path:
        """The shard files' folder."""
        return self.folder / "shards"

    @property
    def report_folder(self) -> Path:
        """The report's folder."""
        return self.folder / "report"

    def lease(self) -> AbstractContextManager[None]:
        """Whoever writes the sweep's files holds this meanwhile; it dies with its holder.

        Raises:
            SweepHeld: another process has it.
        """
        return leases.held(self._lease_path, f"sweep {self.sweep_id}")

    def holder(self) -> leases.Holder | None:
        """Who works on the sweep now."""
        return leases.holder(self._lease_path)

    def manifest(self) -> dict[str, Any]:
        """What plan.json holds.

        Raises:
            StoreError: it is damaged.
        """
        manifest = self._read_json(self.plan_path)
        missing = {"sweep_id", "name", "created", "trials", "shards"} - manifest.keys()
        if missing:
            raise StoreError(f"{self.plan_path}: damaged: no {', '.join(sorted(missing))}")
        return manifest

    def write_shard(self, result: ShardResult) -> None:
        """Store a shard's table; its earlier failure is forgotten."""
        self._write_table(self._shard_path(result.shard.index), result.table)
        self._failure_path(result.shard.index).unlink(missing_ok=True)

    def replace_shard(self, index: int, table: pa.Table) -> None:
        """Store another table in place of a shard's."""
        self._write_table(self._shard_path(index), table)

    def write_failure(self, failure: ShardFailure) -> None:
        """Keep a failed shard's traceback, and how often it was tried in all."""
        shard, tries = failure.shard, failure.tries + self.tries(failure.shard.index)
        head = f"trials {shard.start} to {shard.stop - 1}: given up after {tries} {'try' if tries == 1 else 'tries'}"
        self._write_text(self._failure_path(shard.index), f"{head}\n\n{failure.traceback}")

    def tries(self, index: int) -> int:
        """How often a shard that could not be run was tried."""
        path = self._failure_path(index)
        told = re.search(r"given up after (\d+) ", path.read_text(encoding="utf-8")) if path.exists() else None
        return int(told[1]) if told else 0

    def failures(self) -> list[Path]:
        """The tracebacks of shards that could not be run, and have not been since."""
        done = self.done()
        found = (self.folder / "failures").glob("*.txt")
        return sorted(path for path in found if path.stem.isdigit() and int(path.stem) not in done)

    def remove_pieces(self) -> None:
        """Remove what a killed process was writing; whoever holds the lease may."""
        for path in self.folder.rglob("*.new"):
            path.unlink(missing_ok=True)  # a reader may have ended the writing of what it keeps

    def done(self) -> set[int]:
        """Indices of the shards that are stored."""
        return {int(m[1]) for path in self.shards_folder.glob("*.parquet") if (m := _SHARD.fullmatch(path.name))}

    def stored_trials(self) -> int:
        """How many trials the stored shards hold, by their places in the plan; no shard is read."""
        manifest = self.manifest()
        trials, size = int(manifest["trials"]), int(manifest["trials_per_shard"])
        return sum(max(0, min(size, trials - index * size)) for index in self.done())

    def stamps(self) -> dict[int, str]:
        """Of each stored shard a text that is another one when its file is: inode, size and time."""
        facts = {index: self._shard_path(index).stat() for index in self.done()}
        return {index: f"{fact.st_ino} {fact.st_size} {fact.st_mtime_ns}" for index, fact in facts.items()}

    def kept(self) -> bytes | None:
        """What readers of the shards keep for the next one; see sweeps.report.kept."""
        path = self.folder / "kept"
        return path.read_bytes() if path.is_file() else None

    def keep(self, data: bytes) -> None:
        """Keep this instead.

        Raises:
            StoreError: it cannot be written.
        """
        path = self.folder / "kept"
        aside = path.with_name(f"kept.{os.getpid()}.new")
        try:
            aside.write_bytes(data)
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from error

    def missing(self, shards: Iterable[Shard]) -> list[Shard]:
        """The shards that are still to be run."""
        done = self.done()
        return [shard for shard in shards if shard.index not in done]

    def read_shard(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """One shard's table, with its metadata.

        Raises:
            StoreError: the file is damaged.
        """
        with self._readable(index) as path:
            return pq.read_table(path, columns=columns, page_checksum_verification=True)

    def schema(self, index: int) -> pa.Schema:
        """One shard's columns and metadata.

        Raises:
            StoreError: the file is damaged.
        """
        with self._readable(index) as path:
            return pq.read_schema(path)

    def extent(self, index: int) -> tuple[int, int]:
        """One shard's first trial and number of trials, from the file's footer.

        Raises:
            StoreError: the file is damaged.
        """
        with self._readable(index) as path:
            footer = pq.read_metadata(path)
        first = footer.row_group(0).column(footer.schema.names.index("trial")).statistics.min
        return int(first), int(footer.num_rows)

    @contextmanager
    def _readable(self, index: int) -> Iterator[Path]:
        path = self._shard_path(index)
        try:
            yield path
        except (OSError, pa.ArrowInvalid) as error:
            reason = " ".join(str(error).split())
            raise StoreError(f"{path}: cannot be read: {reason}; remove it and resume the sweep") from error

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The stored shards' tables, in order of trials."""
        for index in sorted(self.done()):
            yield self.read_shard(index, columns)

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

    def tracking(self) -> dict[str, Any]:
        """Where and how far the sweep is logged; empty before it is. Its own place, if it is logged elsewhere too."""
        return next(iter(self.places()), {})

    def places(self) -> list[dict[str, Any]]:
        """All places where the sweep is logged, its own first."""
        if not self.tracking_path.exists():
            return []
        own = self._read_json(self.tracking_path)
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
        self._write_text(self.tracking_path, json.dumps(document, indent=2) + "\n")

    def progress(self) -> dict[str, Any]:
        """How far the running process is, or the last one was, as sweeps.progress.Counts; empty if unknown."""
        try:
            return self._read_json(self._progress_path)
        except StoreError:
            return {}

    def write_progress(self, record: dict[str, Any]) -> None:
        """Keep how far the sweep is.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            _write(self._progress_path, json.dumps(record) + "\n")
        except OSError as error:
            raise StoreError(f"{self._progress_path}: cannot be written: {error.strerror}") from error

    def read_report(self) -> str | None:
        """The report page; None before it is written."""
        try:
            return (self.report_folder / "report.html").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.report_folder}: the report cannot be read: {error}") from error

    def state(self) -> str:
        """How far the sweep is.

        ``running``: a process works on it. Else: ``planned`` before anybody has; ``interrupted``, shards are missing;
        ``computed``, every shard is stored or was given up (see :meth:`failures`); ``logged`` to MLflow; ``reported``.
        """
        if self.holder():
            return "running"
        done, total = self.done(), int(self.manifest()["shards"])
        if not done and not self._lease_path.exists():
            return "planned"
        if len(done) + len(self.failures()) < total:
            return "interrupted"
        if not any(place.get("complete") for place in self.places()):
            return "computed"
        return "reported" if self.is_reported() else "logged"

    def is_reported(self) -> bool:
        """Whether the report was written."""
        return (self.report_folder / "report.html").exists()

    def _write_text(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
            _write(path, text)
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}; make room, then resume") from error

    def _write_table(self, path: Path, table: pa.Table) -> None:
        aside = path.with_suffix(f".{os.getpid()}.new")
        try:
            # Curves hardly repeat: a dictionary of them takes a third of the time to write, and more room.
            repeating = [field.name for field in table.schema if not pa.types.is_list(field.type)]
            pq.write_table(table, aside, compression="zstd", use_dictionary=repeating, write_page_checksum=True)
            _rename(aside, path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise StoreError(f"{path}: cannot be written: {error.strerror or error}; make room, then resume") from error

    @property
    def _lease_path(self) -> Path:
        return self.folder / "lease"

    @property
    def _progress_path(self) -> Path:
        return self.folder / "progress.json"

    def _shard_path(self, index: int) -> Path:
        return self.shards_folder / f"{index:05}.parquet"

    def _failure_path(self, index: int) -> Path:
        return self.folder / "failures" / f"{index:05}.txt"

    def _read_json(self, path: Path) -> dict[str, Any]:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read: {error}") from error
        if not isinstance(document, dict):
            raise StoreError(f"{path}: damaged: not a JSON object")
        return document


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """A text file beside ``path`` that takes its place, whole and on the disk, when the block ends well."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            yield file
        _rename(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _write(path: Path, text: str) -> None:
    with written_aside(path) as file:
        file.write(text)


def _rename(aside: Path, path: Path) -> None:
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.rename(path)
