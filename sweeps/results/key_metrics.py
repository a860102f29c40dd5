"""Key figures: a sweep in a few numbers, for those who hold many sweeps against each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sgdcore.verdict import VERDICTS
from sweeps.results.results import Results

STABLE = tuple(verdict for verdict in VERDICTS if verdict not in ("diverging", "diverged"))


@dataclass(frozen=True)
class KeyMetrics:
    """What became of a sweep's stored trials."""

    metric: str  # what makes a trial the best: final_loss or best_loss
    best: float | None  # its least value among trials that did not diverge; None where all did, or none is stored
    planned: int
    stored: int
    verdicts: dict[str, int]  # stored trials by verdict

    @classmethod
    def of(cls, results: Results) -> KeyMetrics:
        """Those of a sweep, from its tally."""
        metric, aggregate = results.config.metric.name, results.aggregate
        best = aggregate.best.table[metric].to_pylist()
        counts = dict(zip(VERDICTS, aggregate.verdicts.tolist(), strict=True))
        return cls(metric, float(best[0]) if best else None, results.planned, results.stored, counts)

    @property
    def stable(self) -> int:
        """Number of trials that neither diverged nor are diverging."""
        return sum(self.verdicts[verdict] for verdict in STABLE)

    @property
    def stable_share(self) -> float:
        """Their share of the stored trials; NaN where none is stored."""
        return self.stable / self.stored if self.stored else math.nan
