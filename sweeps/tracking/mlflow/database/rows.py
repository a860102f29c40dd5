"""The rows of MLflow's tables that represent a pack of trials; all databases write exactly these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sweeps.tracking.mlflow.writer import ChildRuns
from sweeps.tracking.trial_runs import TrialRuns

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")  # all tables that are written

Constant: TypeAlias = str | int | bool
Cells: TypeAlias = list[str] | list[int] | Constant
Points: TypeAlias = list[str] | NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RunRows:
    """The rows of ``runs``, by column; a constant applies to every row."""

    ids: list[str]  # the column run_uuid
    columns: dict[str, Cells]

    def cells(self) -> Iterator[tuple[str | Constant, ...]]:
        """Yield the cells row by row."""
        columns = (column if isinstance(column, list) else repeat(column) for column in self.columns.values())
        return zip(*columns, strict=False)


@dataclass(frozen=True, eq=False)
class Grid:
    """The rows of one table: R runs by C points, in order of runs, with a row where ``present`` is true."""

    table: str
    ids: list[str]  # (R,) run ids, the column run_uuid
    points: dict[str, Points]  # columns of (C,) values that are the same for each run
    own: dict[str, NDArray[Any]]  # columns of (R, C) values
    constants: dict[str, Constant]
    present: NDArray[np.bool_]  # (R, C)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names: run id, points, own values, constants."""
        return ("run_uuid", *self.points, *self.own, *self.constants)


def run_rows(runs: TrialRuns, ids: list[str], child_runs: ChildRuns) -> RunRows:
    """Return the rows of ``runs``; a trial with such a row counts as logged.

    Args:
        runs: The trials.
        ids: Their run ids.
        child_runs: Values shared by the sweep's child runs.
    """
    from mlflow.utils.uri import append_to_uri_path

    location = child_runs.artifact_location
    columns: dict[str, Cells] = {
        "run_uuid": ids,
        "name": _names(runs),
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "user_id": child_runs.user,
        "status": "FINISHED",
        "start_time": runs.started.tolist(),
        "end_time": runs.ended.tolist(),
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": [append_to_uri_path(location, run_id, "artifacts") for run_id in ids],  # type: ignore[no-untyped-call]
        "experiment_id": int(child_runs.experiment_id),
    }
    return RunRows(ids, columns)


def contents(runs: TrialRuns, ids: list[str], child_runs: ChildRuns) -> Iterator[Grid]:
    """Yield the rows of all other tables, sorted by run, key and step like most of the tables' indices."""
    count = len(ids)
    tags = {"mlflow.parentRunId": [child_runs.parent_id] * count, "mlflow.user": [child_runs.user] * count}
    yield _texts("tags", ids, {**tags, **runs.tags, "mlflow.runName": _names(runs)})
    yield _texts("params", ids, runs.params)
    finite = np.isfinite(runs.values)
    used = np.flatnonzero(finite.any(axis=0))  # some metrics are empty, such as the first non-finite step
    steps = np.array(runs.steps, np.int64)
    constants: dict[str, Constant] = {"is_nan": False}
    points: dict[str, Points] = {"key": [runs.keys[column] for column in used], "step": steps[used]}
    own = {"value": runs.values[:, used], "timestamp": runs.timestamps[:, used]}
    yield Grid("metrics", ids, points, own, constants, finite[:, used])
    keys, last, present = _last(runs, finite)
    latest: dict[str, NDArray[Any]] = {"step": steps[last]}
    latest |= {
        name: np.take_along_axis(values, last, axis=1)
        for name, values in (("value", runs.values), ("timestamp", runs.timestamps))
    }
    yield Grid("latest_metrics", ids, {"key": keys}, latest, constants, present)


def _names(runs: TrialRuns) -> list[str]:
    return [runs.name(index) for index in range(len(runs))]


def _texts(table: str, ids: list[str], texts: dict[str, list[str]]) -> Grid:
    keys = sorted(texts)
    values = np.array([texts[key] for key in keys], object).T
    return Grid(table, ids, {"key": keys}, {"value": values}, {}, np.ones(values.shape, np.bool_))


def _last(runs: TrialRuns, finite: NDArray[np.bool_]) -> tuple[list[str], NDArray[np.intp], NDArray[np.bool_]]:
    """Return the last point of each run and key: the keys, the column of the point, and whether it exists."""
    keys, last, present = [], [], []
    for key, first, end in runs.groups():
        points = finite[:, first:end]
        keys.append(key)
        last.append(end - 1 - np.argmax(points[:, ::-1], axis=1))
        present.append(points.any(axis=1))
    return keys, np.stack(last, axis=1), np.stack(present, axis=1)
