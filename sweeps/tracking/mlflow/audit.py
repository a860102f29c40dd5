"""Read the runs of a sweep back with MLflow's public client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sweeps.tracking.base import LoggedRun
from sweeps.tracking.names import SWEEP_ID, TRIAL_ID, VERDICT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000  # runs per call


def logged_runs(client: MlflowClient, experiment_id: str, sweep_id: str, deleted: bool = False) -> Iterator[LoggedRun]:
    """Yield all runs of a sweep, including the parent: those that are deleted, or those that are not."""
    from mlflow.entities import ViewType

    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id],
            f"tags.`{SWEEP_ID}` = '{sweep_id}'",
            ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY,
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
