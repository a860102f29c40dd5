"""Tables: which rows of which of MLflow's tables a pack of trials is; every database writes exactly these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sweeps.tracking.mlflow.writer import ChildRuns
from sweeps.tracking.trial_runs import TrialRuns

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")  # all that are written

Constant: TypeAlias = str | int | bool
Points: TypeAlias = list[str] | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RunRows:
    """Rows of ``runs``, by column; a constant is every row's."""

    columns: dict[str, list[str] | Constant]

    def cells(self) -> Iterator[tuple[str | Constant, ...]]:
        """Row by row."""
        columns = (column if isinstance(column, list) else repeat(column) for column in self.columns.values())
        return zip(*columns, strict=False)


@dataclass(frozen=True, eq=False)
class Grid:
    """Rows of one table: R runs by C points, run by run, with a row wherever ``present``, of shape (R, C), says so."""

    table: str
    ids: list[str]  # of the R runs, the column run_uuid
    points: dict[str, Points]  # columns of C values, each run's the same
    own: dict[str, NDArray[Any]]  # columns of (R, C) values
    constants: dict[str, Constant]
    present: NDArray[np.bool_]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names: the run's, the points', the runs' own, the constants'."""
        return ("run_uuid", *self.points, *self.own, *self.constants)


def run_rows(runs: TrialRuns, ids: list[str], child_runs: ChildRuns, began: int, ended: int) -> RunRows:
    """The rows of ``runs``: a trial whose row is there is logged.

    Args:
        runs: the trials.
        ids: their run ids.
        family: the sweep.
        began: when logging them began, in milliseconds.
        ended: when it ended.
    """
    from mlflow.utils.uri import append_to_uri_path

    location = child_runs.artifact_location
    columns: dict[str, list[str] | Constant] = {
        "run_uuid": ids,
        "name": _names(runs),
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "user_id": child_runs.user,
        "status": "FINISHED",
        "start_time": began,
        "end_time": ended,
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": [append_to_uri_path(location, run_id, "artifacts") for run_id in ids],  # type: ignore[no-untyped-call]
        "experiment_id": int(child_runs.experiment_id),
    }
    return RunRows(columns)


def contents(runs: TrialRuns, ids: list[str], child_runs: ChildRuns) -> Iterator[Grid]:
    """The rows of all other tables, sorted by run, key and step, as most of the tables' indices are."""
    count = len(ids)
    tags = {"mlflow.parentRunId": [child_runs.parent_id] * count, "mlflow.user": [child_runs.user] * count}
    yield _texts("tags", ids, {**tags, **runs.tags, "mlflow.runName": _names(runs)})
    yield _texts("params", ids, runs.params)
    finite = np.isfinite(runs.values)
    used = np.flatnonzero(finite.any(axis=0))  # such as a first non-finite step, which trials that are well do not have
    steps = np.array(runs.steps, np.int64)
    constants: dict[str, Constant] = {"timestamp": child_runs.started_ms, "is_nan": False}
    points: dict[str, Points] = {"key": [runs.keys[column] for column in used], "step": steps[used]}
    yield Grid("metrics", ids, points, {"value": runs.values[:, used]}, constants, finite[:, used])
    keys, last, present = _last(runs, finite)
    latest = {"value": np.take_along_axis(runs.values, last, axis=1), "step": steps[last]}
    yield Grid("latest_metrics", ids, {"key": keys}, latest, constants, present)


def _names(runs: TrialRuns) -> list[str]:
    return [runs.name(index) for index in range(len(runs))]


def _texts(table: str, ids: list[str], texts: dict[str, list[str]]) -> Grid:
    keys = sorted(texts)
    values = np.array([texts[key] for key in keys], object).T
    return Grid(table, ids, {"key": keys}, {"value": values}, {}, np.ones(values.shape, np.bool_))


def _last(runs: TrialRuns, finite: NDArray[np.bool_]) -> tuple[list[str], NDArray[np.intp], NDArray[np.bool_]]:
    """Each run's last point of each key: the keys, its column, and whether there is one."""
    keys, last, present = [], [], []
    for key, first, end in runs.groups():
        points = finite[:, first:end]
        keys.append(key)
        last.append(end - 1 - np.argmax(points[:, ::-1], axis=1))
        present.append(points.any(axis=1))
    return keys, np.stack(last, axis=1), np.stack(present, axis=1)
