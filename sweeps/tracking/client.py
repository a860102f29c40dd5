"""The client writer: MLflow's public client only, for any tracking URI; one child run a trial, three calls each."""

from __future__ import annotations

import fcntl
import getpass
import http.client
import json
import logging
import math
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import __version__
from sweeps.config import HYPERPARAMETERS
from sweeps.errors import TrackingError
from sweeps.tracking.base import MAX_FINAL_METRICS, REDACTED, SWEEP_ID, TRIAL_ID, VERDICT, Sweep

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_PROBE_SECONDS = 5
_METRICS_PER_CALL = 1000  # MLflow's limits
_PARAMS_PER_CALL = 100
_PARAM_LENGTH = 6000
_MAX_PARENT_PARAMS = 500


class ClientTracker:
    """Logs through MlflowClient.

    Args:
        uri: any MLflow tracking URI.
        artifacts: where a new experiment keeps artifacts; None leaves that to the server.
    """

    def __init__(self, uri: str, artifacts: Path | None = None) -> None:
        """Nothing is imported or contacted yet."""
        self._uri, self._artifacts = uri, artifacts
        self._client: MlflowClient | None = None
        self._experiment_id = self._parent_id = self._sweep_id = ""
        self._started_ms = 0
        self._names: tuple[str, ...] = ()
        self._earlier: dict[str, tuple[str, bool]] = {}  # trial id: run id, and whether it is finished

    @property
    def uri(self) -> str:
        """Where to, without secrets."""
        return redacted(self._uri)

    @property
    def client(self) -> MlflowClient:
        """MLflow's client, made when first needed."""
        if self._client is None:
            _quiet()
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def check(self) -> None:
        """Probe the server or database with a short time limit, then ask it for one experiment.

        Raises:
            TrackingError: it cannot be reached, or refuses.
        """
        _quiet()
        if re.match(r"https?://", self._uri):
            self._probe_server()
        elif re.fullmatch(r"sqlite(\+\w+)?:/*(:memory:)?", self._uri):
            raise TrackingError(f"{self.uri}: a database in memory is gone before anybody can look at it")
        elif re.match(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://", self._uri):
            self._probe_database()
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._migration_lock():
                self.client.search_experiments(max_results=1)
        except (MlflowException, SQLAlchemyError, CommandError, OSError, ImportError, ValueError) as error:
            raise TrackingError(f"{self.uri}: MLflow cannot be used there: {_first_line(error)}") from error

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        """Two sweeps that start in a fresh store must not both make MLflow's tables."""
        if self._artifacts is None:
            yield
            return
        with (self._artifacts.parent / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _probe_server(self) -> None:
        try:
            request = urllib.request.Request(self._uri.rstrip("/") + "/health")
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
                return
        except urllib.error.HTTPError:
            return  # somebody answers; MLflow's client will say what is wrong
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise TrackingError(f"{self.uri}: the tracking server cannot be reached: {reason}") from error

    def _probe_database(self) -> None:
        import sqlalchemy

        options = {"connect_timeout": _PROBE_SECONDS} if self._uri.startswith("postgresql") else {}
        try:
            engine = sqlalchemy.create_engine(self._uri, connect_args=options)
            with engine.connect():
                pass
            engine.dispose()
        except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
            raise TrackingError(f"{self.uri}: the database cannot be opened: {_first_line(error)}") from error

    def start(self, sweep: Sweep) -> dict[str, str]:
        """Create or find the experiment and the sweep's parent run.

        Raises:
            TrackingError: the experiment is deleted.
        """
        client = self.client
        self._sweep_id = sweep.sweep_id
        self._names = sweep.parameter_names if len(sweep.parameter_names) <= MAX_FINAL_METRICS else ()
        self._experiment_id = self._experiment(sweep.experiment)
        found = client.search_runs(
            [self._experiment_id], f"tags.`{SWEEP_ID}` = '{sweep.sweep_id}' and tags.`sweeps.kind` = 'sweep'"
        )
        if found:
            parent = found[0]
            self._parent_id = parent.info.run_id
            client.update_run(self._parent_id, status="RUNNING")
            self._earlier = {
                run.data.tags[TRIAL_ID]: (run.info.run_id, run.info.status == "FINISHED") for run in self._children()
            }
        else:
            parent = client.create_run(
                self._experiment_id,
                run_name=f"{sweep.config.name} {sweep.sweep_id}"[:250],
                tags={
                    SWEEP_ID: sweep.sweep_id,
                    "sweeps.kind": "sweep",
                    "sweeps.version": __version__,
                    "mlflow.user": _user(),
                    "mlflow.source.name": "sweeps",
                    "mlflow.note.content": sweep.config.description or sweep.config.name,
                },
            )
            self._parent_id = parent.info.run_id
        self._started_ms = parent.info.start_time
        self._describe(sweep)
        return {"experiment_id": self._experiment_id, "run_id": self._parent_id}

    def _experiment(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = f"{self._artifacts.as_uri()}/{_slug(name)}" if self._artifacts else None
            return self.client.create_experiment(name, artifact_location=location)
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"{self.uri}: the experiment {name!r} is deleted; restore it, or name another one ('experiment:')"
            )
        return str(experiment.experiment_id)

    def _children(self) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self._experiment_id],
                f"tags.`mlflow.parentRunId` = '{self._parent_id}'",
                max_results=1000,
                page_token=token,
            )
            yield from (run for run in page if TRIAL_ID in run.data.tags)
            token = page.token
            if not token:
                return

    def _describe(self, sweep: Sweep) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param

        flat = _flatten(sweep.config.model_dump(mode="json", exclude_unset=True))
        params = [Param(key, str(value)[:_PARAM_LENGTH]) for key, value in list(flat.items())[:_MAX_PARENT_PARAMS]]
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

    def log_trial(self, row: dict[str, Any], steps: list[int]) -> None:
        """Log one trial as a child run: create, log, end. A run of it that an earlier try left unfinished is filled.

        All points carry the parent's start as their time, so that a repeated point is the same point.
        """
        from mlflow.entities import Metric, Param

        run_id, finished = self._earlier.get(row["trial_id"], ("", False))
        if finished:
            return
        run_id = run_id or self._create_child(row)
        starts = [key for key in row if key.startswith("init.")]
        params = [Param(key, str(row[key])) for key in (*HYPERPARAMETERS, "seed", *starts)]
        metrics = [Metric(k, v, self._started_ms, s) for k, v, s in trial_metrics(row, self._names, steps)]
        self.client.log_batch(run_id, metrics=metrics[:_METRICS_PER_CALL], params=params[:_PARAMS_PER_CALL])
        self._log_rest(run_id, metrics[_METRICS_PER_CALL:], params[_PARAMS_PER_CALL:])
        self.client.set_terminated(run_id, "FINISHED")

    def _create_child(self, row: dict[str, Any]) -> str:
        tags = {
            "mlflow.parentRunId": self._parent_id,
            "mlflow.user": _user(),
            SWEEP_ID: self._sweep_id,
            TRIAL_ID: row["trial_id"],
            VERDICT: row["verdict"],
        }
        run = self.client.create_run(self._experiment_id, tags=tags, run_name=f"trial {row['trial']}")
        return str(run.info.run_id)

    def _log_rest(self, run_id: str, metrics: list[Metric], params: list[Any]) -> None:
        for first in range(0, len(metrics), _METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[first : first + _METRICS_PER_CALL])
        for first in range(0, len(params), _PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=params[first : first + _PARAMS_PER_CALL])

    def finish(self, sweep: Sweep, metrics: dict[str, float], tags: dict[str, str], complete: bool = True) -> None:
        """Write the parent's metrics, tags and artifacts, and mark it finished, or failed where trials are missing."""
        from mlflow.entities import Metric, RunTag

        self.client.log_batch(
            self._parent_id,
            metrics=[Metric(key, value, self._started_ms, 0) for key, value in metrics.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        self.client.log_artifact(self._parent_id, str(sweep.files.config_path))
        self.client.log_artifact(self._parent_id, str(sweep.files.plan_path))
        for folder in (sweep.files.shards_folder, sweep.files.report_folder):
            if folder.is_dir():
                self.client.log_artifacts(self._parent_id, str(folder), folder.name)
        self.client.set_terminated(self._parent_id, "FINISHED" if complete else "FAILED")

    def interrupt(self) -> None:
        """Mark the parent as killed: somebody stopped the sweep."""
        if self._parent_id:
            self.client.set_terminated(self._parent_id, "KILLED")


def trial_metrics(row: dict[str, Any], names: tuple[str, ...], steps: list[int]) -> Iterator[tuple[str, float, int]]:
    """(key, value, step) of all that a trial logs; what is missing or not finite is left out."""
    last = steps[-1]
    curves = {"loss": row["loss"], "validation_loss": row.get("validation_loss")}
    curves |= {f"param/{name}": row.get(f"param.{name}") for name in names}
    for key, values in curves.items():
        for step, value in zip(steps, values or (), strict=False):
            if value is not None and math.isfinite(value):
                yield key, value, step
    figures = {"final_loss": row["final_loss"], "best_loss": row["best_loss"]}
    figures |= {f"final/{name}": value for name, value in zip(names, row["final"], strict=bool(names))}
    figures |= {
        key: row[key] for key in ("first_nonfinite_step", "steps_to_tolerance", "overshoot_percent", "peak_value")
    }
    for key, value in figures.items():
        if value is not None and math.isfinite(value):
            yield key, float(value), last


def redacted(uri: str) -> str:
    """The URI without a password."""
    return re.sub(r"(://[^:/@\s]*):[^@/\s]*@", rf"\1:{REDACTED}@", uri)


def _flatten(document: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(document, dict) and document:
        return {k: v for key, part in document.items() for k, v in _flatten(part, f"{prefix}{key}.").items()}
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return {k: v for i, part in enumerate(document) for k, v in _flatten(part, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): document}


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "experiment"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _quiet() -> None:
    """MLflow reads its switches from the environment; what the user has set stays."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
