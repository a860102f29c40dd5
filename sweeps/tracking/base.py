"""The tracker protocol, and the values that trackers take and return."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweeps.config.schema import SweepConfig, WriterName
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SweepFiles


@dataclass(frozen=True, eq=False)
class TrackedSweep:
    """The parts of a sweep that a tracker needs."""

    files: SweepFiles
    config: SweepConfig
    manifest: dict[str, Any]
    parameter_names: tuple[str, ...]

    @classmethod
    def of(cls, files: SweepFiles, prepared: PreparedSweep) -> TrackedSweep:
        """Return the parts of a stored sweep."""
        return cls(files, prepared.config, files.manifest(), prepared.plan.parameter_names)

    @property
    def sweep_id(self) -> str:
        """The id of the sweep."""
        return self.files.sweep_id

    @property
    def experiment(self) -> str:
        """The name of the MLflow experiment."""
        return self.config.experiment_name


@dataclass(frozen=True)
class ModelPlace:
    """The location of a model in MLflow; ``version`` is the version of the registered model ``name``, if any."""

    model_id: str
    experiment_id: str
    name: str | None = None
    version: str | None = None

    @property
    def uri(self) -> str:
        """The URI to pass to mlflow.pyfunc.load_model."""
        return f"models:/{self.name}/{self.version}" if self.version else f"models:/{self.model_id}"

    @property
    def page(self) -> str:
        """The model's page in MLflow's UI, relative to the UI."""
        if self.name and self.version:
            return f"#/models/{quote(self.name, safe='')}/versions/{self.version}"
        return f"#/experiments/{self.experiment_id}/models/{self.model_id}"


@dataclass(frozen=True)
class RunPage:
    """The content that MLflow shows on the parent run of a finished sweep.

    Args:
        note: Markdown of at most NOTE_LENGTH characters.
        curves: Points (step, value) by metric.
        artifacts: Contents of files by artifact path.
        tables: Paths of the artifacts that are tables in the format of ``mlflow.log_table``.
    """

    note: str
    curves: dict[str, list[tuple[int, float]]]
    artifacts: dict[str, bytes]
    tables: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class BestModel:
    """A trained model from raw features to raw targets.

    Args:
        trial: Number of the trial.
        trial_id: Id of the trial.
        params: Hyperparameters and seed, as strings.
        settings: Kind, dtype and shape of the model, as JSON-compatible values.
        arrays: ``parameters`` (P,) in the run's dtype; ``shift`` and ``scale`` (d,), ``target_shift`` and
            ``target_scale`` () of the standardisation, 0 and 1 if there is none.
        example: (n, d) example of raw inputs.
        code: Python files that loading requires, by path relative to the import path; only for ``module`` models.
        requirements: Packages that prediction requires besides MLflow.
    """

    trial: int
    trial_id: str
    params: dict[str, str]
    settings: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    example: NDArray[np.float64]
    code: dict[str, Path]
    requirements: tuple[str, ...]


@dataclass(frozen=True)
class LoggedRun:
    """A logged run: its facts by name, with the last value of each metric; ``trial_id`` is empty for a parent run."""

    run_id: str
    trial_id: str
    facts: dict[str, str | float]

    @property
    def not_finite(self) -> list[str]:
        """The names of metrics with non-finite values, which must never be logged."""
        return [name for name, fact in self.facts.items() if isinstance(fact, float) and not math.isfinite(fact)]


class Tracker(Protocol):
    """A tracker logs a sweep's runs. All calls are idempotent: what is already logged is not logged again."""

    @property
    def uri(self) -> str:
        """The URI that runs are logged to, without secrets."""

    @property
    def is_embedded(self) -> bool:
        """Whether runs go to a database in the store, which nobody else can refuse."""

    @property
    def notices(self) -> list[str]:
        """Lines for the user about what was found and done."""

    def check(self, writer: WriterName = "auto") -> None:
        """Check, before anything is computed, that runs can be logged, and choose the writer.

        Raises:
            TrackingError: the server or database cannot be reached or rejects the user.
        """

    def check_readable(self) -> None:
        """Check, before runs are read, that there is something to read; nothing is created or written.

        Raises:
            TrackingError: the server or database does not exist, cannot be reached or rejects the user.
        """

    def open(self, experiment: str, run_id: str | None = None) -> None:
        """Find or create the experiment, before anything is computed.

        Args:
            experiment: The name of the experiment.
            run_id: The sweep's parent run, if it is known; its experiment counts, whatever its name is now.

        Raises:
            TrackingError: the experiment is deleted, or this user is not allowed to log to it.
        """

    def start(self, sweep: TrackedSweep) -> dict[str, str]:
        """Create or find the parent run; return its experiment_id and run_id, the writer and the writer_reason.

        If a user has deleted the parent run, it stays deleted and nothing is logged: the result has a key ``deleted``,
        which says what to do, instead of the writer.
        """

    def amend(self, sweep: TrackedSweep, chosen: dict[int, list[int]] | None) -> None:
        """Correct runs of an earlier attempt to match the store.

        Args:
            sweep: The sweep; no more shards will be stored.
            chosen: Numbers of the trials that get runs, by shard; None means all.
        """

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        """Log rows of a shard file as child runs; yield the number of additional runs as they are logged.

        Each run has the times in the columns that sweeps.store.shard_times.with_times() adds.
        """

    def end_trials(self) -> None:
        """Finish writing after the last trial."""

    def runs_of(self, trials: dict[str, int]) -> dict[str, str]:
        """Return the run ids of trials that have runs, by trial id; ``trials`` maps trial ids to numbers."""

    def log_model(self, model: BestModel, run_id: str | None, register: str | None) -> ModelPlace:
        """Log a trial's model to its run, or to the parent run if None; register it as ``register`` if given."""

    def finish(
        self,
        sweep: TrackedSweep,
        metrics: dict[str, float],
        tags: dict[str, str],
        complete: bool = True,
        page: RunPage | None = None,
    ) -> None:
        """Log the parent's metrics, tags, page and artifacts; mark it as finished, or failed if trials are missing."""

    def logged_runs(self, sweep: TrackedSweep) -> Iterator[LoggedRun]:
        """Yield all runs of a sweep, including the parent."""

    def deleted_trials(self, sweep: TrackedSweep) -> set[str]:
        """Return the ids of trials with a deleted run; an empty id stands for the parent."""

    def read_run(self, run_id: str) -> LoggedRun:
        """Return one run."""

    def hurry(self) -> None:
        """Stop waiting for a server that rejects calls, so that the sweep can end."""

    def interrupt(self) -> None:
        """Mark the parent run as killed."""
