"""The MLflow tracker: manage the connection, the experiment, the parent run and the writer of child runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from sweeps.config.schema import WriterName
from sweeps.errors import TrackingError
from sweeps.text.redact import first_line, redact_uri
from sweeps.text.uris import read_only_uri
from sweeps.tracking.base import BestModel, LoggedRun, ModelPlace, RunPage, TrackedSweep
from sweeps.tracking.mlflow.audit import logged_runs, to_logged_run
from sweeps.tracking.mlflow.bulk_writer import BulkWriter
from sweeps.tracking.mlflow.client_writer import ClientWriter
from sweeps.tracking.mlflow.connection import is_server, probe, quiet
from sweeps.tracking.mlflow.database.connect import opened, sqlite_file
from sweeps.tracking.mlflow.database.create import create_missing
from sweeps.tracking.mlflow.experiment import find_or_create, known_run, usable
from sweeps.tracking.mlflow.parent_run import ParentRun, current_user
from sweeps.tracking.mlflow.reconcile import COLUMNS, amend
from sweeps.tracking.mlflow.writer import ChildRuns, Writer
from sweeps.tracking.mlflow.writer_choice import ChosenWriter, check_server, choose, for_run
from sweeps.tracking.names import MAX_FINAL_METRICS, TRIAL_ID
from sweeps.tracking.trial_runs import trial_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

    from sweeps.tracking.mlflow.server.client import ServerClient

_PACK_TRIALS = 1000  # maximum trials per transaction
_PACK_POINTS = 200_000  # approximate maximum of points per transaction


class MlflowTracker:
    """A tracker that logs sweeps to MLflow.

    Args:
        uri: Any MLflow tracking URI.
        artifacts: Artifact folder of a new experiment; None leaves the choice to the server.
        database: URI of the database behind a tracking server, for the bulk writer.
    """

    def __init__(self, uri: str, artifacts: Path | None = None, database: str | None = None) -> None:
        """Store the arguments; nothing is imported or contacted yet."""
        self._uri, self._artifacts, self._database = uri, artifacts, database
        self._client_uri = uri  # differs from the URI while a read-only file is read
        self._client: MlflowClient | None = None
        self._server: ServerClient | None = None  # the client, if the URI is that of a tracking server
        self._choice: ChosenWriter | None = None
        self._wanted: WriterName | None = None  # the writer requested in check()
        self._writer: Writer | None = None
        self._parent: ParentRun | None = None
        self._child_runs: ChildRuns | None = None
        self._is_deleted = False  # whether a user has deleted the sweep's run
        self._outdated: list[str] = []  # runs to delete at the end
        self._names: tuple[str, ...] = ()
        self._points: int | None = None
        self.notices: list[str] = []  # lines for the user

    @property
    def uri(self) -> str:
        """The tracking URI without secrets."""
        return redact_uri(self._uri)

    @property
    def is_embedded(self) -> bool:
        """Whether runs go to the store's own database."""
        return self._artifacts is not None

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, created on first use."""
        if self._client is None:
            quiet()
            if is_server(self._uri):
                from sweeps.tracking.mlflow.server.client import ServerClient

                self._client = self._server = ServerClient(self._uri)
            else:
                from mlflow import MlflowClient

                self._client = MlflowClient(tracking_uri=self._client_uri)
        return self._client

    @property
    def missing_file(self) -> Path | None:
        """The SQLite file of the URI if it does not exist; the next sweep creates it."""
        path = sqlite_file(self._uri)
        return None if path is None or path.exists() else path

    def check_readable(self) -> None:
        """Check, before reading, that the database exists or the server answers; nothing is created or written.

        Raises:
            TrackingError: it cannot be reached or read.
        """
        if (path := self.missing_file) is not None:
            raise TrackingError(f"{path}: there is no such database; check --tracking-uri and --store")
        if (path := sqlite_file(self._uri)) is not None and not os.access(path.parent, os.W_OK):
            self._client_uri = read_only_uri(path)
        quiet()
        probe(self._client_uri)
        self._search_experiments()

    def check(self, writer: WriterName = "auto") -> None:
        """Connect to the server or database with a short timeout, request one experiment, and choose the writer.

        Raises:
            TrackingError: it cannot be reached or rejects the user, or the writer cannot be used with it.
        """
        quiet()
        with self._migration_lock():
            if (path := sqlite_file(self._uri)) is not None and path.parent.is_dir():
                self._create(path)
            probe(self._uri)
            experiments = self._search_experiments()
        if self._database is not None:
            opened(self._database).connect().close()  # a configured database must be usable
        self._choice, self._wanted = choose(self._database or self._uri, writer), writer
        if self._database is not None and self._choice.database is not None:
            check_server(self._choice.database, experiments)

    @property
    def choice(self) -> ChosenWriter:
        """The chosen writer; available after :meth:`check`."""
        assert self._choice is not None, "check() comes first"
        return self._choice

    def open(self, experiment: str, run_id: str | None = None) -> None:
        """Find or create the experiment that a sweep will be logged to.

        Args:
            experiment: Name of the experiment.
            run_id: The sweep's parent run, if it is known; its experiment counts, whatever its name is now.

        Raises:
            TrackingError: the experiment is deleted, or this user is not allowed to log to it.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self._experiment(experiment, known_run(self.client, run_id))
        except MlflowException as error:
            plain = TrackingError(f"{self.uri}: the experiment {experiment!r} cannot be used: {first_line(error)}")
            raise self._refusal(error, "create experiments") or plain from error
        if is_server(self._uri):
            from sweeps.tracking.mlflow.server.permissions import check_may_log

            check_may_log(self._uri, found)

    def start(self, sweep: TrackedSweep) -> dict[str, str]:
        """Find or create the experiment and the sweep's parent run, and decide which writer logs the trials.

        Returns:
            ``experiment_id`` and ``run_id`` of the parent, ``writer`` and ``writer_reason``; or ``deleted`` instead of
            the writer if the parent was deleted, in which case nothing is logged.

        Raises:
            TrackingError: the experiment is deleted, or the requested writer cannot log to it.
        """
        self._names = sweep.parameter_names if len(sweep.parameter_names) <= MAX_FINAL_METRICS else ()
        self._points = sweep.config.tracking.points
        known = self._known(sweep)
        if known is not None and known.info.lifecycle_stage == "deleted":
            self._is_deleted = True
            ids = {"experiment_id": str(known.info.experiment_id), "run_id": str(known.info.run_id)}
            return ids | {
                "deleted": f"the sweep's run {known.info.run_id} was deleted in MLflow; restore it to log again"
            }
        experiment = self._experiment(sweep.experiment, known)
        parent = self._parent = ParentRun.open(self.client, sweep, experiment, known)
        wanted = self._wanted or sweep.config.tracking.writer
        choice = self._choice or choose(self._database or self._uri, wanted)
        choice = for_run(choice, wanted, experiment, parent.run)
        child_runs = self._child_runs = ChildRuns(
            sweep.sweep_id,
            experiment.experiment_id,
            experiment.artifact_location,
            parent.run_id,
            parent.started_ms,
            current_user(),
        )
        client_writer = ClientWriter(self.client, child_runs, self._server.threads if self._server else 1)
        self._writer = BulkWriter(choice.database, child_runs, client_writer) if choice.database else client_writer
        if parent.is_resumed:
            self._writer.find_earlier()
        return {
            "experiment_id": child_runs.experiment_id,
            "run_id": parent.run_id,
            "writer": choice.name,
            "writer_reason": choice.reason,
        }

    def amend(self, sweep: TrackedSweep, chosen: dict[int, list[int]] | None) -> None:
        """Correct child runs of an earlier attempt to match the store.

        Args:
            sweep: The sweep; no more shards will be stored.
            chosen: Numbers of the trials that get runs, by shard; None means all.
        """
        done = sorted(sweep.files.shards.done())
        if self._parent is None or not self._parent.is_resumed or self._writer is None or not done:
            return
        assert self._child_runs is not None
        shards = sweep.files.shards
        tables = (
            (_chosen(shards.read(index, COLUMNS), index, chosen), shards.metadata(index)["steps"][-1]) for index in done
        )
        found = amend(self.client, self._child_runs, tables)
        self._writer.renew(found.runs)
        self._outdated = found.outdated

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        """Log rows of a shard file as child runs; yield the number of additional runs as they are logged.

        Raises:
            TrackingError: a run with a trial's id belongs to something else.
        """
        if self._is_deleted:
            yield len(table)
            return
        assert self._writer is not None, "start() comes first"
        assert self._child_runs is not None
        curves = sum(pa.types.is_list(field.type) for field in table.schema if field.name != "final")
        most = max(1, min(_PACK_TRIALS, _PACK_POINTS // max(1, curves * len(steps))))
        packs = -(-len(table) // most)
        for pack in range(packs):
            first, end = len(table) * pack // packs, len(table) * (pack + 1) // packs
            rows = table.slice(first, end - first)
            child_runs = self._child_runs
            runs = trial_runs(rows, steps, self._names, child_runs.sweep_id, self._points, child_runs.started_ms)
            yield from self._writer.write(runs)

    def end_trials(self) -> None:
        """Close the writer after the last trial."""
        if self._writer is not None:
            self._writer.close()

    def runs_of(self, trials: dict[str, int]) -> dict[str, str]:
        """Return the run ids of trials that have runs, by trial id; ``trials`` maps trial ids to numbers."""
        assert self._writer is not None, "start() comes first"
        assert self._child_runs is not None
        ids = [self._writer.run_id(number, trial_id) for trial_id, number in trials.items()]
        named = ", ".join(f"'{run_id}'" for run_id in ids if run_id)
        if not named:
            return {}
        experiments = [self._child_runs.experiment_id]
        found = self.client.search_runs(experiments, f"attributes.run_id IN ({named})", max_results=len(ids))
        return {run.data.tags[TRIAL_ID]: str(run.info.run_id) for run in found if TRIAL_ID in run.data.tags}

    def log_model(self, model: BestModel, run_id: str | None, register: str | None) -> ModelPlace:
        """Log a trial's model to its run, or to the parent run if None; register it as ``register`` if given."""
        from sweeps.tracking.mlflow.logged_model import log_model

        assert self._parent is not None, "start() comes first"
        assert self._child_runs is not None
        runs, run = self._child_runs, run_id or self._parent.run_id
        return log_model(self.client, runs.experiment_id, run, runs.sweep_id, model, register)

    def finish(
        self,
        sweep: TrackedSweep,
        metrics: dict[str, float],
        tags: dict[str, str],
        complete: bool = True,
        page: RunPage | None = None,
    ) -> None:
        """Log the parent's metrics, tags, page and artifacts; mark it as finished, or failed if trials are missing."""
        assert self._parent is not None, "start() comes first"
        while self._outdated:
            self.client.delete_run(self._outdated[-1])
            self._outdated.pop()
        self._parent.finish(sweep, metrics, tags, page)
        self._parent.end("FINISHED" if complete else "FAILED", sweep.files.ended_ms)

    def logged_runs(self, sweep: TrackedSweep) -> Iterator[LoggedRun]:
        """Yield all runs of a sweep, including the parent; none if the experiment does not exist."""
        experiment_id = self._experiment_id(sweep)
        return logged_runs(self.client, experiment_id, sweep.sweep_id) if experiment_id else iter(())

    def deleted_trials(self, sweep: TrackedSweep) -> set[str]:
        """Return the ids of trials with a deleted run; an empty id stands for the parent."""
        experiment_id = self._experiment_id(sweep)
        found = logged_runs(self.client, experiment_id, sweep.sweep_id, deleted=True) if experiment_id else ()
        return {run.trial_id for run in found}

    def read_run(self, run_id: str) -> LoggedRun:
        """Return one run."""
        return to_logged_run(self.client.get_run(run_id))

    def hurry(self) -> None:
        """Stop waiting for a server that rejects calls, so that the sweep can end."""
        if self._server is not None:
            self._server.hurry()

    def interrupt(self) -> None:
        """Mark the parent run as killed."""
        if self._parent is not None:
            self._parent.end("KILLED")

    def _create(self, path: Path) -> None:
        """Create the database if it does not exist or is incomplete."""
        if (moved := create_missing(path)) is not None:
            self.notices.append(
                f"{path} is incomplete and empty; renamed it to {moved.name} and created a new database"
            )

    def _search_experiments(self) -> list[Experiment]:
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return list(self.client.search_experiments(max_results=1))
        except (MlflowException, SQLAlchemyError, CommandError, OSError, ImportError, ValueError) as error:
            plain = TrackingError(f"{self.uri}: MLflow cannot be used there: {first_line(error)}")
            raise self._refusal(error, "read experiments") or plain from error

    def _known(self, sweep: TrackedSweep) -> Run | None:
        return known_run(self.client, sweep.files.tracking_record.at(self.uri).get("run_id"))

    def _experiment(self, name: str, known: Run | None) -> Experiment:
        if known is not None:
            return usable(self.client.get_experiment(known.info.experiment_id), self.uri)
        return find_or_create(self.client, name, self._artifacts, self.uri)

    def _experiment_id(self, sweep: TrackedSweep) -> str | None:
        if (known := self._known(sweep)) is not None:
            return str(known.info.experiment_id)
        experiment = self.client.get_experiment_by_name(sweep.experiment)
        return None if experiment is None else str(experiment.experiment_id)

    def _refusal(self, error: Exception, wanted: str) -> TrackingError | None:
        if not is_server(self._uri):
            return None
        from sweeps.tracking.mlflow.server.permissions import refusal

        return refusal(self._uri, error, wanted)

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        """Hold a lock so that two sweeps in a new store do not both create MLflow's tables."""
        if self._artifacts is None:
            yield
            return
        with (self._artifacts.parent / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _chosen(table: pa.Table, index: int, chosen: dict[int, list[int]] | None) -> pa.Table:
    if chosen is None:
        return table
    return table.filter(pc.is_in(table["trial"], pa.array(chosen.get(index, []), pa.int64())))
