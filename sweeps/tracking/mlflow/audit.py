"""Read the runs of a sweep back with MLflow's public client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sweeps.tracking.base import LoggedRun, TrackedSweep
from sweeps.tracking.names import SWEEP_ID, TRIAL_ID, VERDICT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000  # runs per call


def logged_runs(client: MlflowClient, sweep: TrackedSweep) -> Iterator[LoggedRun]:
    """Yield all runs of a sweep, including the parent; none if the experiment does not exist."""
    experiment = client.get_experiment_by_name(sweep.experiment)
    if experiment is None:
        return
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id],
            f"tags.`{SWEEP_ID}` = '{sweep.sweep_id}'",
            max_results=_PAGE,
            page_token=token,
        )
        yield from map(to_logged_run, page)
        token = page.token
        if not token:
            return


def to_logged_run(run: Run) -> LoggedRun:
    """Convert an MLflow run to its status, verdict, params and metrics."""
    tags = run.data.tags
    facts: dict[str, str | float] = {"status": run.info.status, "verdict": tags.get(VERDICT, "")}
    facts |= {f"param {key}": value for key, value in run.data.params.items()}
    facts |= {f"metric {key}": value for key, value in run.data.metrics.items()}
    return LoggedRun(run.info.run_id, tags.get(TRIAL_ID, ""), facts)
