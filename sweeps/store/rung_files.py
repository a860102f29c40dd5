"""Rung files: the trials of a stage as of a rung of early termination, with the states that they are trained on from.

They are kept until the shards of the stage are stored, or after the sweep if it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweeps.store.shard_files import read_table, write_table
from sweeps.store.sweep_part import SweepPart

_FOLDER, _FILE = "rungs", re.compile(r"(\d{5})-(\d{2})-(\d{10,})\.parquet")


class RungFiles(SweepPart):
    """The rungs of one sweep: for each rung, files of disjoint ranges of trials, named after their first trial."""

    def write(self, stage: int, rung: int, table: pa.Table) -> None:
        """Store trials, sorted by number.

        Raises:
            StoreError: the file cannot be written.
            SweepHeld: the lease was lost.
        """
        self._check_lease()
        write_table(self._storage, _file(stage, rung, table["trial"][0].as_py()), table)

    def read(self, stage: int, rung: int, columns: list[str]) -> pa.Table | None:
        """Return columns of all stored trials of a rung, in order; None if there are none.

        Raises:
            StoreError: a file is damaged.
        """
        tables = [
            read_table(self._storage, _file(stage, rung, first), columns).replace_schema_metadata()
            for first in self._firsts(stage, rung)
        ]
        return pa.concat_tables(tables) if tables else None

    def rows(self, stage: int, rung: int, numbers: NDArray[np.int64]) -> pa.Table:
        """Return the rows of stored trials.

        Raises:
            StoreError: a file is damaged.
        """
        firsts = np.array(self._firsts(stage, rung), dtype=np.int64)
        holding = np.unique(np.searchsorted(firsts, numbers, side="right") - 1)
        tables = (read_table(self._storage, _file(stage, rung, first)) for first in firsts[holding].tolist())
        return pa.concat_tables(table.filter(np.isin(table["trial"].to_numpy(), numbers)) for table in tables)

    def remove(self, stage: int, rungs: Iterator[int]) -> None:
        """Remove the files of rungs."""
        for rung in rungs:
            for first in self._firsts(stage, rung):
                self._check_lease()
                self._storage.remove(_file(stage, rung, first))

    def _firsts(self, stage: int, rung: int) -> list[int]:
        """Return the first trials of a rung's files, in order."""
        matches = (_FILE.fullmatch(name) for name in self._storage.files(_FOLDER))
        return sorted(int(m[3]) for m in matches if m and (int(m[1]), int(m[2])) == (stage, rung))


def _file(stage: int, rung: int, first: int) -> str:
    return f"{_FOLDER}/{stage:05}-{rung:02}-{first:010}.parquet"
