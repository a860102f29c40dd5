"""What every tracker does, the names it uses in MLflow, and which trials become runs of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from sweeps.config import SweepConfig
from sweeps.store import SweepFiles

SWEEP_ID = "sweeps.sweep_id"
TRIAL_ID = "sweeps.trial_id"
VERDICT = "sweeps.verdict"
TRIAL_COUNT = "sweeps.trials"
BEST_TRIAL = "sweeps.best_trial_id"
MAX_FINAL_METRICS = 1000  # parameters of a model beyond which a run holds no final/<name> metrics
REDACTED = "***"  # stands for a password wherever a URI is shown or kept


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a tracker needs to know of a sweep."""

    files: SweepFiles
    config: SweepConfig
    manifest: dict[str, Any]
    parameter_names: tuple[str, ...]

    @property
    def sweep_id(self) -> str:
        """The sweep's id."""
        return self.files.sweep_id

    @property
    def experiment(self) -> str:
        """The MLflow experiment's name."""
        return self.config.experiment or self.config.name


class Tracker(Protocol):
    """Writes a sweep's runs. Every call may be repeated: what is there already is not written again."""

    @property
    def uri(self) -> str:
        """Where to, without secrets."""

    def check(self) -> None:
        """Try the server or database before anything is computed.

        Raises:
            TrackingError: it cannot be reached, or refuses.
        """

    def start(self, sweep: Sweep) -> dict[str, str]:
        """Create or find the sweep's parent run; returns its experiment_id and run_id."""

    def log_trial(self, row: dict[str, Any], steps: list[int]) -> None:
        """Log one trial (a row of a shard file) as a child run."""

    def finish(self, sweep: Sweep, metrics: dict[str, float], tags: dict[str, str], complete: bool = True) -> None:
        """Write the parent's metrics, tags and artifacts, and mark it finished, or failed where trials are missing."""

    def interrupt(self) -> None:
        """Mark the parent as killed: somebody stopped the sweep."""


def wanted(policy: str, trials: int) -> int:
    """How many of so many trials a policy makes runs of: ``all``, ``none`` or ``top:N``."""
    if policy.startswith("top:"):
        return min(int(policy.removeprefix("top:")), trials)
    return trials if policy == "all" else 0


def best_trials(files: SweepFiles, metric: str, count: int) -> dict[int, list[int]]:
    """The trials of least metric that did not diverge, ties by trial number, by shard."""
    parts = []
    for index in sorted(files.done()):
        table = files.read_shard(index, ["trial", "verdict", metric])
        ok = pc.and_(pc.not_equal(table["verdict"], "diverged"), pc.is_valid(table[metric]))
        part = table.filter(ok)
        parts.append(_best(part.append_column("shard", pa.repeat(index, len(part))), metric, count))
    chosen: dict[int, list[int]] = {}
    if parts:
        for row in _best(pa.concat_tables(parts), metric, count).select(["shard", "trial"]).to_pylist():
            chosen.setdefault(row["shard"], []).append(row["trial"])
    return chosen


def _best(table: pa.Table, metric: str, count: int) -> pa.Table:
    return table.sort_by([(metric, "ascending"), ("trial", "ascending")]).slice(0, count)
