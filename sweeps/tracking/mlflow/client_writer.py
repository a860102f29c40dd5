"""The client writer: trials through MLflow's public client only, for any tracking URI; three calls each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import TYPE_CHECKING

from sweeps.tracking.mlflow.writer import ChildRuns
from sweeps.tracking.names import TRIAL_ID
from sweeps.tracking.trial_runs import TrialRuns

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_ENTITIES_PER_CALL = 1000  # MLflow's limits: metrics and params together,
_PARAMS_PER_CALL = 100
_DELETED, _UNFINISHED, _FINISHED = range(3)  # of several runs of one trial, the greatest counts


class ClientWriter:
    """Logs a trial in three calls: create, log, end. A run of it that an earlier try left unfinished is filled.

    Args:
        client: MLflow's client.
        family: the sweep.
        threads: that log trials at the same time.
    """

    def __init__(self, client: MlflowClient, child_runs: ChildRuns, threads: int = 1) -> None:
        """Nothing is logged yet."""
        self._client, self._family, self._threads = client, child_runs, threads
        self._earlier: dict[str, tuple[str, bool]] = {}  # trial id: run id, and whether it is all there

    def find_earlier(self) -> None:
        """Look for child runs that were logged before; one that somebody deleted stays deleted.

        A server may carry out a call long after it was given up and repeated, which makes a second run of a trial: the
        lesser of the two is deleted.
        """
        found: dict[str, tuple[int, str]] = {}
        for run in children(self._client, self._family):
            trial_id, this = run.data.tags[TRIAL_ID], (_worth(run), str(run.info.run_id))
            lesser, found[trial_id] = sorted((found.get(trial_id, (_DELETED, "")), this))
            if lesser[0] != _DELETED:
                self._client.delete_run(lesser[1])
        self._earlier = {trial_id: (run_id, worth != _UNFINISHED) for trial_id, (worth, run_id) in found.items()}

    def renew(self, earlier: dict[str, tuple[str, bool]]) -> None:
        """Of these trials other runs count than was found, or none yet."""
        self._earlier |= earlier

    def adopt(self, earlier: dict[str, tuple[str, bool]]) -> None:
        """Take over what another writer knows of earlier runs."""
        self._earlier = earlier

    def write(self, runs: TrialRuns) -> Iterator[int]:
        """Log the trials that are not logged; yields 1 after each.

        When one trial fails or nobody wants more, those under way are ended, and no others begun.
        """
        failure: BaseException | None = None
        failed = Event()

        def log(index: int) -> int:
            if failed.is_set():
                return 0
            try:
                self._write(runs, index)
            except BaseException:
                failed.set()
                raise
            return 1

        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tracking")
        try:
            for trial in as_completed([pool.submit(log, index) for index in range(len(runs))]):
                if (error := trial.exception()) is not None:
                    failure = failure or error
                elif trial.result():
                    yield 1
        finally:
            failed.set()
            pool.shutdown(cancel_futures=True)
        if failure is not None:
            raise failure

    def _write(self, runs: TrialRuns, index: int) -> None:
        from mlflow.entities import Metric, Param

        run_id, finished = self._earlier.get(runs.ids[index], ("", False))
        if finished:
            return
        run_id = run_id or self._create(runs, index)
        params = [Param(key, texts[index]) for key, texts in runs.params.items()]
        metrics = [Metric(key, value, self._family.started_ms, step) for key, value, step in runs.metrics(index)]
        first = _ENTITIES_PER_CALL - min(len(params), _PARAMS_PER_CALL)
        self._client.log_batch(run_id, metrics=metrics[:first], params=params[:_PARAMS_PER_CALL])
        for at in range(first, len(metrics), _ENTITIES_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[at : at + _ENTITIES_PER_CALL])
        for at in range(_PARAMS_PER_CALL, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[at : at + _PARAMS_PER_CALL])
        self._client.set_terminated(run_id, "FINISHED")
        self._earlier[runs.ids[index]] = run_id, True

    def _create(self, runs: TrialRuns, index: int) -> str:
        tags = {"mlflow.parentRunId": self._family.parent_id, "mlflow.user": self._family.user}
        tags |= {key: texts[index] for key, texts in runs.tags.items()}
        run = self._client.create_run(self._family.experiment_id, tags=tags, run_name=runs.name(index))
        self._earlier[runs.ids[index]] = str(run.info.run_id), False
        return str(run.info.run_id)

    def run_id(self, number: int, trial_id: str) -> str | None:
        """The id of the trial's run, if it is known."""
        return self._earlier.get(trial_id, (None, False))[0]

    def close(self) -> None:
        """Nothing is held open."""


def children(client: MlflowClient, child_runs: ChildRuns, deleted: bool = True) -> Iterator[Run]:
    """The runs of a sweep's trials, whoever has logged them."""
    from mlflow.entities import ViewType

    token = None
    while True:
        page = client.search_runs(
            [child_runs.experiment_id],
            f"tags.`mlflow.parentRunId` = '{child_runs.parent_id}'",
            ViewType.ALL if deleted else ViewType.ACTIVE_ONLY,
            max_results=1000,
            page_token=token,
        )
        yield from (run for run in page if TRIAL_ID in run.data.tags)
        token = page.token
        if not token:
            return


def _worth(run: Run) -> int:
    if run.info.lifecycle_stage == "deleted":
        return _DELETED
    return _FINISHED if run.info.status == "FINISHED" else _UNFINISHED
