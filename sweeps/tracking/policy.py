"""The policy that decides which trials become MLflow runs of their own (``tracking.trials``)."""

from __future__ import annotations


def runs_wanted(policy: str, trials: int) -> int:
    """Return how many of so many trials get runs under a policy: ``all``, ``none`` or ``top:N``."""
    if policy.startswith("top:"):
        return min(int(policy.removeprefix("top:")), trials)
    return trials if policy == "all" else 0
