"""The report's tables: what became of the trials, the best of them, the diverged ones, overshoots, fixed settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sweeps.report.expected_results import expected_note, expected_table
from sweeps.report.trial_tables import (
    best_trials,
    contradicting_trials,
    diverged_trials,
    overshoots,
    prediction_kind,
    predictions,
    verdict_counts,
)
from sweeps.results.expected_outcome import ExpectedOutcome
from sweeps.results.importance import effects
from sweeps.results.provenance import dropped_and_merged, provenance, settings
from sweeps.results.results import Results
from sweeps.results.seed_variance import LEVEL, seed_spread
from sweeps.results.stability_edge import edge_of_stability
from sweeps.results.top_k import TopK
from sweeps.text.formatting import heading

_EDGE_NOTE = (
    "the best trials of each cell of the map, for some values of the axis beside lr; the predicted edge is where the "
    "radius first passes 1"
)
_EFFECTS_NOTE = (
    "eta squared of one-way analyses: of whether a trial settles, and of log10 of the final loss of those that do"
)


@dataclass(frozen=True, eq=False)
class Table:
    """A table of the report."""

    key: str
    title: str
    note: str
    frame: pd.DataFrame


def report_tables(results: Results, expected: Sequence[ExpectedOutcome] | None = None, n: int = 10) -> list[Table]:
    """All tables that have something to say, in the report's order."""
    expected = expected or ()
    aggregate = results.aggregate
    against = f"the most decided first; radius: {prediction_kind(results)}; growth: the last finite loss over the first"
    found = [
        Table("expected", "Held against what was expected", expected_note(expected), expected_table(expected)),
        Table("verdicts", "Verdicts", "", verdict_counts(results)),
        Table(
            "best",
            "Best trials",
            f"by {heading(results.config.metric.name)}{_of(n, aggregate.best)}",
            best_trials(results, n),
        ),
        Table(
            "diverged",
            "Diverged and diverging trials",
            f"the earliest first; growth is the last finite loss over the first{_of(n, aggregate.earliest)}",
            diverged_trials(results, n),
        ),
        Table(
            "overshoots",
            "Overshoots of trials that came back",
            f"farthest past the target, in percent of the way from start to target{_of(n, aggregate.overshoots)}",
            overshoots(results, n),
        ),
        Table("predictions", "Prediction against outcome", _prediction_note(results), predictions(results)),
        Table(
            "contradictions",
            "Trials that contradict the prediction",
            f"{against}{_of(n, aggregate.contradictions)}",
            contradicting_trials(results, n),
        ),
        Table(
            "overshoots_diverging",
            "Overshoots of trials that are diverging",
            "finite at the end, and farther away than at the start",
            overshoots(results, n, include_diverging=True).query("verdict == 'diverging'"),
        ),
        Table("edge", "Edge of stability", _EDGE_NOTE, edge_of_stability(results)),
        Table("effects", "Share of the variance that each parameter explains", _EFFECTS_NOTE, effects(results)),
        Table("seeds", "Settings over seeds", seeds_note(results), seed_spread(results, n)),
        Table("dropped", "Combinations that were not run", "", dropped_and_merged(results)),
        Table("settings", "Settings that all trials share", "", settings(results)),
        Table("provenance", "Versions and digests", "", provenance(results)),
    ]
    return [table for table in found if len(table.frame)]


def _prediction_note(results: Results) -> str:
    predicted = results.aggregate.predictions
    against, disagreeing = int(predicted.contradicted.sum()), predicted.disagreeing
    contradict = "one trial contradicts" if against == 1 else f"{against:,} trials contradict"
    short = f"; {disagreeing - against:,} more disagree, over too few epochs to tell" if disagreeing > against else ""
    return f"by the {prediction_kind(results)}; {contradict} it{short}"


def seeds_note(results: Results) -> str:
    """How many settings cannot be told from the best, and how that was tested."""
    spread = seed_spread(results)
    if not len(spread):
        return ""
    tied = int(spread["tied"].sum())
    return (
        f"{tied:,} of {len(spread):,} settings that settled with every seed cannot be told from the best (Welch's "
        f"one-sided t-test on log10 of the final loss, p of {LEVEL} or more, not corrected for comparing many); "
        "geometric means and their 95 % intervals (Student's t)"
    )


def _of(n: int, ranking: TopK) -> str:
    """How much of a ranking is shown, where it is not all."""
    return f"; the first {n:,} of {ranking.total:,}" if ranking.total > n else ""
