"""Key metrics: a sweep in a few numbers, to compare it with others."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sgdcore.verdict import VERDICTS
from sweeps.results.results import Results

STABLE = tuple(verdict for verdict in VERDICTS if verdict not in ("diverging", "diverged"))


@dataclass(frozen=True)
class KeyMetrics:
    """A summary of a sweep's stored trials."""

    metric: str  # the column that ranks trials
    best: float | None  # metric of the best trial; None if all diverged or none is stored
    planned: int
    stored: int
    verdicts: dict[str, int]  # stored trials by verdict

    @classmethod
    def of(cls, results: Results) -> KeyMetrics:
        """Compute the metrics from the sweep's aggregate."""
        metric, aggregate = results.metric, results.aggregate
        best = aggregate.best.table[metric].to_pylist()
        counts = dict(zip(VERDICTS, aggregate.verdicts.tolist(), strict=True))
        return cls(metric, float(best[0]) if best else None, results.planned, results.stored, counts)

    @property
    def stable(self) -> int:
        """The number of trials that neither diverged nor are diverging."""
        return sum(self.verdicts[verdict] for verdict in STABLE)

    @property
    def stable_share(self) -> float:
        """The share of stable trials among the stored ones; NaN if none is stored."""
        return self.stable / self.stored if self.stored else math.nan
