"""Progress of a running sweep: counts, and the protocol of whatever shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Counts:
    """How far a sweep is: trials of the whole sweep, also those of earlier turns, and shards."""

    computed: int = 0
    to_compute: int = 0
    logged: int = 0
    to_log: int = 0
    failed: int = 0
    shards_in_flight: int = 0

    @classmethod
    def of(cls, record: dict[str, Any]) -> Counts:
        """What a progress.json says, whatever it leaves out."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if isinstance(record.get(name), int)}
        return cls(**known)

    @property
    def lag(self) -> int:
        """Trials that are computed and could be in MLflow, and are not.

        Of a sweep that logs its best N nobody knows which they are before all are computed: until then it lags by none.
        """
        trials = self.to_compute - self.failed
        if self.to_log >= trials:
            return max(0, self.computed - self.logged)
        return max(0, self.to_log - self.logged) if self.computed >= trials else 0


class Progress(Protocol):
    """Whoever shows how far a sweep is."""

    def begin(self, to_compute: int, to_log: int) -> None:
        """The sweep starts, with so many trials to compute and to log."""

    def extend(self, to_compute: int, to_log: int) -> None:
        """Another stage was planned, with so many more trials to compute and to log."""

    def computed(self, trials: int) -> None:
        """So many more trials are in the store."""

    def failed(self, trials: int) -> None:
        """So many trials more could not be run."""

    def logged(self, trials: int) -> None:
        """So many more trials are in MLflow."""

    def end(self) -> None:
        """No more comes."""
