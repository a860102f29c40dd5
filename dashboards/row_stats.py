"""RowStats: the figures that the list of sweeps shows for each sweep, from two columns of its shards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow.compute as pc

from sgdcore.verdict import VERDICTS
from sweeps.results.results import load_results
from sweeps.store.store import SweepFiles


@dataclass(frozen=True)
class RowStats:
    """The verdicts and the best metric of the stored trials."""

    metric: str  # the metric that ranks trials
    shards: frozenset[int] = frozenset()
    verdicts: dict[str, int] = field(default_factory=dict)
    best: float | None = None  # lowest value of the metric among trials that did not diverge

    @property
    def trials(self) -> int:
        """The number of stored trials."""
        return sum(self.verdicts.values())

    @property
    def stable(self) -> int:
        """The number of trials that neither diverged nor are diverging."""
        return sum(self.verdicts.get(verdict, 0) for verdict in VERDICTS[:3])


def read_row_stats(files: SweepFiles, shards: Iterable[int], earlier: RowStats | None = None) -> RowStats:
    """Return a sweep's figures; shards in ``earlier`` are not read again.

    Raises:
        StoreError: a file is damaged.
    """
    metric = earlier.metric if earlier else load_results(files).metric
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
