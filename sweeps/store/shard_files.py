"""Shard files: one Parquet file per shard, and the tracebacks of failed shards."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.arrow_columns import VALIDATION_LOSSES, floats, matrix, validation_losses
from sweeps.errors import StoreError
from sweeps.planning.plan import ADDED_COLUMNS
from sweeps.planning.shards import Shard, ShardFailure, ShardResult
from sweeps.store.backends.base import Storage, unwritten
from sweeps.store.sweep_part import SweepPart
from sweeps.text.redact import redact

_SHARD = re.compile(r"(\d{5,})\.parquet")
_FAILURE = re.compile(r"(\d{5,})\.txt")
_MAX_REASON = 300  # characters
_ADDED = {*VALIDATION_LOSSES, *ADDED_COLUMNS}  # columns that files of earlier versions lack
_AHEAD = 8  # files of a shared store that are requested in advance
T = TypeVar("T")


@dataclass(frozen=True)
class FailureFile:
    """The traceback of a shard that could not be run."""

    storage: Storage
    index: int  # the shard's index

    def __str__(self) -> str:
        """Return the file's path or URI."""
        return self.storage.locate(_failure(self.index))

    @property
    def reason(self) -> str:
        """The exception that the shard raised, with the first line of its message."""
        lines = [line for line in self.read_text().splitlines() if line.strip()]
        heads = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
        after = (line for line in lines[heads[-1] + 1 :] if not line.startswith(" ")) if heads else reversed(lines)
        return redact(next(after, lines[-1]))[:_MAX_REASON]

    def read_text(self) -> str:
        """Return a line with the trials and the number of tries, followed by the traceback."""
        return self.storage.read(_failure(self.index)).decode()


class ShardFiles(SweepPart):
    """The shards of one sweep.

    Args:
        storage: the sweep's files.
        check_lease: called before every write; raises SweepHeld if this process has lost the sweep.
        planned: returns the number of planned shards, which can grow; for those who only write, None.
    """

    def __init__(
        self, storage: Storage, check_lease: Callable[[], None], planned: Callable[[], int] | None = None
    ) -> None:
        """Access the files without reading them."""
        super().__init__(storage, check_lease)
        self._planned, self._known = planned, 0

    @property
    def folder(self) -> Path:
        """The folder of the shard files.

        Raises:
            StoreError: the store is not in a folder.
        """
        return self._storage.path("shards")

    def done(self) -> set[int]:
        """Return the indices of the stored shards; a file that is not one of the plan's does not count.

        Raises:
            StoreError: the plan is damaged.
        """
        found = self._found()
        planned = self._count(found)
        return {index for index in found if index < planned}

    def stray(self) -> set[int]:
        """Return the indices of files that are named like shards, but that the plan does not have."""
        return self._found() - self.done()

    def missing(self, shards: Iterable[Shard]) -> list[Shard]:
        """Return the shards that are not stored."""
        done = self.done()
        return [shard for shard in shards if shard.index not in done]

    def stamps(self) -> dict[int, str]:
        """Return a text for each stored shard that changes whenever its file changes."""
        stamps = self._storage.stamps("shards")
        found = {int(m[1]): stamp for name, stamp in stamps.items() if (m := _SHARD.fullmatch(name))}
        planned = self._count(found)
        return {index: stamp for index, stamp in found.items() if index < planned}

    def write(self, result: ShardResult) -> None:
        """Store a shard's table and remove the record of its earlier failure.

        Raises:
            StoreError: the file cannot be written.
            SweepHeld: the lease was lost.
        """
        self._write(result.shard.index, result.table, keep=True)
        self._storage.remove(_failure(result.shard.index))

    def replace(self, index: int, table: pa.Table) -> None:
        """Replace a shard's table. Raises the same errors as :meth:`write`."""
        self._write(index, table, keep=False)

    def read(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """Return a shard's table, or some of its columns, with its metadata.

        Where the file, as those of earlier versions, does not have them, final and best validation losses are computed
        from the curves, and the best epoch is null.

        Raises:
            StoreError: the file is damaged.
        """
        absent = set(columns or ()) & _ADDED
        if columns is None or not absent or not (absent := absent - set(self.schema(index).names)):
            return read_table(self._storage, _shard(index), columns)
        stored = [name for name in columns if name not in absent]
        source = ["validation_loss"] if absent & set(VALIDATION_LOSSES) else []
        table = read_table(self._storage, _shard(index), [*dict.fromkeys([*stored, *source])])
        derived = validation_losses(matrix(table[source[0]], len(table))) if source else {}
        for name in absent:
            values = derived.get(name, np.full(len(table), np.nan))
            table = table.append_column(name, floats(values))
        return table.select(columns)

    def read_many(self, indices: Iterable[int], columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the tables of several shards, in the given order."""
        return self._ahead(lambda index: self.read(index, columns), indices)

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the tables of all stored shards, in order of trials."""
        return self.read_many(sorted(self.done()), columns)

    def schema(self, index: int) -> pa.Schema:
        """Return a shard's columns and metadata.

        Raises:
            StoreError: the file is damaged.
        """
        with _readable(self._storage, _shard(index)) as file:
            return pq.read_schema(file)

    def extent(self, index: int) -> tuple[int, int]:
        """Return a shard's first trial and number of trials, from the file's footer.

        Raises:
            StoreError: the file is damaged.
        """
        with _readable(self._storage, _shard(index)) as file:
            footer = pq.read_metadata(file)
        first = footer.row_group(0).column(footer.schema.names.index("trial")).statistics.min
        return int(first), int(footer.num_rows)

    def extents(self, indices: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield the extents of several shards, in the given order."""
        return self._ahead(self.extent, indices)

    def metadata(self, index: int | None = None) -> dict[str, Any]:
        """Return a shard's metadata: recorded steps, parameter names, kernel, device, ...

        All shards share them, apart from the steps if the batch size is an axis. By default those of the first shard.
        """
        schema = self.schema(min(self.done()) if index is None else index)
        raw = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
        return {
            "steps": json.loads(raw["steps"]),
            "parameters": json.loads(raw["parameters"]),
            "kernel": raw["kernel"],
            "device": raw["device"],
            "prediction": raw.get("prediction"),
            "loss_scale": float(raw.get("loss_scale", 1.0)),
            "loss_floor": float(raw.get("loss_floor", 0.0)),
        }

    def failures(self) -> list[FailureFile]:
        """Return the tracebacks of the shards that could not be run and are not stored."""
        found = (_FAILURE.fullmatch(name) for name in self._storage.files("failures"))
        indices = sorted(int(m[1]) for m in found if m)
        done = self.done() if indices else set()
        return [FailureFile(self._storage, index) for index in indices if index not in done]

    def write_failure(self, failure: ShardFailure) -> None:
        """Store a failed shard's traceback and number of tries. Raises the same errors as :meth:`write`."""
        shard, tries = failure.shard, failure.tries + self.tries(failure.shard.index)
        head = f"trials {shard.start} to {shard.stop - 1}: given up after {tries} {'try' if tries == 1 else 'tries'}"
        self._check_lease()
        name = _failure(shard.index)
        try:
            with self._storage.writing_text(name) as file:
                file.write(f"{head}\n\n{failure.traceback}")
        except OSError as error:
            raise unwritten(self._storage, name, error) from error

    def tries(self, index: int) -> int:
        """Return how many times a failed shard was tried; 0 if it has not failed."""
        try:
            match = re.search(r"given up after (\d+) ", self._storage.read(_failure(index)).decode())
        except FileNotFoundError:
            return 0
        return int(match[1]) if match else 0

    def _found(self) -> set[int]:
        return {int(m[1]) for name in self._storage.files("shards") if (m := _SHARD.fullmatch(name))}

    def _count(self, found: Collection[int]) -> int:
        """Return the number of planned shards; the plan is read again only if it could have grown."""
        last = max(found, default=-1)
        if last >= self._known:
            self._known = self._planned() if self._planned is not None else last + 1
        return self._known

    def _write(self, index: int, table: pa.Table, keep: bool) -> None:
        self._check_lease()
        write_table(self._storage, _shard(index), table, keep)

    def _ahead(self, read: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
        """Yield ``read(index)`` in order; on a shared store, a few files are requested in advance."""
        if not self._storage.is_shared:
            yield from map(read, indices)
            return
        with ThreadPoolExecutor(_AHEAD) as pool:
            requested: deque[Future[T]] = deque()
            for index in indices:
                requested.append(pool.submit(read, index))
                if len(requested) > _AHEAD:
                    yield requested.popleft().result()
            while requested:
                yield requested.popleft().result()


def write_table(storage: Storage, name: str, table: pa.Table, keep: bool = False) -> None:
    """Write a table as Parquet; ``keep`` as in Storage.writing().

    Raises:
        StoreError: the file cannot be written.
    """
    # Values of curves hardly repeat: a dictionary would take a third of the write time, and more space.
    repeating = [field.name for field in table.schema if not pa.types.is_list(field.type)]
    try:
        with storage.writing(name, keep) as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=repeating, write_page_checksum=True)
    except OSError as error:
        raise unwritten(storage, name, error) from error


def read_table(storage: Storage, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet table, or some of its columns.

    Raises:
        StoreError: the file is damaged.
    """
    with _readable(storage, name) as file:
        return pq.read_table(file, columns=columns, page_checksum_verification=True)


@contextmanager
def _readable(storage: Storage, name: str) -> Iterator[Any]:
    try:
        with storage.reading(name) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{storage.locate(name)}: cannot be read: {reason}; remove it and resume the sweep") from error


def _shard(index: int) -> str:
    return f"shards/{index:05}.parquet"


def _failure(index: int) -> str:
    return f"failures/{index:05}.txt"
