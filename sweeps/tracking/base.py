"""What every tracker does, the names it uses in MLflow, and which trials become runs of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from sweeps.config.schema import SweepConfig, WriterName
from sweeps.store.store import SweepFiles

if TYPE_CHECKING:
    from sweeps.pipeline.best_model import BestModel
    from sweeps.tracking.trial_runs import TrialRuns

SWEEP_ID = "sweeps.sweep_id"
TRIAL_ID = "sweeps.trial_id"
VERDICT = "sweeps.verdict"
TRIAL_COUNT = "sweeps.trials"
BEST_TRIAL = "sweeps.best_trial_id"
TAG = "sweeps.tag."  # and the name of a tag that the user gave
MAX_FINAL_METRICS = 1000  # parameters of a model beyond which a run holds no final/<name> metrics
NOTE_LENGTH = 8000  # characters; MLflow cuts longer tags
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


@dataclass(frozen=True)
class Family:
    """What the child runs of one sweep share."""

    sweep_id: str
    experiment_id: str
    artifact_location: str  # the experiment's
    parent_id: str
    started_ms: int  # the parent's start, and the time of every point, so that a repeated point is the same point
    user: str


@dataclass(frozen=True)
class ModelPlace:
    """Where a model is in MLflow; ``version`` is that of the registered model ``name``, if it was registered."""

    model_id: str
    experiment_id: str
    name: str | None = None
    version: str | None = None

    @property
    def uri(self) -> str:
        """What mlflow.pyfunc.load_model takes."""
        return f"models:/{self.name}/{self.version}" if self.version else f"models:/{self.model_id}"

    @property
    def page(self) -> str:
        """Its page in MLflow's UI, relative to the UI's."""
        if self.name and self.version:
            return f"#/models/{quote(self.name, safe='')}/versions/{self.version}"
        return f"#/experiments/{self.experiment_id}/models/{self.model_id}"


@dataclass(frozen=True)
class ParentPage:
    """What MLflow shows of a finished sweep on its own run.

    Args:
        note: Markdown, of at most NOTE_LENGTH characters.
        curves: the points (step, value) of metrics.
        artifacts: files by their path among the run's artifacts.
        tables: which of them are tables, as ``mlflow.log_table`` writes them.
    """

    note: str
    curves: dict[str, list[tuple[int, float]]]
    artifacts: dict[str, bytes]
    tables: tuple[str, ...] = ()


class Tracker(Protocol):
    """Writes a sweep's runs. Every call may be repeated: what is there already is not written again."""

    @property
    def uri(self) -> str:
        """Where to, without secrets."""

    def check(self, writer: WriterName = "auto") -> None:
        """Try the server or database before anything is computed, and choose the writer.

        Raises:
            TrackingError: it cannot be reached, or refuses.
        """

    def open(self, experiment: str) -> None:
        """Find or make the experiment, before anything is computed.

        Raises:
            TrackingError: it is deleted, or this user may not log to it.
        """

    def start(self, sweep: Sweep) -> dict[str, str]:
        """Create or find the parent run; returns its experiment_id and run_id, the writer and why it was chosen."""

    def amend(self, sweep: Sweep, chosen: dict[int, list[int]] | None) -> None:
        """Bring what an earlier try has logged in line with the store.

        Args:
            sweep: all of whose shards are stored that will be.
            chosen: the trials, by shard, that are to have runs; None is all.
        """

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        """Log rows of a shard file as child runs; yields a number of trials whenever so many more are logged."""

    def end_trials(self) -> None:
        """No more trials come."""

    def runs_of(self, trials: dict[str, int]) -> dict[str, str]:
        """The run ids of some trials (number by trial id), as far as they have runs of their own."""

    def log_model(self, model: BestModel, run_id: str | None, register: str | None) -> ModelPlace:
        """Log a trial's model onto its run, or else the parent, and register it under a name if one is given."""

    def finish(
        self,
        sweep: Sweep,
        metrics: dict[str, float],
        tags: dict[str, str],
        complete: bool = True,
        page: ParentPage | None = None,
    ) -> None:
        """Write the parent's metrics, tags, page and artifacts; mark it finished, or failed if trials are missing."""

    def hurry(self) -> None:
        """Somebody is waiting for the end: wait no more for a server that refuses calls."""

    def interrupt(self) -> None:
        """Mark the parent as killed: somebody stopped the sweep."""


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


def wanted(policy: str, trials: int) -> int:
    """How many of so many trials a policy makes runs of: ``all``, ``none`` or ``top:N``."""
    if policy.startswith("top:"):
        return min(int(policy.removeprefix("top:")), trials)
    return trials if policy == "all" else 0


def best_trials(files: SweepFiles, metric: str, count: int) -> dict[int, list[int]]:
    """The trials of least metric that did not diverge, ties by trial number, by shard."""
    best: pa.Table | None = None
    for index in sorted(files.done()):
        table = files.read_shard(index, ["trial", "verdict", metric]).replace_schema_metadata()
        part = table.filter(pc.and_(pc.not_equal(table["verdict"], "diverged"), pc.is_valid(table[metric])))
        part = _best(part.append_column("shard", pa.repeat(index, len(part))), metric, count)
        best = part if best is None else _best(pa.concat_tables([best, part]), metric, count)
    chosen: dict[int, list[int]] = {}
    for row in best.select(["shard", "trial"]).to_pylist() if best is not None else ():
        chosen.setdefault(row["shard"], []).append(row["trial"])
    return chosen


def _best(table: pa.Table, metric: str, count: int) -> pa.Table:
    return table.sort_by([(metric, "ascending"), ("trial", "ascending")]).slice(0, count)
