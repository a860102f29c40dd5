"""The outcome of a sweep: what was computed and logged, what is missing, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SweepFiles

if TYPE_CHECKING:
    from sweeps.results.expected_outcome import ExpectedOutcome
    from sweeps.results.results import Results


@dataclass
class SweepOutcome:
    """The outcome of a sweep."""

    files: SweepFiles
    prepared: PreparedSweep
    failed_trials: int = 0
    reused: Counter[str] = field(default_factory=Counter)  # trials taken from earlier sweeps, by sweep id
    unstored: Counter[str] = field(default_factory=Counter)  # trials that workers could not store, by reason
    unlogged_trials: int = 0  # trials that should be in MLflow but are not
    tracking_error: Exception | None = None
    tracking: dict[str, Any] = field(default_factory=dict)
    results: Results | None = None  # loaded once all trials are computed
    expected: list[ExpectedOutcome] | None = None  # the comparison with the expected trials, if there are any
    report: str = ""  # where the report is, once it is written


class Interrupted(KeyboardInterrupt):
    """The user interrupted the sweep; finished shards are in the store."""

    def __init__(self, outcome: SweepOutcome) -> None:
        """Keep the outcome so far."""
        super().__init__()
        self.outcome = outcome
