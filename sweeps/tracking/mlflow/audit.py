"""Audit: what MLflow holds of a sweep, read by its public client, and what it ought to hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from sweeps.tracking.base import TrackedSweep
from sweeps.tracking.names import MAX_FINAL_METRICS, SWEEP_ID, TRIAL_ID, VERDICT
from sweeps.tracking.trial_runs import trial_runs

if TYPE_CHECKING:
    from mlflow.entities import Run

    from sweeps.tracking.mlflow.tracker import MlflowTracker

_PAGE = 1000


@dataclass(frozen=True)
class LoggedRun:
    """A run as MLflow has it: each fact by its name, of metrics the last value. ``trial_id`` is empty for a parent."""

    run_id: str
    trial_id: str
    facts: dict[str, str | float]

    @property
    def not_finite(self) -> list[str]:
        """Metrics that ought never to be there."""
        return [name for name, fact in self.facts.items() if isinstance(fact, float) and not math.isfinite(fact)]


def logged_runs(tracker: MlflowTracker, sweep: TrackedSweep) -> Iterator[LoggedRun]:
    """All runs of the sweep, its parent among them; none where the experiment is not there."""
    experiment = tracker.client.get_experiment_by_name(sweep.experiment)
    if experiment is None:
        return
    token: str | None = None
    while True:
        page = tracker.client.search_runs(
            [experiment.experiment_id],
            f"tags.`{SWEEP_ID}` = '{sweep.sweep_id}'",
            max_results=_PAGE,
            page_token=token,
        )
        yield from map(_logged, page)
        token = page.token
        if not token:
            return


def read_run(tracker: MlflowTracker, run_id: str) -> LoggedRun:
    """One run."""
    return _logged(tracker.client.get_run(run_id))


def expected_runs(sweep: TrackedSweep, table: pa.Table, steps: list[int]) -> Iterator[LoggedRun]:
    """What MLflow ought to hold of the trials of a shard file's rows, as :func:`logged_runs` tells it."""
    names = sweep.parameter_names if len(sweep.parameter_names) <= MAX_FINAL_METRICS else ()
    runs = trial_runs(table, steps, names, sweep.sweep_id, sweep.config.tracking.points)
    for index in range(len(runs)):
        facts: dict[str, str | float] = {"status": "FINISHED", "verdict": runs.tags[VERDICT][index]}
        facts |= {f"param {key}": texts[index] for key, texts in runs.params.items()}
        facts |= {f"metric {key}": value for key, value, _ in runs.metrics(index)}  # by step: the last one stays
        yield LoggedRun("", runs.ids[index], facts)


def _logged(run: Run) -> LoggedRun:
    tags = run.data.tags
    facts: dict[str, str | float] = {"status": run.info.status, "verdict": tags.get(VERDICT, "")}
    facts |= {f"param {key}": value for key, value in run.data.params.items()}
    facts |= {f"metric {key}": value for key, value in run.data.metrics.items()}
    return LoggedRun(run.info.run_id, tags.get(TRIAL_ID, ""), facts)
