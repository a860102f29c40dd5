"""Reuse of trials that earlier sweeps of the store have computed.

A trial's id is a hash of everything that defines it, and a linear model's trial has the same bits in any pack, so a
sweep with reused trials has the same shards as one that computed them all on the same kind of processor: the last bits
of losses depend on it (see :class:`sgdcore.tasks.task.Quadratic`). Networks, and linear models with other losses,
sample weights or several targets, are not reused, because their last bits can depend on the trials that are trained
with them, and their verdicts on the best trial of their sweep. Trials on GPUs, and results of other versions,
thresholds or recorded steps (see :func:`results_key`), are not reused either.

Trials are looked up by the first 64 bits of their ids, in a sorted index that takes 16 bytes per trial, in one sweep
after another until all trials of a shard are found. The full ids are compared when the rows are read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore.kernels.dispatch import choose
from sweeps.errors import StoreError
from sweeps.execution.executor import Executor, ShardOutcome
from sweeps.execution.shard_table import shard_metadata
from sweeps.planning.plan import ADDED_COLUMNS
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardResult
from sweeps.store.store import SweepFiles
from sweeps.version import __version__

_PACKAGES = ("numpy", "numba", "torch")  # packages that can change a trial's bits
# Earlier shards to read for only a few rows of a shard; reading more would cost as much as training.
_MOST_POOR_SOURCES = 16
_POOR = 1 / 16


def results_key(prepared: PreparedSweep) -> str | None:
    """Return a hash of everything that a row depends on apart from its trial's id; None if rows cannot be reused."""
    if not prepared.task.has_linear_kernel or prepared.config.early_terminate is not None:
        return None
    document = {
        "context": prepared.plan.context,
        "record": prepared.config.record.model_dump(mode="json"),
        "verdict": prepared.config.verdict.model_dump(mode="json"),
        "starts": prepared.plan.starts,
        "added": list(ADDED_COLUMNS),
        **({"options": prepared.plan.options.names} if prepared.plan.options.names else {}),
        "versions": {"sweeps": __version__, **{package: version(package) for package in _PACKAGES}},
    }
    return hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=16).hexdigest()


class ReusableTrials:
    """The trials of earlier sweeps that a sweep can reuse.

    Args:
        prepared: the sweep.
        files: the sweep's files.
        earlier: the sweeps to reuse trials from.
        reused: the number of reused trials by sweep id; updated.
    """

    def __init__(
        self, prepared: PreparedSweep, files: SweepFiles, earlier: Iterable[SweepFiles], reused: Counter[str]
    ) -> None:
        """Read the manifests of the earlier sweeps, but no shards."""
        self.reused = reused
        self._prepared = prepared
        self._held: dict[int, pa.Table] = {}  # rows of shards whose other trials are being computed
        key = results_key(prepared)
        others = (other for other in earlier if key and other.sweep_id != files.sweep_id)
        related = [other for other in others if not other.damage() and other.manifest().get("results") == key]
        if related:
            kernel = choose(prepared.task, device="cpu").name
            alike = [shard_metadata(part, kernel, "cpu") for part in prepared.parts()]
            self._sources = [_Source(other, alike) for other in related]
        else:
            self._sources = []

    def run(self, executor: Executor, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        """Run shards as Executor.run() does, without the reused trials. Completely reused shards are yielded first."""
        missing: Iterable[Shard] = shards
        if self._sources:
            missing = []
            for shard in shards:
                if (table := self._whole(shard)) is not None:
                    yield ShardResult(shard, table, 0.0)
                else:
                    missing.append(shard)
        with closing(executor.run(self._prepared, map(self._rest, missing))) as results:
            for result in results:
                yield self._completed(result)

    def _whole(self, shard: Shard) -> pa.Table | None:
        """Return a shard's table if earlier sweeps have all of its trials, else None."""
        ids = self._ids(shard)
        parts = self._parts(ids)
        if sum(len(part.ours) for part in parts) < len(shard):
            return None
        table = self._read(shard, ids, parts)
        if table is None or len(table) < len(shard):
            return None
        return _joined([table])

    def _rest(self, shard: Shard) -> Shard:
        """Return the shard restricted to the rows that no earlier sweep has."""
        if not self._sources:
            return shard
        ids = self._ids(shard)
        table = self._read(shard, ids, self._parts(ids))
        if table is None:
            return shard
        self._held[shard.index] = table
        there = table["trial"].to_numpy() - shard.start
        return replace(shard, rows=np.setdiff1d(np.arange(len(shard)), there))

    def _completed(self, result: ShardOutcome) -> ShardOutcome:
        table = self._held.pop(result.shard.index, None)
        if table is None:
            return result
        shard = replace(result.shard, rows=None)
        if isinstance(result, ShardResult):
            return replace(result, shard=shard, table=_joined([table, result.table]))
        return replace(result, shard=shard)

    def _ids(self, shard: Shard) -> list[str]:
        return self._prepared.plan.ids(self._prepared.plan.trials(shard.start, shard.stop))

    def _parts(self, ids: list[str]) -> list[_Part]:
        """Return the earlier shards that have some of the trials, without those that are not worth reading."""
        parts: list[_Part] = []
        wanted, rows = _prefixes(ids), np.arange(len(ids))
        for source in self._sources:
            if not len(rows):
                break
            found = source.parts(wanted[rows], rows)
            found.sort(key=lambda part: -len(part.ours))
            few = [part for part in found if len(part.ours) < _POOR * source.trials_per_shard]
            parts += [part for part in found if part not in few] + few[:_MOST_POOR_SOURCES]
            for part in found:
                rows = np.setdiff1d(rows, part.ours)
        return parts

    def _read(self, shard: Shard, ids: list[str], parts: list[_Part]) -> pa.Table | None:
        """Return the reusable rows, renumbered for this sweep, and count them; None if there are none."""
        tables = []
        for part in parts:
            try:
                table = part.files.shards.read(part.index)
            except StoreError:
                continue  # damaged or removed: this sweep computes the trials
            numbers = table["trial"].to_numpy()
            places = np.minimum(np.searchsorted(numbers, part.theirs), len(numbers) - 1)
            found = table.take(places)
            same = np.array(found["trial_id"].to_pylist()) == np.array(ids)[part.ours]
            self.reused[part.files.sweep_id] += int(same.sum())
            numbered = found.set_column(0, "trial", pa.array(part.ours + shard.start))
            tables.append(numbered.filter(pa.array(same)))
        return pa.concat_tables(tables) if tables else None


@dataclass(frozen=True, eq=False)
class _Part:
    """Trials of a shard that are also in an earlier shard."""

    files: SweepFiles
    index: int  # index of the earlier shard
    ours: NDArray[np.int64]  # rows of the shard
    theirs: NDArray[np.int64]  # trial numbers in the earlier sweep


class _Source:
    """An earlier sweep, with an index of its trials."""

    def __init__(self, files: SweepFiles, alike: list[dict[str, str]]) -> None:
        """Open a sweep; ``alike`` is the metadata of the shards that can be reused."""
        self._files = files
        self._alike = [{key.encode(): value.encode() for key, value in metadata.items()} for metadata in alike]
        self.trials_per_shard = files.planned().stages[0].trials_per_shard
        self._shards = files.planned().packs

    def parts(self, wanted: NDArray[np.uint64], rows: NDArray[np.int64]) -> list[_Part]:
        """Return the shards of this sweep that have trials with these id prefixes."""
        prefixes, numbers = self._index
        places = np.minimum(np.searchsorted(prefixes, wanted), max(len(prefixes) - 1, 0))
        there = prefixes[places] == wanted if len(prefixes) else np.zeros(len(wanted), np.bool_)
        ours, theirs = rows[there], numbers[places[there]] if len(prefixes) else rows[:0]
        shards = self._shards.holding(theirs)
        return [
            _Part(self._files, int(shard), ours[shards == shard], theirs[shards == shard])
            for shard in np.unique(shards)
        ]

    @cached_property
    def _index(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The sorted prefixes of the ids, and the trials' numbers in that order."""
        prefixes, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for table in self._tables():
            prefixes.append(_prefixes(table["trial_id"].to_pylist()))
            numbers.append(table["trial"].to_numpy())
        unsorted = np.concatenate(prefixes)
        order = np.argsort(unsorted)
        return unsorted[order], np.concatenate(numbers)[order]

    def _tables(self) -> Iterator[pa.Table]:
        for index in sorted(self._files.shards.done()):
            try:
                if self._files.shards.schema(index).metadata in self._alike:
                    yield self._files.shards.read(index, ["trial", "trial_id"])
            except StoreError:
                continue  # damaged or removed


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Return the rows as one table in the order of trials, with the layout of a computed shard."""
    return pa.concat_tables(tables).sort_by("trial").combine_chunks()


def _prefixes(ids: list[str]) -> NDArray[np.uint64]:
    """Return the first 64 bits of hexadecimal ids."""
    return np.frombuffer(bytes.fromhex("".join(trial_id[:16] for trial_id in ids)), dtype=">u8").astype(np.uint64)
