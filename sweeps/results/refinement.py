"""The search space of the next sweep: around the best settings of this one, or at its edge of stability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from sweeps.arrow_columns import numbers
from sweeps.config.axis import Axis
from sweeps.config.refined_axis import End, refined
from sweeps.errors import InputError
from sweeps.results.recommendation import SETTLED, Recommendation, recommendation, trials_like_it
from sweeps.results.results import Results
from sweeps.search.axes import axes_of
from sweeps.search.base import FloatArray, SearchSpace, start_parameters

SLOWER = 2.0  # times as long as the recommended setting's training: its equals that are in the best region
_MAX_GROUPED = 1_000_000  # trials whose edges are found setting by setting
_MAX_STEP = 0.25  # of a distribution
_ROUNDING = 1e-9

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Refinement:
    """The search space of the next sweep.

    Args:
        mappings: its parameter mappings.
        reasons: why each axis of each mapping is as it is; axes that are unchanged have none.
        recommendation: the recommended setting, around which the space is; None at the edge of stability.
    """

    mappings: list[dict[str, Axis]]
    reasons: list[dict[str, str]] = field(default_factory=list)
    recommendation: Recommendation | None = None


def around_the_best(results: Results) -> Refinement:
    """Return the space around the recommended setting and its equals: as good, and at most twice as slow.

    Raises:
        InputError: no setting is recommended.
    """
    found = recommendation(results)
    if found is None:
        raise InputError(
            f"sweep {results.files.sweep_id}: no region to zoom to: no stored trial settled, or only one setting was "
            "trained; --edge zooms to the edge of stability"
        )
    mapping, columns = _holding(results, found.trial, trials_like_it(results, SLOWER))
    axes, reasons = {}, {}
    for name, axis in mapping.items():
        values = np.concatenate([columns[column] for column in _columns(results, name)])
        ends = found.ends.get(name) if len(results.config.mappings()) == 1 else None
        end: End | None = "smallest" if ends == "smallest" else "largest" if ends == "largest" else None
        values = values[~np.isnan(values)]
        axes[name] = refined(name, axis, values, _step(results, axis), end) if len(values) else axis
        if axes[name] != axis:
            reasons[name] = _reason(values, end)
    return Refinement([axes], [reasons], found)


def at_the_edge(results: Results) -> Refinement:
    """Return the space with the lr between which stability is lost, for every combination of the other axes.

    Raises:
        InputError: lr is not an axis, or no trial or every trial settled.
    """
    where = f"sweep {results.files.sweep_id}"
    if "lr" not in results.axes:
        raise InputError(f"{where}: no edge of stability to zoom to: lr is not an axis with several stored values")
    mappings = results.config.mappings()
    brackets = [_bracket(results, mapping) for mapping in mappings]
    if not any(brackets):
        counts = [int(settled.sum()) for _, settled in _outcomes(results, {})]
        problem = "every stored trial settled: give lr a larger max" if sum(counts) else "no trial settled: lower lr"
        raise InputError(f"{where}: no edge of stability to zoom to: {problem}")
    axes = [dict(mapping) for mapping in mappings]
    reasons: list[dict[str, str]] = [{} for _ in mappings]
    for own, why, bracket in zip(axes, reasons, brackets, strict=True):
        if bracket is None:
            continue
        low, high = bracket
        own["lr"] = refined("lr", own["lr"], np.array([low, high]))
        why["lr"] = f"stability is lost between {low:g} and {high:g}"
    return Refinement(axes, reasons)


def _reason(values: FloatArray, end: str | None) -> str:
    low, high = float(values.min()), float(values.max())
    best = f"the best settings have {low:g} to {high:g}" if high > low else f"the best setting has {low:g}"
    return f"{best}; extended, because the recommended one is the {end}" if end else best


def _step(results: Results, axis: Axis) -> float:
    """Return a step of a range; of a distribution, the distance between as many points in a grid of the drawn axes."""
    if axis.is_listed:
        return 1.0
    [mapping] = results.config.mappings()
    drawn = sum(not each.is_listed for each in mapping.values())
    repeats = len(results.config.seeds) * max(1, results.config.task.dataset.folds)
    return min(_MAX_STEP, float(max(1, results.stored // repeats) ** (-1 / drawn)))


def _holding(results: Results, first: int, trials: list[int]) -> tuple[Mapping[str, Axis], dict[str, FloatArray]]:
    """Return the mapping that holds a trial, and the columns of those of the trials that it holds."""
    mappings = results.config.mappings()
    names = dict.fromkeys(c for mapping in mappings for name in mapping for c in _columns(results, name))
    others = [name for name in results.settings if name in results.axes]
    parts = [
        table.filter(pa.array(np.isin(table["trial"].to_numpy(), trials)))
        for table in results.tables(["trial", *dict.fromkeys([*names, *others])])
    ]
    table = pa.concat_tables(parts)
    columns = {name: numbers(table[name]) for name in table.column_names}
    [row] = np.flatnonzero(columns["trial"] == first)
    inside = [_inside(results, mapping, columns) for mapping in mappings]
    index = next((i for i, mask in enumerate(inside) if mask[row]), 0)
    return mappings[index], {name: values[inside[index]] for name, values in columns.items()}


def _columns(results: Results, name: str) -> list[str]:
    """Return the columns that an axis gives values to."""
    if not name.startswith("init."):
        return [name]
    return [f"init.{each}" for each in start_parameters(name, tuple(s.removeprefix("init.") for s in results.starts))]


def _inside(results: Results, mapping: Mapping[str, Axis], columns: Mapping[str, FloatArray]) -> Mask:
    """Return which trials a mapping has; all if it is the only one."""
    inside = np.ones(len(next(iter(columns.values()))), dtype=bool)
    if len(results.config.mappings()) == 1:
        return inside
    space = SearchSpace.of(results.config, tuple(name.removeprefix("init.") for name in results.starts))
    for name, axis in axes_of(space, mapping).items():
        points = np.unique(axis.points()) if isinstance(axis, Axis) else np.array([axis])
        if name in columns and name != "dampening" and not np.isnan(points).any():  # dampening can have been merged
            inside &= np.isclose(columns[name][:, np.newaxis], points, rtol=_ROUNDING, atol=0).any(axis=1)
    return inside


def _outcomes(results: Results, mapping: Mapping[str, Axis]) -> Iterator[tuple[pd.DataFrame, Mask]]:
    """Yield the swept settings of a mapping's trials, and which of them settled."""
    swept = [name for name in results.settings if name in results.axes]
    for table in results.tables(["verdict", *swept]):
        columns = {name: numbers(table[name]) for name in swept}
        settled = np.isin(table["verdict"].to_pylist(), SETTLED)
        mask = _inside(results, mapping, columns) if mapping else np.ones(len(settled), dtype=bool)
        yield pd.DataFrame(columns)[mask], settled[mask]


def _bracket(results: Results, mapping: Mapping[str, Axis]) -> tuple[float, float] | None:
    """Return the lr between which stability is lost in any setting of a mapping's other axes; None if it nowhere is."""
    if "lr" not in mapping or len(mapping["lr"].points()) < 2:
        return None
    parts = list(_outcomes(results, mapping))
    frame, settled = pd.concat([part for part, _ in parts]), np.concatenate([mask for _, mask in parts])
    listed = all(axis.is_listed for axis in mapping.values()) and len(frame) <= _MAX_GROUPED
    others = [name for name in frame if name != "lr"] if listed else []
    key = frame.groupby(others, dropna=False).ngroup().to_numpy() if others else np.zeros(len(frame), dtype=int)
    lr = frame["lr"].to_numpy()
    count = int(key.max()) + 1 if len(key) else 0
    breaks, settles = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(breaks, key[~settled], lr[~settled])
    np.maximum.at(settles, key[settled], lr[settled])
    has_both = np.isfinite(breaks) & np.isfinite(settles)
    if not has_both.any():
        return None
    ends = np.array([breaks[has_both], settles[has_both]])
    return float(ends.min()), float(ends.max())
