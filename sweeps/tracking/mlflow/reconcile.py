"""Correct runs that were logged while shards were missing.

If a sweep logs only its best trials, others can be the best once all shards are stored. A network's verdict and
``steps_to_tolerance`` depend on the best loss of the whole sweep. Everything else in a run is final once logged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sweeps.tracking.mlflow.client_writer import children
from sweeps.tracking.mlflow.writer import ChildRuns
from sweeps.tracking.names import TRIAL_ID, VERDICT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COLUMNS = ["trial", "trial_id", "verdict", "steps_to_tolerance"]  # columns of shard files that amend() needs
_STEPS = "steps_to_tolerance"


@dataclass
class Amendments:
    """The changes that a writer must know about."""

    # By trial id: the id of the run that counts ("" if none), and whether it is complete.
    runs: dict[str, tuple[str, bool]] = field(default_factory=dict)
    outdated: list[str] = field(default_factory=list)  # ids of runs to delete once their replacements are logged


def amend(client: MlflowClient, child_runs: ChildRuns, tables: Iterable[tuple[pa.Table, int]]) -> Amendments:
    """Correct runs in place, delete runs that should not exist, and return those that must be logged again.

    A metric cannot be removed from a run. A run with an obsolete metric is therefore logged again, and deleted only
    afterwards, so that the trial has a run at all times.

    Args:
        client: MLflow's client.
        child_runs: Values shared by the sweep's child runs.
        tables: The trials that should have runs, with COLUMNS, and the last step of their curves.
    """
    logged: dict[str, list[Run]] = {}
    for run in children(client, child_runs, deleted=False):
        logged.setdefault(run.data.tags[TRIAL_ID], []).append(run)
    found = Amendments()
    for table, last_step in tables:
        for row in table.select(COLUMNS).to_pylist():
            if runs := logged.pop(row["trial_id"], []):
                _amend_trial(client, child_runs, runs, row, last_step, found)
    for runs in logged.values():
        for run in runs:
            client.delete_run(run.info.run_id)
    return found


def _amend_trial(
    client: MlflowClient, child_runs: ChildRuns, runs: list[Run], row: dict[str, Any], last_step: int, found: Amendments
) -> None:
    steps = row[_STEPS]
    usable = [run for run in runs if run.info.status != "FINISHED" or _can_have(run, steps)]
    kept = min(usable, key=lambda run: run.info.status != "FINISHED", default=None)
    finished = kept is not None and kept.info.status == "FINISHED"
    for run in runs:
        if run is not kept:
            if finished:
                client.delete_run(run.info.run_id)
            else:
                found.outdated.append(run.info.run_id)
    if kept is None or len(runs) > 1:
        found.runs[row["trial_id"]] = (kept.info.run_id if kept is not None else "", finished)
    if kept is None:
        return
    if kept.data.tags.get(VERDICT) != row["verdict"]:
        client.set_tag(kept.info.run_id, VERDICT, row["verdict"])
    if finished and steps is not None and kept.data.metrics.get(_STEPS) != steps:
        client.log_metric(kept.info.run_id, _STEPS, float(steps), kept.info.end_time, last_step)


def _can_have(run: Run, steps: int | None) -> bool:
    """Return whether ``steps`` can be set on a finished run: MLflow takes the larger of two points at one step."""
    known = run.data.metrics.get(_STEPS)
    return known is None or (steps is not None and steps >= known)
