"""Tables of trials: verdicts, best trials, diverged trials, overshoots and predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sgdcore.stability import Kind
from sgdcore.verdict import VERDICTS
from sweeps.results.results import Results

MAX_COLUMNS = 8  # swept parameters shown in a table
MAX_FINAL = 4  # models with more parameters have no final values in tables


def verdict_counts(results: Results) -> pd.DataFrame:
    """Return the number and share of trials by verdict."""
    counts = results.aggregate.verdicts
    return pd.DataFrame({"verdict": list(VERDICTS), "trials": counts, "share": counts / max(results.stored, 1)})


def best_trials(results: Results, n: int = 10) -> pd.DataFrame:
    """Return the n best trials that did not diverge, in the order of sweeps.results.ranking.

    As in all tables of trials, n is at most 1,000 (sweeps.results.aggregate.MAX_ROWS).
    """
    best = results.shown(results.aggregate.best, n)
    has_epochs = "best_epoch" in best.columns  # trials of earlier versions do not
    final = [f"final.{name}" for name in results.parameters] if len(results.parameters) <= MAX_FINAL else []
    return best[
        [
            *_identifying_columns(results),
            *results.losses,
            "best_epoch" if has_epochs else "best_step",
            *(["stopped_epoch"] if "stopped_epoch" in best.columns else []),
            "steps_to_tolerance",
            *final,
        ]
    ]


def diverged_trials(results: Results, n: int = 10) -> pd.DataFrame:
    """Return trials by first non-finite step, earliest first, then diverging trials by growth, fastest first."""
    return results.shown(results.aggregate.earliest, n)[
        [*_identifying_columns(results), "first_nonfinite_step", "growth"]
    ]


def overshoots(results: Results, n: int = 10, *, include_diverging: bool = False) -> pd.DataFrame:
    """Return the trials with the largest overshoots: the parameter, its start, target, peak and peak step.

    Diverged trials are excluded; diverging trials are included only with ``include_diverging``.
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
    """Return the verdicts of the trials by predicted outcome; empty if no prediction is known."""
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
    """Return the n trials whose outcome contradicts the theory, clearest prediction first.

    Only trials that ran long enough for the predicted outcome to show are included.
    """
    shown = results.shown(results.aggregate.contradictions, n)
    return shown[[*_identifying_columns(results), "predicted_radius", "growth"]]


def prediction_kind(results: Results) -> str:
    """Return what the predicted radius is, in words."""
    return results.metadata["prediction"] or Kind.EPOCH_MAP


def _identifying_columns(results: Results) -> list[str]:
    """Return the columns that identify a trial, and its verdict."""
    return ["trial", *results.swept[:MAX_COLUMNS], "verdict"]
