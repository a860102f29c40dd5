"""The client writer: log trials with MLflow's public client, for any tracking URI, in three calls each."""

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

_ENTITIES_PER_CALL = 1000  # MLflow's limit on metrics and params together
_PARAMS_PER_CALL = 100  # MLflow's limit
_DELETED, _UNFINISHED, _FINISHED = range(3)  # of several runs of one trial, the one with the highest rank counts


class ClientWriter:
    """A writer that logs a trial in three calls: create, log, end. It completes unfinished runs of earlier attempts.

    Args:
        client: MLflow's client.
        child_runs: Values shared by the sweep's child runs.
        threads: Number of threads that log trials concurrently.
    """

    def __init__(self, client: MlflowClient, child_runs: ChildRuns, threads: int = 1) -> None:
        """Store the arguments; nothing is logged yet."""
        self._client, self._child_runs, self._threads = client, child_runs, threads
        self._earlier: dict[str, tuple[str, bool]] = {}  # trial id: (run id, whether the run is complete)

    def find_earlier(self) -> None:
        """Find child runs that were logged earlier; deleted runs stay deleted.

        A server can execute a call long after the client gave up and retried it, which creates a second run of a trial.
        The less complete of the two is deleted.
        """
        found: dict[str, tuple[int, str]] = {}
        for run in children(self._client, self._child_runs):
            trial_id, this = run.data.tags[TRIAL_ID], (_worth(run), str(run.info.run_id))
            lesser, found[trial_id] = sorted((found.get(trial_id, (_DELETED, "")), this))
            if lesser[0] != _DELETED:
                self._client.delete_run(lesser[1])
        self._earlier = {trial_id: (run_id, worth != _UNFINISHED) for trial_id, (worth, run_id) in found.items()}

    def renew(self, earlier: dict[str, tuple[str, bool]]) -> None:
        """Replace the known runs of trials."""
        self._earlier |= earlier

    def adopt(self, earlier: dict[str, tuple[str, bool]]) -> None:
        """Use the runs that another writer found."""
        self._earlier = earlier

    def write(self, runs: TrialRuns) -> Iterator[int]:
        """Log trials that are not logged yet; yield 1 after each.

        If a trial fails or the generator is closed, trials in progress are finished and no others are started.
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
        metrics = [Metric(key, value, timestamp, step) for key, value, step, timestamp in runs.metrics(index)]
        first = _ENTITIES_PER_CALL - min(len(params), _PARAMS_PER_CALL)
        self._client.log_batch(run_id, metrics=metrics[:first], params=params[:_PARAMS_PER_CALL])
        for at in range(first, len(metrics), _ENTITIES_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[at : at + _ENTITIES_PER_CALL])
        for at in range(_PARAMS_PER_CALL, len(params), _PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=params[at : at + _PARAMS_PER_CALL])
        self._client.set_terminated(run_id, "FINISHED", int(runs.ended[index]))
        self._earlier[runs.ids[index]] = run_id, True

    def _create(self, runs: TrialRuns, index: int) -> str:
        tags = {"mlflow.parentRunId": self._child_runs.parent_id, "mlflow.user": self._child_runs.user}
        tags |= {key: texts[index] for key, texts in runs.tags.items()}
        experiment_id, started = self._child_runs.experiment_id, int(runs.started[index])
        run = self._client.create_run(experiment_id, started, tags=tags, run_name=runs.name(index))
        self._earlier[runs.ids[index]] = str(run.info.run_id), False
        return str(run.info.run_id)

    def run_id(self, number: int, trial_id: str) -> str | None:
        """Return the id of the trial's run, if it is known."""
        return self._earlier.get(trial_id, (None, False))[0]

    def close(self) -> None:
        """Do nothing: the writer holds no resources."""


def children(client: MlflowClient, child_runs: ChildRuns, deleted: bool = True) -> Iterator[Run]:
    """Yield the runs of a sweep's trials from all writers."""
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
