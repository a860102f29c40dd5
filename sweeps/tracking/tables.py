"""Tables: which rows of which of MLflow's tables a pack of trials is; every database writes exactly these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sweeps.tracking.base import Family
from sweeps.tracking.trials import TrialRuns

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")  # all that are written


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of few different values: these, and which of them each row has."""

    values: list[str] | NDArray[Any]
    which: NDArray[np.intp]


Constant: TypeAlias = str | int | bool
Column: TypeAlias = Coded | list[str] | NDArray[Any] | Constant


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one table, by column; a constant is every row's."""

    table: str
    count: int
    columns: dict[str, Column]

    def cells(self) -> Iterator[tuple[Any, ...]]:
        """Row by row, as Python's own types."""
        return zip(*(_cells(column, self.count) for column in self.columns.values()), strict=True)


def ledger(runs: TrialRuns, ids: list[str], family: Family, began: int, ended: int) -> Rows:
    """The rows of ``runs``: a trial whose row is there is logged.

    Args:
        runs: the trials.
        ids: their run ids.
        family: the sweep.
        began: when logging them began, in milliseconds.
        ended: when it ended.
    """
    from mlflow.utils.uri import append_to_uri_path

    location = family.artifact_location
    columns: dict[str, Column] = {
        "run_uuid": ids,
        "name": _names(runs),
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "user_id": family.user,
        "status": "FINISHED",
        "start_time": began,
        "end_time": ended,
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": [append_to_uri_path(location, run_id, "artifacts") for run_id in ids],  # type: ignore[no-untyped-call]
        "experiment_id": int(family.experiment_id),
    }
    return Rows("runs", len(ids), columns)


def contents(runs: TrialRuns, ids: list[str], family: Family) -> Iterator[Rows]:
    """The rows of all other tables, sorted by run, key and step, as the tables' indices are."""
    count = len(ids)
    tags = {"mlflow.parentRunId": [family.parent_id] * count, "mlflow.user": [family.user] * count}
    yield _texts("tags", ids, {**tags, **runs.tags, "mlflow.runName": _names(runs)})
    yield _texts("params", ids, runs.params)
    finite = np.isfinite(runs.values)
    yield _metrics("metrics", runs, ids, family, finite)
    yield _metrics("latest_metrics", runs, ids, family, _last(runs, finite))


def _names(runs: TrialRuns) -> list[str]:
    return [runs.name(index) for index in range(len(runs))]


def _texts(table: str, ids: list[str], texts: dict[str, list[str]]) -> Rows:
    keys = sorted(texts)
    columns: dict[str, Column] = {
        "key": Coded(keys, np.tile(np.arange(len(keys)), len(ids))),
        "value": [text for row in zip(*(texts[key] for key in keys), strict=True) for text in row],
        "run_uuid": Coded(ids, np.repeat(np.arange(len(ids)), len(keys))),
    }
    return Rows(table, len(ids) * len(keys), columns)


def _metrics(table: str, runs: TrialRuns, ids: list[str], family: Family, chosen: NDArray[np.bool_]) -> Rows:
    row, column = np.nonzero(chosen)
    columns: dict[str, Column] = {
        "key": Coded(runs.keys, column),
        "value": runs.values[row, column],
        "timestamp": family.started_ms,
        "run_uuid": Coded(ids, row),
        "step": Coded(np.array(runs.steps, np.int64), column),
        "is_nan": False,
    }
    return Rows(table, len(row), columns)


def _last(runs: TrialRuns, finite: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each run and key the last point."""
    last = np.zeros_like(finite)
    for _, first, end in runs.groups():
        points = finite[:, first:end]
        ends = end - 1 - np.argmax(points[:, ::-1], axis=1)
        last[np.arange(len(finite)), ends] = points.any(axis=1)
    return last


def _cells(column: Column, count: int) -> Iterable[Any]:
    if isinstance(column, Coded):
        cells: list[Any] = np.array(column.values, object)[column.which].tolist()
        return cells
    if isinstance(column, np.ndarray):
        return column.tolist()  # type: ignore[no-any-return]
    return column if isinstance(column, list) else repeat(column, count)
