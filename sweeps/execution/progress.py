"""The progress of a running sweep: counts, and the interface for displaying them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Counts:
    """The counts of a sweep, including its earlier runs: trials, shards in flight, and steps summed over trials."""

    computed: int = 0
    to_compute: int = 0
    logged: int = 0
    to_log: int = 0
    failed: int = 0
    shards_in_flight: int = 0
    trial_steps: int = 0  # of stored trials and of those in flight
    trial_steps_planned: int = 0

    @classmethod
    def of(cls, record: dict[str, Any]) -> Counts:
        """Return the counts in a progress.json; missing ones are 0."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if isinstance(record.get(name), int)}
        return cls(**known)

    @property
    def lag(self) -> int:
        """The number of computed trials that could be in MLflow but are not.

        A sweep that logs its best N has no lag until all trials are computed, because the best are not known earlier.
        """
        trials = self.to_compute - self.failed
        if self.to_log >= trials:
            return max(0, self.computed - self.logged)
        return max(0, self.to_log - self.logged) if self.computed >= trials else 0


class Progress(Protocol):
    """The interface for displaying the progress of a sweep."""

    def begin(self, to_compute: int, to_log: int) -> None:
        """Start, with the numbers of trials to compute and to log."""

    def extend(self, to_compute: int, to_log: int) -> None:
        """Add the trials of another stage to the totals."""

    def computed(self, trials: int) -> None:
        """Count trials that are now in the store."""

    def training(self, trials: float) -> None:
        """Show how much of the shards in flight is done, as a number of trials; called every second."""

    def failed(self, trials: int) -> None:
        """Count trials that could not be run."""

    def logged(self, trials: int) -> None:
        """Count trials that are now in MLflow."""

    def end(self) -> None:
        """Finish; no further calls follow."""
