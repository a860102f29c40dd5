"""The report's tables: what became of the trials, the best of them, the diverged ones, overshoots, fixed settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sgdcore.stability import Kind
from sgdcore.verdict import VERDICTS
from sweeps.results.importance import effects
from sweeps.results.provenance import dropped_and_merged, provenance, settings
from sweeps.results.results import Results
from sweeps.results.seed_variance import LEVEL, seed_spread
from sweeps.results.stability_edge import advice, edge_of_stability, edge_sentence
from sweeps.results.top_k import Leading
from sweeps.text.formatting import cell, heading, number, percent
from sweeps.verification.expected import ExpectedOutcome

__all__ = [
    "Table",
    "best_trials",
    "contradicting_trials",
    "diverged_trials",
    "dropped_and_merged",
    "edge_of_stability",
    "effects",
    "expected_table",
    "finding",
    "headline",
    "lead_sentences",
    "overshoots",
    "predictions",
    "provenance",
    "seed_spread",
    "seeds_note",
    "settings",
    "tables",
    "verdict_counts",
]

_MAX_COLUMNS = 8  # of swept parameters in a table
_MAX_FINAL = 4  # parameters whose final values are shown beside a trial
_MAX_EXPECTED = 50
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


def tables(results: Results, expected: Sequence[ExpectedOutcome] | None = None, n: int = 10) -> list[Table]:
    """All tables that have something to say, in the report's order."""
    expected = expected or ()
    tally = results.tally
    against = f"the most decided first; radius: {_prediction(results)}; growth: the last finite loss over the first"
    found = [
        Table("expected", "Held against what was expected", _expected_note(expected), expected_table(expected)),
        Table("verdicts", "Verdicts", "", verdict_counts(results)),
        Table(
            "best",
            "Best trials",
            f"by {heading(results.config.metric.name)}{_of(n, tally.best)}",
            best_trials(results, n),
        ),
        Table(
            "diverged",
            "Diverged and diverging trials",
            f"the earliest first; growth is the last finite loss over the first{_of(n, tally.earliest)}",
            diverged_trials(results, n),
        ),
        Table(
            "overshoots",
            "Overshoots of trials that came back",
            f"farthest past the target, in percent of the way from start to target{_of(n, tally.overshoots)}",
            overshoots(results, n),
        ),
        Table("predictions", "Prediction against outcome", _prediction_note(results), predictions(results)),
        Table(
            "contradictions",
            "Trials that contradict the prediction",
            f"{against}{_of(n, tally.contradictions)}",
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


def lead_sentences(results: Results) -> list[str]:
    """The outcome in plain words: how many trials converge, where the edge of stability is, what to use."""
    if not results.stored:
        return [headline(results)]
    return [line for line in (headline(results), edge_sentence(results), advice(results)) if line]


def headline(results: Results) -> str:
    """The outcome in a sentence."""
    done, planned = results.stored, results.planned
    if not done:
        return f"None of the {planned:,} trials is stored yet."
    counts = dict(zip(VERDICTS, results.tally.verdicts.tolist(), strict=True))
    so_far = f"{done:,} of {planned:,} trials are stored; " if done < planned else ""
    arrived = counts["converged"]
    share = f" ({percent(arrived, done)})" if arrived else ""
    converged = f"{f'{arrived:,}' if arrived else 'none'} of {done:,} trials converged{share}"
    bad = counts["diverged"] + counts["diverging"]
    words = " or ".join(word for word in ("diverged", "are diverging") if counts[word.split()[-1]])
    lost = (f", {bad:,} {words}" if bad > 1 else f", one {words.replace('are', 'is')}") if bad else ""
    best = best_trials(results, 1)
    if not len(best):
        return _sentence(f"{so_far}{converged}{lost}")
    metric = results.config.metric.name
    row = best.iloc[0]
    at = ", ".join(f"{heading(name)} {cell(row[name])}" for name in results.swept[:_MAX_COLUMNS])
    what = "final loss" if metric == "final_loss" else "loss on the way"
    return _sentence(f"{so_far}{converged}{lost}; the best {what} is {number(row[metric])}{f', at {at}' if at else ''}")


def verdict_counts(results: Results) -> pd.DataFrame:
    """Number and share of trials by verdict."""
    counts = results.tally.verdicts
    return pd.DataFrame({"verdict": list(VERDICTS), "trials": counts, "share": counts / max(results.stored, 1)})


def best_trials(results: Results, n: int = 10) -> pd.DataFrame:
    """The n best trials by the sweep's metric among those that have not diverged; the faster of equals first.

    As in all tables of trials, n is at most 1,000 (sweeps.results.aggregate.MAX_ROWS).
    """
    best = results.shown(results.tally.best, n)
    final = [f"final.{name}" for name in results.parameters] if len(results.parameters) <= _MAX_FINAL else []
    return best[
        [
            *_name(results),
            "final_loss",
            "best_loss",
            "best_step",
            "steps_to_tolerance",
            *final,
        ]
    ]


def diverged_trials(results: Results, n: int = 10) -> pd.DataFrame:
    """Trials that left the finite numbers, the earliest first, then those that grew, the fastest first."""
    return results.shown(results.tally.earliest, n)[[*_name(results), "first_nonfinite_step", "growth"]]


def overshoots(results: Results, n: int = 10, *, include_diverging: bool = False) -> pd.DataFrame:
    """The trials whose parameter went farthest past its target: which one, from where, past what, to where and when.

    Trials that diverged are left out, and those that are diverging too unless they are asked for.
    """
    past = results.shown(results.tally.overshoots, n)
    if include_diverging:
        past = pd.concat([past, results.shown(results.tally.overshoots_diverging, n)], ignore_index=True)
        past = past.sort_values(["overshoot_percent", "trial"], ascending=[False, True]).head(n)
    start = [row[f"init.{row['overshoot_parameter']}"] for _, row in past.iterrows()]
    table = past[[*_name(results), "overshoot_percent", "overshoot_parameter"]].assign(
        start=np.array(start, dtype=np.float64)
    )
    share = past["overshoot_percent"] / 100
    table["target"] = past["peak_value"] / (1 + share) + table["start"] * (share / (1 + share))
    table["peak"] = past["peak_value"].astype("float64")
    table["peak_step"] = past["peak_step"]
    return table.reset_index(drop=True)


def predictions(results: Results) -> pd.DataFrame:
    """Verdicts of the trials by what their predicted growth per epoch says; empty where none is known."""
    predicted = results.tally.predictions
    if not predicted.counts.sum():
        return pd.DataFrame()
    word = "radius" if _prediction(results) == Kind.EPOCH_MAP else "growth"
    rows = [
        {"predicted": said, "trials": counts.sum(), **dict(zip(VERDICTS, counts, strict=True)), "contradicted": against}
        for said, counts, against in zip(
            [f"settles ({word} < 1)", f"undecided ({word} near 1)", f"diverges ({word} > 1)"],
            predicted.counts,
            predicted.contradicted,
            strict=True,
        )
    ]
    return pd.DataFrame(rows)


def contradicting_trials(results: Results, n: int = 10) -> pd.DataFrame:
    """The n trials whose outcome contradicts the theory, of those that ran long enough for it to show.

    Those whose outcome was predicted most decidedly come first.
    """
    shown = results.shown(results.tally.contradictions, n)
    return shown[[*_name(results), "predicted_radius", "growth"]]


def finding(results: Results) -> str | None:
    """Where theory and outcome disagree, and what can be behind it; None where they do not."""
    grew, _, settled = results.tally.predictions.contradicted.tolist()
    causes = {
        "that theory lets settle ended above the start: on a noise floor, of batches without a common optimum near "
        "the stable boundary, or beyond the range of the dtype": grew,
        "that theory lets diverge did not: for a start without the growing direction, or an error in "
        "the theory": settled,
    }
    found = [f"{count:,} {'trial' if count == 1 else 'trials'} {cause}" for cause, count in causes.items() if count]
    return "; ".join(found) or None


def _prediction(results: Results) -> str:
    return results.metadata["prediction"] or Kind.EPOCH_MAP


def _prediction_note(results: Results) -> str:
    predicted = results.tally.predictions
    against, disagreeing = int(predicted.contradicted.sum()), predicted.disagreeing
    contradict = "one trial contradicts" if against == 1 else f"{against:,} trials contradict"
    short = f"; {disagreeing - against:,} more disagree, over too few epochs to tell" if disagreeing > against else ""
    return f"by the {_prediction(results)}; {contradict} it{short}"


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


def expected_table(expected: Sequence[ExpectedOutcome]) -> pd.DataFrame:
    """The expected cases beside what came out; what does not match stands first where there are many."""
    shown = list(expected)
    if len(shown) > _MAX_EXPECTED:
        shown = sorted(shown, key=lambda outcome: outcome.matches)[:_MAX_EXPECTED]
    names = list(dict.fromkeys(name for outcome in shown for name in outcome.final))
    rows = [
        {
            "case": o.case,
            "trial": o.trial,
            "lr": o.lr,
            "momentum": o.momentum,
            "weight_decay": o.weight_decay,
            **({f"final.{name}": _decimals(o, name) for name in names} if len(names) <= _MAX_FINAL else {}),
            "expected": _expectation(o),
            "matches": ("bit for bit" if o.exact else "to rounding" if o.reference else "yes") if o.matches else "no",
            "verdict": o.verdict,
            "overshoot_percent": o.overshoot_percent,
        }
        for o in shown
    ]
    frame = pd.DataFrame(rows)
    return frame.astype({"trial": "Int64", "overshoot_percent": "float64"}) if rows else frame


def _of(n: int, ranking: Leading) -> str:
    """How much of a ranking is shown, where it is not all."""
    return f"; the first {n:,} of {ranking.total:,}" if ranking.total > n else ""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _name(results: Results) -> list[str]:
    """The columns that say which trial it is and what became of it."""
    return ["trial", *results.swept[:_MAX_COLUMNS], "verdict"]


def _decimals(outcome: ExpectedOutcome, name: str) -> str | None:
    """A final parameter, to as many decimals as it is compared to."""
    value = outcome.final.get(name)
    return None if value is None or math.isnan(value) else f"{value:.{outcome.decimals}f}"


def _expectation(outcome: ExpectedOutcome) -> str:
    if outcome.reference:
        return "torch.optim.SGD"
    return ", ".join(f"{name} {value:.{outcome.decimals}f}" for name, value in (outcome.published or {}).items())


def _expected_note(expected: Sequence[ExpectedOutcome]) -> str:
    matching = sum(outcome.matches for outcome in expected)
    shown = f"; {_MAX_EXPECTED} are shown" if len(expected) > _MAX_EXPECTED else ""
    return f"{matching:,} of {len(expected):,} match{shown}"
