"""What every writer of child runs does, and the facts that one sweep's child runs share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sweeps.tracking.trial_runs import TrialRuns


@dataclass(frozen=True)
class ChildRuns:
    """What the child runs of one sweep share."""

    sweep_id: str
    experiment_id: str
    artifact_location: str  # the experiment's
    parent_id: str
    started_ms: int  # the parent's start, and the time of every point, so that a repeated point is the same point
    user: str


class Writer(Protocol):
    """Writes the child runs of one sweep."""

    def find_earlier(self) -> None:
        """Look for child runs that were logged before, by whichever writer."""

    def renew(self, earlier: dict[str, tuple[str, bool]]) -> None:
        """Of these trials other runs count than were found: by trial id, the run or "", and whether it is all there."""

    def write(self, runs: TrialRuns) -> Iterator[int]:
        """Log the trials that are not logged; yields a number of trials whenever so many more are in MLflow."""

    def run_id(self, number: int, trial_id: str) -> str | None:
        """The id of a trial's run, if it has one; None if it cannot have one."""

    def close(self) -> None:
        """Let go of what is open."""


def now_ms() -> int:
    """The time as MLflow keeps it: milliseconds since 1970."""
    return time.time_ns() // 1_000_000
