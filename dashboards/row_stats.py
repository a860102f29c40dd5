"""Glance: the few figures that the list of sweeps shows of each, from two columns of its shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow.compute as pc

from sgdcore.verdict import VERDICTS
from sweeps.results.results import load_results
from sweeps.store.store import SweepFiles


@dataclass(frozen=True)
class RowStats:
    """What became of the stored trials."""

    metric: str  # what makes a trial the best
    shards: frozenset[int] = frozenset()
    verdicts: dict[str, int] = field(default_factory=dict)
    best: float | None = None  # its least value among trials that did not diverge

    @property
    def trials(self) -> int:
        """How many there are."""
        return sum(self.verdicts.values())

    @property
    def stable(self) -> int:
        """How many neither diverged nor are diverging."""
        return sum(self.verdicts.get(verdict, 0) for verdict in VERDICTS[:3])


def read_row_stats(files: SweepFiles, shards: Iterable[int], earlier: RowStats | None = None) -> RowStats:
    """A sweep's figures; only shards that an earlier glance did not see are read.

    Raises:
        StoreError: a file is damaged.
    """
    metric = earlier.metric if earlier else load_results(files).config.metric.name
    seen = earlier.shards if earlier else frozenset()
    counts = dict(earlier.verdicts) if earlier else dict.fromkeys(VERDICTS, 0)
    best = earlier.best if earlier else None
    for index in sorted(set(shards) - seen):
        table = files.shards.read(index, ["verdict", metric])
        for entry in pc.value_counts(table["verdict"]).to_pylist():
            counts[entry["values"]] += entry["counts"]
        least = pc.min(table.filter(pc.not_equal(table["verdict"], "diverged"))[metric]).as_py()
        best = least if best is None else best if least is None else min(best, least)
    return RowStats(metric, seen | frozenset(shards), counts, best)
