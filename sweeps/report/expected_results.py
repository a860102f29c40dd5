"""Expected results in words: a table and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from sweeps.report.trial_tables import MAX_FINAL
from sweeps.results.expected_outcome import ExpectedOutcome
from sweeps.text.formatting import number

_MAX_EXPECTED = 50  # rows of the table
_FATES = {"diverging": "is diverging", "converging": "is converging", "stalled": "has stalled"}


def expected_sentence(outcome: ExpectedOutcome) -> str | None:
    """How far the trial went past its target and what became of it, in words; None where nothing overshot."""
    if not outcome.overshoot_percent or outcome.peak_value is None or outcome.target is None:
        return None
    fate = _FATES.get(outcome.verdict or "", f"has {outcome.verdict}")
    return (
        f"{outcome.case}: {outcome.overshoot_parameter} overshoots its target {number(outcome.target, 3)} "
        f"to {number(outcome.peak_value, 3)}, {number(outcome.overshoot_percent, 3)} % of the way from its start "
        f"past the target, and {fate}"
    )


def expected_sentences(expected: Sequence[ExpectedOutcome]) -> list[str]:
    """Those of the cases that overshoot and do not come back; at most ten."""
    lost = [outcome for outcome in expected if outcome.verdict in ("diverging", "diverged")]
    return [line for outcome in lost if (line := expected_sentence(outcome))][:10]


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
    """A final parameter, to as many decimals as it is compared to."""
    value = outcome.final.get(name)
    return None if value is None or math.isnan(value) else f"{value:.{outcome.decimals}f}"


def _expectation(outcome: ExpectedOutcome) -> str:
    if outcome.reference:
        return "torch.optim.SGD"
    return ", ".join(f"{name} {value:.{outcome.decimals}f}" for name, value in (outcome.published or {}).items())


def expected_note(expected: Sequence[ExpectedOutcome]) -> str:
    matching = sum(outcome.matches for outcome in expected)
    shown = f"; {_MAX_EXPECTED} are shown" if len(expected) > _MAX_EXPECTED else ""
    return f"{matching:,} of {len(expected):,} match{shown}"
