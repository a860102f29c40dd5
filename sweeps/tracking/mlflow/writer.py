"""The protocol of writers of child runs, and the values that the child runs of one sweep share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sweeps.tracking.trial_runs import TrialRuns


@dataclass(frozen=True)
class ChildRuns:
    """The values that the child runs of one sweep share."""

    sweep_id: str
    experiment_id: str
    artifact_location: str  # artifact location of the experiment
    parent_id: str
    started_ms: int  # start of the parent run in milliseconds since 1970; no child run starts earlier
    user: str


class Writer(Protocol):
    """A writer of the child runs of one sweep."""

    def find_earlier(self) -> None:
        """Find child runs that any writer logged earlier."""

    def renew(self, earlier: dict[str, tuple[str, bool]]) -> None:
        """Replace the known runs of trials; by trial id: the run id or "", and whether the run is complete."""

    def write(self, runs: TrialRuns) -> Iterator[int]:
        """Log the trials that are not logged yet; yield the number of additional trials in MLflow as it grows."""

    def run_id(self, number: int, trial_id: str) -> str | None:
        """Return the id that a trial's run has, if it exists; None if the trial cannot have a run."""

    def close(self) -> None:
        """Close open resources."""
