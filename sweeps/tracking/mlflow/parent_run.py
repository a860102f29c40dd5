"""The parent run of a sweep in MLflow: create or find it, describe it and end it, with MLflow's public client."""

from __future__ import annotations

import getpass
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.store.shard_times import now_ms
from sweeps.tracking.base import RunPage, TrackedSweep
from sweeps.tracking.names import SWEEP_ID, TAG
from sweeps.tracking.trial_runs import PARAM_LENGTH
from sweeps.version import __version__

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

_NOTE, _TABLES = "mlflow.note.content", "mlflow.loggedArtifacts"  # tags that MLflow's UI reads
_PARAMS_PER_CALL = 100  # MLflow's limit
_MAX_PARENT_PARAMS = 500
_MAX_KEY = 250  # characters; MLflow rejects longer keys, and the characters that _flatten replaces


class ParentRun:
    """The parent run of a sweep.

    Args:
        client: MLflow's client.
        run: The run in the state in which it was created or found.
        is_resumed: Whether it already existed, so it can have child runs.
    """

    def __init__(self, client: MlflowClient, run: Run, is_resumed: bool) -> None:
        """Wrap an existing run; use :meth:`open` to find or create one."""
        self._client, self._run, self.is_resumed = client, run, is_resumed

    @classmethod
    def open(cls, client: MlflowClient, sweep: TrackedSweep, experiment: Experiment, known: Run | None) -> ParentRun:
        """Take the known run, or find it by its tags, and set it to RUNNING, or create it; log config and data set."""
        is_sweep = f"tags.`{SWEEP_ID}` = '{sweep.sweep_id}' and tags.`sweeps.kind` = 'sweep'"
        found = [known] if known is not None else client.search_runs([experiment.experiment_id], is_sweep)
        if found:
            client.update_run(found[0].info.run_id, status="RUNNING")
            parent = cls(client, found[0], is_resumed=True)
        else:
            parent = cls(client, _create(client, sweep, experiment), is_resumed=False)
        parent._describe(sweep)
        return parent

    @property
    def run(self) -> Run:
        """The run in the state in which it was created or found."""
        return self._run

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return str(self._run.info.run_id)

    @property
    def started_ms(self) -> int:
        """The start time in milliseconds since 1970; also the timestamp of every point of the sweep's curves."""
        return int(self._run.info.start_time)

    def finish(
        self, sweep: TrackedSweep, metrics: dict[str, float], tags: dict[str, str], page: RunPage | None
    ) -> None:
        """Log metrics, tags, the sweep's files and the page."""
        from mlflow.entities import Metric, RunTag

        known = self._client.get_run(self.run_id).data.metrics
        changed = {key: value for key, value in metrics.items() if known.get(key) != value}
        ended = max(sweep.files.ended_ms or now_ms(), self.started_ms)
        points = [Metric(key, value, max(ended, self._after(key, known)), 0) for key, value in changed.items()]
        if page is not None:
            tags = tags | {_NOTE: page.note}
            # All points have the sweep's start time, so logging them again creates identical points.
            points += [Metric(key, v, self.started_ms, s) for key, curve in page.curves.items() for s, v in curve]
        self._client.log_batch(self.run_id, metrics=points, tags=[RunTag(key, value) for key, value in tags.items()])
        for path, folder in sweep.files.copies():
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(self.run_id, str(path), folder)
        if page is not None:
            self._log_page(page)

    def end(self, status: str, ended_ms: int | None = None) -> None:
        """End the run with an MLflow status, FINISHED, FAILED or KILLED, at the given time or now."""
        self._client.set_terminated(self.run_id, status, max(ended_ms or now_ms(), self.started_ms))

    def _after(self, key: str, known: dict[str, float]) -> int:
        """Return a time after all points of a metric: of two with equal time, MLflow takes the larger as the last."""
        history = self._client.get_metric_history(self.run_id, key) if key in known else ()
        return max((point.timestamp + 1 for point in history), default=0)

    def _describe(self, sweep: TrackedSweep) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param

        flat = _flatten(sweep.config.model_dump(mode="json", exclude_unset=True))
        params = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in list(flat.items())[:_MAX_PARENT_PARAMS]]
        # MLflow rejects new values of existing params, and the writer can differ between attempts.
        params = [param for param in params if param.key not in self._run.data.params]
        for first in range(0, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=params[first : first + _PARAMS_PER_CALL])
        data, facts = sweep.config.task.dataset, dict(sweep.manifest.get("data") or {})
        unused = {"weights"} if getattr(data, "weights", None) is None else set()  # as in runs of earlier versions
        dataset = Dataset(
            name=data.kind,
            digest=str(facts.pop("digest", ""))[:36],
            source_type="local" if hasattr(data, "path") else "code",
            source=json.dumps({key: value for key, value in data.model_dump(mode="json").items() if key not in unused}),
            schema=None,
            profile=json.dumps(facts),
        )
        self._client.log_inputs(self.run_id, [DatasetInput(dataset)])

    def _log_page(self, page: RunPage) -> None:
        """Log the page's artifacts; the UI shows those listed in a tag as tables."""
        with tempfile.TemporaryDirectory(prefix="sweeps-page-") as folder:
            for name, content in page.artifacts.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(self.run_id, folder)
        if page.tables:
            tables = [{"path": name, "type": "table"} for name in page.tables]
            self._client.set_tag(self.run_id, _TABLES, json.dumps(tables))


def current_user() -> str:
    """Return the user name of this process, or ``unknown``."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _create(client: MlflowClient, sweep: TrackedSweep, experiment: Experiment) -> Run:
    return client.create_run(
        experiment.experiment_id,
        sweep.files.started_ms,
        run_name=f"{sweep.config.name} {sweep.sweep_id}"[:250],
        tags={
            SWEEP_ID: sweep.sweep_id,
            "sweeps.kind": "sweep",
            "sweeps.version": __version__,
            "mlflow.user": current_user(),
            "mlflow.source.name": "sweeps",
            _NOTE: sweep.config.description or sweep.config.name,
            **{TAG + name: value for name, value in sweep.manifest.get("tags", {}).items()},
        },
    )


def _flatten(document: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(document, dict) and document:
        return {k: v for key, part in document.items() for k, v in _flatten(part, f"{prefix}{key}.").items()}
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return {k: v for i, part in enumerate(document) for k, v in _flatten(part, f"{prefix}{i}.").items()}
    return {re.sub(r"[^\w.\- :]", "-", prefix.rstrip("."))[:_MAX_KEY]: document}
