"""Tracker: the protocol of everything that logs runs, and the values that it takes and returns."""

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
from sweeps.store.store import SweepFiles


@dataclass(frozen=True, eq=False)
class TrackedSweep:
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
class RunPage:
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


@dataclass(frozen=True, eq=False)
class BestModel:
    """A trained model from raw features to raw targets.

    Args:
        trial: the trial's number.
        trial_id: its id.
        params: its hyperparameters and seed, as texts.
        settings: the model's kind, dtype and shape; JSON can hold it.
        arrays: ``parameters`` (P,) in the run's dtype; ``shift`` and ``scale`` (d,), ``target_shift`` and
            ``target_scale`` () of the standardisation, 0 and 1 where there is none.
        example: (n, d) some raw inputs.
        code: Python files that loading needs, by their path below a folder on the import path; of modules only.
        requirements: what predicting needs from the package index, beside MLflow.
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
    """A logged run: each fact by its name, metrics by their last value. ``trial_id`` is empty for a parent run."""

    run_id: str
    trial_id: str
    facts: dict[str, str | float]

    @property
    def not_finite(self) -> list[str]:
        """The metrics that are not finite, which must never be logged."""
        return [name for name, fact in self.facts.items() if isinstance(fact, float) and not math.isfinite(fact)]


class Tracker(Protocol):
    """Logs a sweep's runs. Every call can be repeated: what is logged already is not logged again."""

    @property
    def uri(self) -> str:
        """Where the runs are logged, without secrets."""

    def check(self, writer: WriterName = "auto") -> None:
        """Check that runs can be logged, before anything is computed, and choose how.

        Raises:
            TrackingError: the place cannot be reached or refuses.
        """

    def open(self, experiment: str) -> None:
        """Find or create the experiment, before anything is computed.

        Raises:
            TrackingError: it is deleted, or this user may not log to it.
        """

    def start(self, sweep: TrackedSweep) -> dict[str, str]:
        """Create or find the parent run; return its experiment_id and run_id, the writer and the writer_reason."""

    def amend(self, sweep: TrackedSweep, chosen: dict[int, list[int]] | None) -> None:
        """Bring what an earlier try has logged in line with the store.

        Args:
            sweep: the sweep; all shards that will ever be stored are stored.
            chosen: the trials that get runs, by shard; None is all.
        """

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        """Log rows of a shard file as child runs; yield how many more are logged, whenever some are."""

    def end_trials(self) -> None:
        """Finish writing; no more trials come."""

    def runs_of(self, trials: dict[str, int]) -> dict[str, str]:
        """Return the run ids of some trials by trial id, as far as they have runs; ``trials`` are numbers by id."""

    def log_model(self, model: BestModel, run_id: str | None, register: str | None) -> ModelPlace:
        """Log a trial's model to its run, or else to the parent, and register it under ``register`` if given."""

    def finish(
        self,
        sweep: TrackedSweep,
        metrics: dict[str, float],
        tags: dict[str, str],
        complete: bool = True,
        page: RunPage | None = None,
    ) -> None:
        """Write the parent's metrics, tags, page and artifacts; mark it finished, or failed if trials are missing."""

    def logged_runs(self, sweep: TrackedSweep) -> Iterator[LoggedRun]:
        """Yield all runs of a sweep, its parent among them."""

    def read_run(self, run_id: str) -> LoggedRun:
        """Return one run."""

    def hurry(self) -> None:
        """Stop waiting for a server that refuses calls: someone waits for the end."""

    def interrupt(self) -> None:
        """Mark the parent run as killed."""
