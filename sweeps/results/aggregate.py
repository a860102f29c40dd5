"""Tally: all that a report says of its trials, as counts, cells and the rows it shows; shards' tallies can be added.

A sweep's tally takes the memory of one shard and of what is shown, whatever the number of trials. However the trials
are grouped into shards, the tally is the same, apart from the rounding of means.
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
from sweeps.results.ranking import is_ranked, ranking_keys
from sweeps.results.top_k import TopK, hashes

MAX_ROWS = 1000  # of each ranking
SAMPLED = 120  # trials of each verdict whose curves stand for all of it
RADII = np.linspace(0, 2, 51)  # where the bins of predicted radii begin; the last one has no end
_UNDECIDED = 0.01  # radii this near to 1 predict nothing
_LONG_ENOUGH = 1e6  # the factor by which theory lets a distance grow or shrink before it is held against the outcome
_BAD = [VERDICTS.index(verdict) for verdict in ("diverging", "diverged")]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scope:
    """What is tallied, the same for all shards of a sweep."""

    metric: str
    epochs: int
    groups: tuple[tuple[MapAxis, ...], ...]  # of which there are cells
    settings: tuple[MapAxis, ...] = ()  # all axes but the seed's, where the spread over seeds is asked for


@dataclass(frozen=True, eq=False)
class Predictions:
    """Outcomes by what theory predicted: to settle, undecided, to diverge; V verdicts."""

    counts: NDArray[np.int64]  # (3, V) trials by prediction and verdict
    histogram: NDArray[np.int64]  # (len(RADII), V) trials by predicted radius and verdict
    disagreeing: int  # trials with another outcome than predicted
    contradicted: NDArray[np.int64]  # (3,) those of them that ran long enough for it to show

    def __add__(self, other: Predictions) -> Predictions:
        """Those of both."""
        return Predictions(
            self.counts + other.counts,
            self.histogram + other.histogram,
            self.disagreeing + other.disagreeing,
            self.contradicted + other.contradicted,
        )


@dataclass(frozen=True, eq=False)
class Aggregate:
    """Of some trials; the rankings' rows hold all that is stored of a trial but its curves."""

    verdicts: NDArray[np.int64]  # (V,) trials by verdict
    best: TopK  # by the sweep's metric; the faster of equals first
    best_settled: TopK  # the first of those that settled, in the same order
    worst_settled: TopK  # and the last
    earliest: TopK  # that diverged; then those that grew, the fastest first
    overshoots: TopK  # of trials that settled
    overshoots_diverging: TopK
    contradictions: TopK  # the most decidedly predicted first
    samples: dict[str, TopK]  # a fair sample of each verdict
    predictions: Predictions
    cells: dict[tuple[str, ...], Cells]
    settings: Cells | None  # one cell a setting: its seeds' counts, mean and squares

    @property
    def trials(self) -> int:
        """Number of trials."""
        return int(self.verdicts.sum())

    @classmethod
    def of(cls, table: pa.Table, scope: Scope) -> Aggregate:
        """That of some rows of shard files, of their scalar columns."""
        growth = pc.divide(table["final_loss"].cast(pa.float64()), table["initial_loss"].cast(pa.float64()))
        growth = pc.if_else(pc.is_finite(growth), growth, None)
        table = table.append_column("growth", growth)
        outcomes = Outcomes.of(table)
        verdict, trial = outcomes.verdict, outcomes.trial
        bad = np.isin(verdict, _BAD)
        metric, steps, _ = ranking_keys(table, scope.metric)
        overshoot, radius = numbers(table["overshoot_percent"]), numbers(table["predicted_radius"])
        with np.errstate(divide="ignore"):  # a radius of 0 settles at once
            change = np.abs(np.log(radius)) * scope.epochs
        disagrees = ((radius > 1 + _UNDECIDED) & ~bad) | ((radius < 1 - _UNDECIDED) & bad)
        against = disagrees & (change > math.log(_LONG_ENOUGH))
        diverged, ranked = verdict == VERDICTS.index("diverged"), is_ranked(table, scope.metric)

        def leading(chosen: NDArray[np.bool_], *keys: NDArray[Any], limit: int | None = None) -> TopK:
            return TopK.of(table, np.flatnonzero(chosen), (*keys, trial), limit or MAX_ROWS)

        last = [-metric, -np.where(np.isnan(steps), np.inf, steps), -trial]
        return cls(
            verdicts=np.bincount(verdict, minlength=len(VERDICTS)),
            best=leading(ranked, metric, steps),
            best_settled=leading(~bad & ranked, metric, steps, limit=1),
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
        """That of both."""
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
