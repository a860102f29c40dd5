"""Warm starts: the settings of an earlier sweep that a new one learns from, copied when the new sweep is created.

The copy makes all later stages a function of the new sweep's own files: the earlier sweep can be removed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweeps.arrow_columns import numbers
from sweeps.config.axis import Axis
from sweeps.config.messages import listed
from sweeps.config.schema import BATCH_SIZE, CLIPPING, REPEATS, SweepConfig
from sweeps.errors import InputError, StoreError
from sweeps.planning.prepared import PreparedSweep
from sweeps.search.axes import axes_of
from sweeps.search.base import FloatArray, SearchSpace
from sweeps.store.manifest import WarmStartFile, read_document
from sweeps.store.store import Store, SweepFiles

WARM_START = "warm_start.json"
MOST_SETTINGS = 256  # that are copied; the samplers' time grows with them
_OVERFLOW = "first_nonfinite_step"
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class WarmStart:
    """The settings of an earlier sweep, the best first.

    Args:
        sweep_id: the earlier sweep.
        settings: a row per setting: the axes of the new sweep, the mean of its metric over seeds and folds, null if one
            of them overflowed, and the first step at which one did.
    """

    sweep_id: str
    settings: pa.Table

    def __str__(self) -> str:
        """Return what the new sweep learns from, in words."""
        return f"the rounds after the first also learn from {len(self.settings):,} settings of sweep {self.sweep_id}"

    def text(self) -> str:
        """Return the content of warm_start.json."""
        columns = {name: self.settings[name].to_pylist() for name in self.settings.column_names}
        return json.dumps({"sweep_id": self.sweep_id, "columns": columns}, allow_nan=False) + "\n"


def read_warm_start(files: SweepFiles) -> WarmStart:
    """Return the settings that were copied when a sweep with a warm start was created.

    Raises:
        StoreError: the file is missing or damaged.
    """
    _, file = read_document(files.storage, WARM_START, WarmStartFile)
    if len({len(values) for values in file.columns.values()}) != 1:
        raise StoreError(f"{files.storage.locate(WARM_START)}: damaged: columns of different lengths")
    return WarmStart(file.sweep_id, pa.table({n: pa.array(v, pa.float64()) for n, v in file.columns.items()}))


def warm_start_of(store: Store, prepared: PreparedSweep) -> WarmStart | None:
    """Return the settings that a new sweep learns from; None without a warm start.

    They are those that lie in the new search space: at most 256, half of them the best, the others spread evenly over
    the rest.

    Raises:
        InputError: there is no such sweep, or its results are those of another task, metric or search space.
    """
    config = prepared.config
    if config.warm_start is None:
        return None
    try:
        files = store.find(config.warm_start)
        earlier = files.config()
        done = sorted(files.shards.done())
    except StoreError as error:
        raise StoreError(f"warm_start: {error}") from error
    where = f"warm_start: sweep {files.sweep_id}"
    if not done:
        raise InputError(f"{where} has no results yet; compute it first")
    _check_task(where, files, earlier, prepared)
    space = SearchSpace.of(config, prepared.plan.starts)
    names = files.shards.schema(done[0]).names
    if space.metric not in names:
        raise InputError(f"{where} has no {space.metric}, by which this sweep ranks its trials; set metric.name")
    [mapping] = space.mappings
    axes = axes_of(space, mapping) | _unnamed(where, files, config, space)
    if unknown := [name for name, axis in axes.items() if isinstance(axis, Axis) and name not in names]:
        raise InputError(f"{where} has no axis {listed(unknown)}, which this sweep has")
    read = [name for name in axes if name in names]
    tables = files.shards.read_many(done, [*read, space.metric, _OVERFLOW])
    table = pa.concat_tables([each.replace_schema_metadata() for each in tables])
    columns = {name: _column(table, name) for name in read}
    inside = np.logical_and.reduce([_possible(axes[name], values) for name, values in columns.items()])
    if not inside.any():
        raise InputError(f"{where} has no setting in the search space of this sweep")
    own = {name: values[inside] for name, values in columns.items() if isinstance(axes[name], Axis)}
    outcome = numbers(table[space.metric])[inside], numbers(table[_OVERFLOW])[inside]
    return WarmStart(files.sweep_id, _settings(own, space.metric, *outcome))


def _check_task(where: str, files: SweepFiles, earlier: SweepConfig, prepared: PreparedSweep) -> None:
    """Check that losses can be compared: both sweeps have the same data, model and loss."""
    config, data = prepared.config, files.manifest().get("data", {})
    given, stored = config.task.model_dump(exclude={"dataset"}), earlier.task.model_dump(exclude={"dataset"})
    other = [name for name in given if given[name] != stored[name]]
    if data.get("digest") != prepared.task.dataset.digest:
        other.insert(0, "dataset")
    if other:
        raise InputError(
            f"{where} has another task.{other[0]}: its results cannot be compared with those of this sweep"
        )


def _unnamed(where: str, files: SweepFiles, config: SweepConfig, space: SearchSpace) -> dict[str, float]:
    """Return the values that this sweep has on the axes of the earlier one that it does not name."""
    known = {BATCH_SIZE: float(config.training.batch_size), **dict.fromkeys(CLIPPING, math.inf)}
    fixed = axes_of(space, space.mappings[0])
    swept = dict.fromkeys(name for stage in files.planned().stages for name in stage.swept if name not in REPEATS)
    missing = [name for name in swept if not _is_known(fixed.get(name))]
    if unknown := [name for name in missing if name not in known]:
        raise InputError(f"{where} has the axis {listed(unknown)}, which this sweep does not have")
    return {name: known[name] for name in missing}


def _is_known(axis: Axis | float | None) -> bool:
    return isinstance(axis, Axis) or (axis is not None and not math.isnan(axis))


def _column(table: pa.Table, name: str) -> FloatArray:
    """Return a column's values; inf where clipping is off, which is null in shard files."""
    values = numbers(table[name])
    return np.where(np.isnan(values), np.inf, values) if name in CLIPPING else values


def _possible(axis: Axis | float, values: FloatArray) -> NDArray[np.bool_]:
    """Return which values an axis has."""
    if isinstance(axis, float) and math.isnan(axis):
        return np.ones(len(values), dtype=bool)  # drawn by the model's own initialisation
    if isinstance(axis, Axis) and not axis.is_listed:
        if axis.min is None:
            return np.isfinite(values)
        low, high = axis.named()
        assert low is not None
        assert high is not None
        slack = _ROUNDING * np.abs(values)
        return np.asarray((values >= low - slack) & (values <= high + slack))
    points = axis.points() if isinstance(axis, Axis) else np.array([axis])
    return np.asarray(np.isclose(values[:, np.newaxis], points, rtol=_ROUNDING, atol=0).any(axis=1))


def _settings(axes: Mapping[str, FloatArray], metric: str, values: FloatArray, overflow: FloatArray) -> pa.Table:
    """Return a row per setting, the best first."""
    keys = np.column_stack([np.nan_to_num(column) for column in axes.values()] or [np.zeros(len(values))])
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    which = which.reshape(-1)
    mean = np.bincount(which, np.where(np.isnan(overflow), values, np.nan)) / np.bincount(which)
    broken = np.full(len(first), np.inf)
    np.minimum.at(broken, which, np.where(np.isnan(overflow), np.inf, overflow))
    order = np.lexsort((first, -broken, mean))
    if len(order) > MOST_SETTINGS:
        best, rest = order[: MOST_SETTINGS // 2], order[MOST_SETTINGS // 2 :]
        even = np.linspace(0, len(rest) - 1, MOST_SETTINGS - len(best)).round().astype(int)
        order = np.concatenate([best, rest[even]])
    columns = {name: column[first[order]] for name, column in axes.items()}
    columns |= {metric: mean[order], _OVERFLOW: broken[order]}
    return pa.table({name: pa.array(column, mask=~np.isfinite(column)) for name, column in columns.items()})
