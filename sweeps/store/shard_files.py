"""Shard files: how a table of trials is laid out in Parquet, and read back whole, in part, or only its footer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.errors import StoreError
from sweeps.store.backends.base import Storage, unwritten


def write_table(storage: Storage, name: str, table: pa.Table, keep: bool = False) -> None:
    """Store a table; ``keep`` as in Storage.writing().

    Raises:
        StoreError: it cannot be written.
    """
    # Curves hardly repeat: a dictionary of them takes a third of the time to write, and more room.
    repeating = [field.name for field in table.schema if not pa.types.is_list(field.type)]
    try:
        with storage.writing(name, keep) as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=repeating, write_page_checksum=True)
    except OSError as error:
        raise unwritten(storage, name, error) from error


def read_table(storage: Storage, name: str, columns: list[str] | None = None) -> pa.Table:
    """A table, with its metadata; raises as schema()."""
    with _readable(storage, name) as file:
        return pq.read_table(file, columns=columns, page_checksum_verification=True)


def schema(storage: Storage, name: str) -> pa.Schema:
    """A table's columns and metadata.

    Raises:
        StoreError: the file is damaged.
    """
    with _readable(storage, name) as file:
        return pq.read_schema(file)


def extent(storage: Storage, name: str) -> tuple[int, int]:
    """A table's first trial and number of trials, from the file's footer; raises as schema()."""
    with _readable(storage, name) as file:
        footer = pq.read_metadata(file)
    first = footer.row_group(0).column(footer.schema.names.index("trial")).statistics.min
    return int(first), int(footer.num_rows)


@contextmanager
def _readable(storage: Storage, name: str) -> Iterator[Any]:
    try:
        with storage.reading(name) as file:
            yield file
    except (OSError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{storage.locate(name)}: cannot be read: {reason}; remove it and resume the sweep") from error
