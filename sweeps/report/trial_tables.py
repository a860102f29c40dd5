"""Tables of trials: verdicts, the best, the diverged, overshoots, predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sgdcore.stability import Kind
from sgdcore.verdict import VERDICTS
from sweeps.results.results import Results

MAX_COLUMNS = 8  # swept parameters in a table
MAX_FINAL = 4  # parameters whose final values are shown beside a trial


def verdict_counts(results: Results) -> pd.DataFrame:
    """Number and share of trials by verdict."""
    counts = results.aggregate.verdicts
    return pd.DataFrame({"verdict": list(VERDICTS), "trials": counts, "share": counts / max(results.stored, 1)})


def best_trials(results: Results, n: int = 10) -> pd.DataFrame:
    """The n best trials by the sweep's metric among those that have not diverged; the faster of equals first.

    As in all tables of trials, n is at most 1,000 (sweeps.results.aggregate.MAX_ROWS).
    """
    best = results.shown(results.aggregate.best, n)
    final = [f"final.{name}" for name in results.parameters] if len(results.parameters) <= MAX_FINAL else []
    return best[
        [
            *_identifying_columns(results),
            "final_loss",
            "best_loss",
            "best_step",
            "steps_to_tolerance",
            *final,
        ]
    ]


def diverged_trials(results: Results, n: int = 10) -> pd.DataFrame:
    """Trials that left the finite numbers, the earliest first, then those that grew, the fastest first."""
    return results.shown(results.aggregate.earliest, n)[
        [*_identifying_columns(results), "first_nonfinite_step", "growth"]
    ]


def overshoots(results: Results, n: int = 10, *, include_diverging: bool = False) -> pd.DataFrame:
    """The trials whose parameter went farthest past its target: which one, from where, past what, to where and when.

    Trials that diverged are left out, and those that are diverging too unless they are asked for.
    """
    past = results.shown(results.aggregate.overshoots, n)
    if include_diverging:
        past = pd.concat([past, results.shown(results.aggregate.overshoots_diverging, n)], ignore_index=True)
        past = past.sort_values(["overshoot_percent", "trial"], ascending=[False, True]).head(n)
    start = [row[f"init.{row['overshoot_parameter']}"] for _, row in past.iterrows()]
    table = past[[*_identifying_columns(results), "overshoot_percent", "overshoot_parameter"]].assign(
        start=np.array(start, dtype=np.float64)
    )
    share = past["overshoot_percent"] / 100
    table["target"] = past["peak_value"] / (1 + share) + table["start"] * (share / (1 + share))
    table["peak"] = past["peak_value"].astype("float64")
    table["peak_step"] = past["peak_step"]
    return table.reset_index(drop=True)


def predictions(results: Results) -> pd.DataFrame:
    """Verdicts of the trials by what their predicted growth per epoch says; empty where none is known."""
    predicted = results.aggregate.predictions
    if not predicted.counts.sum():
        return pd.DataFrame()
    word = "radius" if prediction_kind(results) == Kind.EPOCH_MAP else "growth"
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
    shown = results.shown(results.aggregate.contradictions, n)
    return shown[[*_identifying_columns(results), "predicted_radius", "growth"]]


def prediction_kind(results: Results) -> str:
    return results.metadata["prediction"] or Kind.EPOCH_MAP


def _identifying_columns(results: Results) -> list[str]:
    """The columns that say which trial it is and what became of it."""
    return ["trial", *results.swept[:MAX_COLUMNS], "verdict"]
