"""The aggregate of a sweep's trials that a report is built from: counts, map cells and top rows.

Aggregates of shards can be added. Memory is bounded by one shard plus the rows kept, whatever the number of trials.
The result does not depend on how trials are grouped into shards, apart from the rounding of means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sgdcore.verdict import VERDICTS
from sweeps.arrow_columns import numbers
from sweeps.results.binning import MapAxis
from sweeps.results.heatmap import Cells, Outcomes
from sweeps.results.ranking import Ranking
from sweeps.results.top_k import TopK, hashes

MAX_ROWS = 1000  # rows kept of each ranking
SAMPLED = 120  # trials sampled per verdict to represent its curves
RADII = np.linspace(0, 2, 51)  # lower bin edges of predicted radii; the last bin is open-ended
_UNDECIDED = 0.01  # a radius this close to 1 predicts nothing
_LONG_ENOUGH = 1e6  # predicted growth or decay of the distance before a prediction is compared with the outcome
_BAD = [VERDICTS.index(verdict) for verdict in ("diverging", "diverged")]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scope:
    """The definition of an aggregate, the same for all shards of a sweep."""

    ranking: Ranking
    epochs: int
    groups: tuple[tuple[MapAxis, ...], ...]  # the groups of axes to build cells for
    settings: tuple[MapAxis, ...] = ()  # all axes except the seed, if the spread over seeds is wanted


@dataclass(frozen=True, eq=False)
class Predictions:
    """Trial counts by predicted outcome (settles, undecided, diverges) and by the V verdicts."""

    counts: NDArray[np.int64]  # (3, V) trials by prediction and verdict
    histogram: NDArray[np.int64]  # (len(RADII), V) trials by predicted radius and verdict
    disagreeing: int  # trials whose outcome differs from the prediction
    contradicted: NDArray[np.int64]  # (3,) disagreeing trials that ran long enough to contradict the prediction

    def __add__(self, other: Predictions) -> Predictions:
        """Return the sum of both."""
        return Predictions(
            self.counts + other.counts,
            self.histogram + other.histogram,
            self.disagreeing + other.disagreeing,
            self.contradicted + other.contradicted,
        )


@dataclass(frozen=True, eq=False)
class Aggregate:
    """Counts, rankings and map cells of a set of trials.

    Rows of the rankings hold all stored columns of a trial except its curves.
    """

    verdicts: NDArray[np.int64]  # (V,) trials by verdict
    best: TopK  # in the order of the sweep's Ranking
    best_settled: TopK  # the first settled trial in that order
    worst_settled: TopK  # the last settled trial in that order
    earliest: TopK  # diverged trials by first non-finite step, then diverging ones by growth, fastest first
    overshoots: TopK  # settled trials by overshoot, largest first
    overshoots_diverging: TopK
    contradictions: TopK  # contradicted predictions, the clearest prediction first
    samples: dict[str, TopK]  # a uniform sample of each verdict
    predictions: Predictions
    cells: dict[tuple[str, ...], Cells]
    settings: Cells | None  # one cell per setting, over its seeds

    @property
    def trials(self) -> int:
        """The number of trials."""
        return int(self.verdicts.sum())

    @classmethod
    def of(cls, table: pa.Table, scope: Scope) -> Aggregate:
        """Aggregate rows of shard files; ``table`` holds their scalar columns."""
        growth = pc.divide(table["final_loss"].cast(pa.float64()), table["initial_loss"].cast(pa.float64()))
        growth = pc.if_else(pc.and_(pc.is_finite(growth), pc.greater(table["initial_loss"], 0.0)), growth, None)
        table = table.append_column("growth", growth)
        outcomes = Outcomes.of(table, scope.ranking.metric, scope.ranking.is_signed)
        verdict, trial = outcomes.verdict, outcomes.trial
        bad = np.isin(verdict, _BAD)
        *order, _ = scope.ranking.keys(table)
        metric, steps, radius = order
        overshoot = numbers(table["overshoot_percent"])
        epochs = np.full(len(table), float(scope.epochs))
        if "stopped_epoch" in table.column_names:
            stopped = numbers(table["stopped_epoch"])
            epochs = np.where(np.isnan(stopped), epochs, stopped)
        with np.errstate(divide="ignore", invalid="ignore"):  # a radius of 0 is valid: the trial settles at once
            change = np.abs(np.log(radius)) * epochs
        disagrees = ((radius > 1 + _UNDECIDED) & ~bad) | ((radius < 1 - _UNDECIDED) & bad)
        against = disagrees & (change > math.log(_LONG_ENOUGH))
        diverged, ranked = verdict == VERDICTS.index("diverged"), scope.ranking.ranked(table)

        def leading(chosen: NDArray[np.bool_], *keys: NDArray[Any], limit: int | None = None) -> TopK:
            return TopK.of(table, np.flatnonzero(chosen), (*keys, trial), limit or MAX_ROWS)

        last = [-metric, *(-np.where(np.isnan(key), np.inf, key) for key in (steps, radius)), -trial]
        return cls(
            verdicts=np.bincount(verdict, minlength=len(VERDICTS)),
            best=leading(ranked, *order),
            best_settled=leading(~bad & ranked, *order, limit=1),
            worst_settled=leading(~bad & ranked, *last, limit=1),
            earliest=leading(bad, numbers(table["first_nonfinite_step"]), -numbers(table["growth"])),
            overshoots=leading(~bad & (overshoot > 0), -overshoot),
            overshoots_diverging=leading(bad & ~diverged & (overshoot > 0), -overshoot),
            contradictions=leading(against, -change),
            samples={name: leading(verdict == i, hashes(trial), limit=SAMPLED) for i, name in enumerate(VERDICTS)},
            predictions=_predictions(radius, verdict, disagrees, against),
            cells={tuple(axis.name for axis in axes): Cells.of(axes, table, outcomes) for axes in scope.groups},
            settings=Cells.of(scope.settings, table, outcomes) if scope.settings else None,
        )

    def __add__(self, other: Aggregate) -> Aggregate:
        """Return the aggregate of both sets of trials."""
        return Aggregate(
            verdicts=self.verdicts + other.verdicts,
            best=self.best + other.best,
            best_settled=self.best_settled + other.best_settled,
            worst_settled=self.worst_settled + other.worst_settled,
            earliest=self.earliest + other.earliest,
            overshoots=self.overshoots + other.overshoots,
            overshoots_diverging=self.overshoots_diverging + other.overshoots_diverging,
            contradictions=self.contradictions + other.contradictions,
            samples={name: mine + other.samples[name] for name, mine in self.samples.items()},
            predictions=self.predictions + other.predictions,
            cells={names: mine + other.cells[names] for names, mine in self.cells.items()},
            settings=self.settings + other.settings if self.settings and other.settings else None,
        )


def _predictions(
    radius: FloatArray, verdict: NDArray[np.intp], disagrees: NDArray[np.bool_], against: NDArray[np.bool_]
) -> Predictions:
    predicted = np.select([radius < 1 - _UNDECIDED, radius > 1 + _UNDECIDED], [0, 2], 1)
    known = ~np.isnan(radius)
    counts = np.bincount(predicted[known] * len(VERDICTS) + verdict[known], minlength=3 * len(VERDICTS))
    bins = np.searchsorted(RADII, radius[known], side="right") - 1
    histogram = np.bincount(bins * len(VERDICTS) + verdict[known], minlength=len(RADII) * len(VERDICTS))
    return Predictions(
        counts=counts.reshape(3, len(VERDICTS)),
        histogram=histogram.reshape(len(RADII), len(VERDICTS)),
        disagreeing=int(disagrees.sum()),
        contradicted=np.bincount(predicted[against], minlength=3),
    )
