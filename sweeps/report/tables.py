"""The report's tables: verdicts, best and diverged trials, overshoots, predictions, effects and settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sgdcore.verdict import MEANINGS
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
from sweeps.results.cross_validation import LEVEL
from sweeps.results.expected_outcome import ExpectedOutcome
from sweeps.results.importance import effects
from sweeps.results.measured_edges import measured_edges
from sweeps.results.provenance import dropped_and_merged, provenance, settings
from sweeps.results.results import Results
from sweeps.results.seed_variance import seed_spread
from sweeps.results.stability_edge import edge_of_stability
from sweeps.results.stages import stage_summary
from sweeps.results.top_k import TopK
from sweeps.text.formatting import heading

_EDGE_NOTE = (
    "for the best trial of each cell of the map, at selected values of the axis next to lr; the predicted edge is the "
    "lr at which the radius first exceeds 1"
)
_EFFECTS_NOTE = (
    "eta squared of one-way analyses of variance: of whether a trial settles, and of log10 of the final loss of "
    "settled trials"
)


@dataclass(frozen=True, eq=False)
class Table:
    """A table of the report."""

    key: str
    title: str
    note: str
    frame: pd.DataFrame


_MEANINGS = (
    "; ".join(f"{verdict}: {meaning}" for verdict, meaning in MEANINGS.items())
    + "; the objective is the training loss plus weight_decay/2 times the squared parameters"
)


def edges_note(edges: pd.DataFrame, n: int) -> str:
    """Say what the rows of measured edges are."""
    first = f"; the first {n} of {len(edges):,}" if len(edges) > n else ""
    return f"trials are stable on one side of lower to upper and not on the other; radius: theory's growth there{first}"


def report_tables(results: Results, expected: Sequence[ExpectedOutcome] | None = None, n: int = 10) -> list[Table]:
    """Return all tables that have rows, in the order of the report."""
    expected = expected or ()
    aggregate = results.aggregate
    stops = results.config.training.early_stopping is not None
    growth = f"{'loss of the best point' if stops else 'last finite loss'} divided by the first"
    against = f"clearest prediction first; radius: {prediction_kind(results)}; growth: {growth}"
    edges = measured_edges(results)
    found = [
        Table("expected", "Expected results", expected_note(expected), expected_table(expected)),
        Table("stages", "Stages", f"best: the lowest {heading(results.metric)}", stage_summary(results)),
        Table("verdicts", "Verdicts", _MEANINGS, verdict_counts(results)),
        Table("folds", "Settings over folds", _FOLDS_NOTE, results.fold_means.head(n)),
        Table(
            "best",
            "Best trials",
            f"by {heading(results.metric)}{_of(n, aggregate.best)}",
            best_trials(results, n),
        ),
        Table(
            "diverged",
            "Diverged and diverging trials",
            f"earliest first; growth is the {growth}{_of(n, aggregate.earliest)}",
            diverged_trials(results, n),
        ),
        Table(
            "overshoots",
            "Overshoots of settled trials",
            f"largest first, in percent of the distance from start to target{_of(n, aggregate.overshoots)}",
            overshoots(results, n),
        ),
        Table("predictions", "Prediction and outcome", _prediction_note(results), predictions(results)),
        Table(
            "contradictions",
            "Trials that contradict the prediction",
            f"{against}{_of(n, aggregate.contradictions)}",
            contradicting_trials(results, n),
        ),
        Table(
            "overshoots_diverging",
            "Overshoots of diverging trials",
            "the final values are finite, but the objective is above its initial value",
            overshoots(results, n, include_diverging=True).query("verdict == 'diverging'"),
        ),
        Table("edges", "Measured edges of stability", edges_note(edges, n), edges.head(n)),
        Table("edge", "Edge of stability", _EDGE_NOTE, edge_of_stability(results)),
        Table("effects", "Share of variance explained by each parameter", _EFFECTS_NOTE, effects(results)),
        Table("seeds", "Settings over seeds", seeds_note(results), seed_spread(results, n)),
        Table("dropped", "Combinations that were not run", "", dropped_and_merged(results)),
        Table("settings", "Settings shared by all trials", "", settings(results)),
        Table("provenance", "Versions and digests", "", provenance(results)),
    ]
    return [table for table in found if len(table.frame)]


_FOLDS_NOTE = (
    "the mean of the metric over folds and seeds, and its standard error; tied: not significantly worse than the best "
    f"(paired one-sided t-test over folds, p of {LEVEL} or more, not corrected for multiple comparisons)"
)


def _prediction_note(results: Results) -> str:
    predicted = results.aggregate.predictions
    against, disagreeing = int(predicted.contradicted.sum()), predicted.disagreeing
    contradict = "one trial contradicts" if against == 1 else f"{against:,} trials contradict"
    short = f"; {disagreeing - against:,} more disagree, but ran for too few epochs" if disagreeing > against else ""
    return f"by the {prediction_kind(results)}; {contradict} it{short}"


def seeds_note(results: Results) -> str:
    """Return how many settings tie with the best and how that was tested, as the note of the table."""
    spread = seed_spread(results)
    if not len(spread):
        return ""
    tied = int(spread["tied"].sum())
    of, means = ("", "means") if results.config.task.is_signed else ("log10 of ", "geometric means")
    return (
        f"{tied:,} of {len(spread):,} settings that settled with every seed are not significantly worse than the best "
        f"(Welch's one-sided t-test on {of}the final loss, p of {LEVEL} or more, not corrected for multiple "
        f"comparisons); {means} with 95 % intervals (Student's t)"
    )


def _of(n: int, ranking: TopK) -> str:
    """Return how much of a ranking is shown, or an empty string if all of it is."""
    return f"; the first {n:,} of {ranking.total:,}" if ranking.total > n else ""
