"""The tracker: the experiment and the sweep's parent run by MLflow's public client; a writer does the trials."""

from __future__ import annotations

import fcntl
import getpass
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from sweeps import __version__
from sweeps.config.schema import WriterName
from sweeps.errors import TrackingError
from sweeps.text.redact import first_line, redact_uri
from sweeps.tracking.base import ModelPlace, RunPage, TrackedSweep
from sweeps.tracking.mlflow.bulk_writer import BulkWriter
from sweeps.tracking.mlflow.client_writer import ClientWriter
from sweeps.tracking.mlflow.connection import is_server, probe, quiet
from sweeps.tracking.mlflow.database.base import opened
from sweeps.tracking.mlflow.reconcile import COLUMNS, amend
from sweeps.tracking.mlflow.writer import ChildRuns, Writer
from sweeps.tracking.mlflow.writer_choice import ChosenWriter, check_server, choose, for_run
from sweeps.tracking.names import MAX_FINAL_METRICS, SWEEP_ID, TAG, TRIAL_ID
from sweeps.tracking.trial_runs import PARAM_LENGTH, trial_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

    from sweeps.tracking.base import BestModel
    from sweeps.tracking.mlflow.server.client import ServerClient

_NOTE, _TABLES = "mlflow.note.content", "mlflow.loggedArtifacts"  # tags that MLflow's UI reads
_PARAMS_PER_CALL = 100  # MLflow's limit
_MAX_PARENT_PARAMS = 500
_MAX_KEY = 250  # characters; MLflow refuses longer ones, and other characters than _flatten leaves
# MLflow's UI would guess it; its 3.17 opens an experiment as the browser's own switch says, whatever the kind.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_PACK_TRIALS = 1000  # a transaction holds at most so many trials
_PACK_POINTS = 200_000  # and about so many points


class MlflowTracker:
    """Logs sweeps to MLflow.

    Args:
        uri: any MLflow tracking URI.
        artifacts: where a new experiment keeps artifacts; None leaves that to the server.
        database: the URI of the database behind a tracking server, for the bulk writer.
    """

    def __init__(self, uri: str, artifacts: Path | None = None, database: str | None = None) -> None:
        """Nothing is imported or contacted yet."""
        self._uri, self._artifacts, self._database = uri, artifacts, database
        self._client: MlflowClient | None = None
        self._server: ServerClient | None = None  # the client, where it is a tracking server's
        self._choice: ChosenWriter | None = None
        self._wanted: WriterName | None = None  # the writer that check() was asked for
        self._writer: Writer | None = None
        self._sweep_id = self._parent_id = self._experiment_id = ""
        self._started_ms = 0
        self._earlier: ChildRuns | None = None  # the sweep, where it was logged before
        self._outdated: list[str] = []  # runs to be deleted in the end
        self._names: tuple[str, ...] = ()
        self._points: int | None = None

    @property
    def uri(self) -> str:
        """Where to, without secrets."""
        return redact_uri(self._uri)

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, made when first needed."""
        if self._client is None:
            quiet()
            if is_server(self._uri):
                from sweeps.tracking.mlflow.server.client import ServerClient

                self._client = self._server = ServerClient(self._uri)
            else:
                from mlflow import MlflowClient

                self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def check(self, writer: WriterName = "auto") -> None:
        """Probe the server or database with a short time limit, ask it for one experiment, and choose the writer.

        Raises:
            TrackingError: it cannot be reached, or refuses, or the writer asked for cannot be used there.
        """
        quiet()
        probe(self._uri)
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._migration_lock():
                experiments = self.client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError, CommandError, OSError, ImportError, ValueError) as error:
            plain = TrackingError(f"{self.uri}: MLflow cannot be used there: {first_line(error)}")
            raise self._refusal(error, "look at experiments") or plain from error
        if self._database is not None:
            opened(self._database).connect().close()  # who names a database wants it to be used
        self._choice, self._wanted = choose(self._database or self._uri, writer), writer
        if self._database is not None and self._choice.database is not None:
            check_server(self._choice.database, experiments)

    @property
    def choice(self) -> ChosenWriter:
        """After check(): the writer."""
        assert self._choice is not None, "check() comes first"
        return self._choice

    def open(self, experiment: str) -> None:
        """Find or make the experiment that a sweep is to be logged to.

        Raises:
            TrackingError: it is deleted, or the server does not let this user log to it.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self._experiment(experiment)
        except MlflowException as error:
            plain = TrackingError(f"{self.uri}: the experiment {experiment!r} cannot be used: {first_line(error)}")
            raise self._refusal(error, "make experiments") or plain from error
        if is_server(self._uri):
            from sweeps.tracking.mlflow.server.permissions import check_may_log

            check_may_log(self._uri, found)

    def _refusal(self, error: Exception, wanted: str) -> TrackingError | None:
        if not is_server(self._uri):
            return None
        from sweeps.tracking.mlflow.server.permissions import refusal

        return refusal(self._uri, error, wanted)

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        """Two sweeps that start in a fresh store must not both make MLflow's tables."""
        if self._artifacts is None:
            yield
            return
        with (self._artifacts.parent / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def start(self, sweep: TrackedSweep) -> dict[str, str]:
        """Create or find the experiment and the sweep's parent run, and settle which writer logs its trials.

        Raises:
            TrackingError: the experiment is deleted, or not one that the writer asked for can log to.
        """
        self._names = sweep.parameter_names if len(sweep.parameter_names) <= MAX_FINAL_METRICS else ()
        self._sweep_id, self._points = sweep.sweep_id, sweep.config.tracking.points
        experiment = self._experiment(sweep.experiment)
        self._experiment_id = str(experiment.experiment_id)
        parent, resumed = self._parent(sweep, experiment)
        self._parent_id, self._started_ms = parent.info.run_id, parent.info.start_time
        self._describe(sweep, parent.data.params)
        wanted = self._wanted or sweep.config.tracking.writer
        choice = for_run(self._choice or choose(self._database or self._uri, wanted), wanted, experiment, parent)
        child_runs = ChildRuns(
            sweep.sweep_id,
            experiment.experiment_id,
            experiment.artifact_location,
            self._parent_id,
            self._started_ms,
            _user(),
        )
        client_writer = ClientWriter(self.client, child_runs, self._server.threads if self._server else 1)
        self._writer = BulkWriter(choice.database, child_runs, client_writer) if choice.database else client_writer
        if resumed:
            self._earlier = child_runs
            self._writer.find_earlier()
        return {
            "experiment_id": child_runs.experiment_id,
            "run_id": self._parent_id,
            "writer": choice.name,
            "writer_reason": choice.reason,
        }

    def _parent(self, sweep: TrackedSweep, experiment: Experiment) -> tuple[Run, bool]:
        """The sweep's parent run, and whether it was there before."""
        found = self.client.search_runs(
            [experiment.experiment_id], f"tags.`{SWEEP_ID}` = '{sweep.sweep_id}' and tags.`sweeps.kind` = 'sweep'"
        )
        if found:
            self.client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0], True
        parent = self.client.create_run(
            experiment.experiment_id,
            run_name=f"{sweep.config.name} {sweep.sweep_id}"[:250],
            tags={
                SWEEP_ID: sweep.sweep_id,
                "sweeps.kind": "sweep",
                "sweeps.version": __version__,
                "mlflow.user": _user(),
                "mlflow.source.name": "sweeps",
                _NOTE: sweep.config.description or sweep.config.name,
                **{TAG + name: value for name, value in sweep.manifest.get("tags", {}).items()},
            },
        )
        return parent, False

    def _experiment(self, name: str) -> Experiment:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = f"{self._artifacts.as_uri()}/{_slug(name)}" if self._artifacts else None
            return self.client.get_experiment(self.client.create_experiment(name, location, _KIND))
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"{self.uri}: the experiment {name!r} is deleted; restore it, or name another one ('experiment:')"
            )
        return experiment

    def _describe(self, sweep: TrackedSweep, known: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param

        flat = _flatten(sweep.config.model_dump(mode="json", exclude_unset=True))
        params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in list(flat.items())[:_MAX_PARENT_PARAMS]]
        # MLflow refuses other values for params that are there, and another writer is one.
        params = [param for param in params if param.key not in known]
        for first in range(0, len(params), _PARAMS_PER_CALL):
            self.client.log_batch(self._parent_id, params=params[first : first + _PARAMS_PER_CALL])
        data = sweep.config.task.dataset
        dataset = Dataset(
            name=data.kind,
            digest=str(sweep.manifest["data"]["digest"])[:36],
            source_type="local" if hasattr(data, "path") else "code",
            source=json.dumps(data.model_dump(mode="json")),
            schema=None,
            profile=json.dumps({k: v for k, v in sweep.manifest["data"].items() if k != "digest"}),
        )
        self.client.log_inputs(self._parent_id, [DatasetInput(dataset)])

    def amend(self, sweep: TrackedSweep, chosen: dict[int, list[int]] | None) -> None:
        """Bring what an earlier try has logged in line with the store.

        Args:
            sweep: all of whose shards are stored that will be.
            chosen: the trials, by shard, that are to have runs; None is all.
        """
        if self._earlier is None or self._writer is None or not (done := sorted(sweep.files.shards.done())):
            return
        tables = (_chosen(sweep.files.shards.read(index, COLUMNS), index, chosen) for index in done)
        found = amend(self.client, self._earlier, tables, sweep.files.shards.metadata()["steps"][-1])
        self._writer.renew(found.runs)
        self._outdated = found.outdated

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        """Log rows of a shard file as child runs; yields a number of trials whenever so many more are in MLflow.

        Raises:
            TrackingError: a run is there that has this trial's id, and is not this trial's.
        """
        assert self._writer is not None, "start() comes first"
        curves = sum(pa.types.is_list(field.type) for field in table.schema if field.name != "final")
        most = max(1, min(_PACK_TRIALS, _PACK_POINTS // max(1, curves * len(steps))))
        packs = -(-len(table) // most)
        for pack in range(packs):
            first, end = len(table) * pack // packs, len(table) * (pack + 1) // packs
            rows = table.slice(first, end - first)
            yield from self._writer.write(trial_runs(rows, steps, self._names, self._sweep_id, self._points))

    def end_trials(self) -> None:
        """No more trials come: what the writer holds open is closed."""
        if self._writer is not None:
            self._writer.close()

    def runs_of(self, trials: dict[str, int]) -> dict[str, str]:
        """The run ids of some trials (number by trial id), as far as they have runs of their own."""
        assert self._writer is not None, "start() comes first"
        ids = [self._writer.run_id(number, trial_id) for trial_id, number in trials.items()]
        named = ", ".join(f"'{run_id}'" for run_id in ids if run_id)
        if not named:
            return {}
        found = self.client.search_runs([self._experiment_id], f"attributes.run_id IN ({named})", max_results=len(ids))
        return {run.data.tags[TRIAL_ID]: str(run.info.run_id) for run in found if TRIAL_ID in run.data.tags}

    def log_model(self, model: BestModel, run_id: str | None, register: str | None) -> ModelPlace:
        """Log a trial's model onto its run, or else the parent, and register it under a name if one is given."""
        from sweeps.tracking.mlflow.logged_model import log_model

        run = run_id or self._parent_id
        return log_model(self.client, self._experiment_id, run, self._sweep_id, model, register)

    def finish(
        self,
        sweep: TrackedSweep,
        metrics: dict[str, float],
        tags: dict[str, str],
        complete: bool = True,
        page: RunPage | None = None,
    ) -> None:
        """Write the parent's metrics, tags, page and artifacts; mark it finished, or failed if trials are missing."""
        from mlflow.entities import Metric, RunTag

        while self._outdated:
            self.client.delete_run(self._outdated[-1])
            self._outdated.pop()
        # Of two points at one time and step MLflow takes the greater for the last; what is as it was is not said again.
        known, now = self.client.get_run(self._parent_id).data.metrics, time.time_ns() // 1_000_000
        points = [Metric(key, value, now, 0) for key, value in metrics.items() if known.get(key) != value]
        if page is not None:
            tags = tags | {_NOTE: page.note}
            # All at the sweep's start, so that a repeated point is the same point.
            points += [Metric(key, v, self._started_ms, s) for key, curve in page.curves.items() for s, v in curve]
        self.client.log_batch(self._parent_id, metrics=points, tags=[RunTag(key, value) for key, value in tags.items()])
        for path, folder in sweep.files.copies():
            log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            log(self._parent_id, str(path), folder)
        if page is not None:
            self._log_page(page)
        self.client.set_terminated(self._parent_id, "FINISHED" if complete else "FAILED")

    def _log_page(self, page: RunPage) -> None:
        """The page's artifacts; the UI shows as tables those that are in a tag."""
        with tempfile.TemporaryDirectory(prefix="sweeps-page-") as folder:
            for name, content in page.artifacts.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.client.log_artifacts(self._parent_id, folder)
        if page.tables:
            tables = [{"path": name, "type": "table"} for name in page.tables]
            self.client.set_tag(self._parent_id, _TABLES, json.dumps(tables))

    def hurry(self) -> None:
        """Somebody is waiting for the end: wait no more for a server that refuses calls."""
        if self._server is not None:
            self._server.hurry()

    def interrupt(self) -> None:
        """Mark the parent as killed: somebody stopped the sweep."""
        if self._parent_id:
            self.client.set_terminated(self._parent_id, "KILLED")


def _chosen(table: pa.Table, index: int, chosen: dict[int, list[int]] | None) -> pa.Table:
    return (
        table if chosen is None else table.filter(pc.is_in(table["trial"], pa.array(chosen.get(index, []), pa.int64())))
    )


def _flatten(document: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(document, dict) and document:
        return {k: v for key, part in document.items() for k, v in _flatten(part, f"{prefix}{key}.").items()}
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return {k: v for i, part in enumerate(document) for k, v in _flatten(part, f"{prefix}{i}.").items()}
    return {re.sub(r"[^\w.\- :]", "-", prefix.rstrip("."))[:_MAX_KEY]: document}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "experiment"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
