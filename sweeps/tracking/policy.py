"""The policy that selects which trials get their own MLflow run (``tracking.trials``)."""

from __future__ import annotations


def runs_wanted(policy: str, trials: int) -> int:
    """Return how many of ``trials`` trials get their own run under a policy: ``all``, ``none`` or ``top:N``."""
    if policy.startswith("top:"):
        return min(int(policy.removeprefix("top:")), trials)
    return trials if policy == "all" else 0
