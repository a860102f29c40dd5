"""The table and sentences that compare results with the expected cases of the sweep file."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from sweeps.report.trial_tables import MAX_FINAL
from sweeps.results.expected_outcome import ExpectedOutcome
from sweeps.text.formatting import number

_MAX_EXPECTED = 50  # rows in the table
_FATES = {"diverging": "is diverging", "converging": "is converging", "stalled": "has stalled"}


def expected_sentence(outcome: ExpectedOutcome) -> str | None:
    """Describe a trial's overshoot and outcome; None if no parameter overshot."""
    if not outcome.overshoot_percent or outcome.peak_value is None or outcome.target is None:
        return None
    fate = _FATES.get(outcome.verdict or "", f"has {outcome.verdict}")
    return (
        f"{outcome.case}: {outcome.overshoot_parameter} overshoots its target {number(outcome.target, 3)} by "
        f"{number(outcome.overshoot_percent, 3)} % of the distance from its start, peaks at "
        f"{number(outcome.peak_value, 3)}, and {fate}"
    )


def expected_sentences(expected: Sequence[ExpectedOutcome]) -> list[str]:
    """Describe the cases that overshoot and diverge; at most ten."""
    lost = [outcome for outcome in expected if outcome.verdict in ("diverging", "diverged")]
    return [line for outcome in lost if (line := expected_sentence(outcome))][:10]


def expected_table(expected: Sequence[ExpectedOutcome]) -> pd.DataFrame:
    """Return the expected cases with the actual results; if there are too many, mismatches come first."""
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
            **({f"final.{name}": _decimals(o, name) for name in names} if len(names) <= MAX_FINAL else {}),
            "expected": _expectation(o),
            "matches": ("bit for bit" if o.exact else "to rounding" if o.reference else "yes") if o.matches else "no",
            "verdict": o.verdict,
            "overshoot_percent": o.overshoot_percent,
        }
        for o in shown
    ]
    frame = pd.DataFrame(rows)
    return frame.astype({"trial": "Int64", "overshoot_percent": "float64"}) if rows else frame


def _decimals(outcome: ExpectedOutcome, name: str) -> str | None:
    """Format a final parameter with the number of decimals used for the comparison."""
    value = outcome.final.get(name)
    return None if value is None or math.isnan(value) else f"{value:.{outcome.decimals}f}"


def _expectation(outcome: ExpectedOutcome) -> str:
    if outcome.reference:
        return "torch.optim.SGD"
    return ", ".join(f"{name} {value:.{outcome.decimals}f}" for name, value in (outcome.published or {}).items())


def expected_note(expected: Sequence[ExpectedOutcome]) -> str:
    """Return how many cases match, as the note of the table."""
    matching = sum(outcome.matches for outcome in expected)
    shown = f"; the table shows {_MAX_EXPECTED}" if len(expected) > _MAX_EXPECTED else ""
    return f"{matching:,} of {len(expected):,} match{shown}"
