"""Boundary search: every edge of stability along one axis, for each combination of the other axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sgdcore.geometric import geometric
from sweeps.config.schema import CLIPPING, FOLD
from sweeps.search import grid
from sweeps.search.axes import UNSET
from sweeps.search.base import FloatArray, History, Mask, SearchSpace, Stage
from sweeps.search.trial_table import TrialTable

_POINTS = 15  # new values in each bracket and stage: a stage divides the bracket's width by 16


@dataclass(frozen=True)
class Bracket:
    """Two neighbouring values of the axis, between which trials change from stable to unstable or back.

    Args:
        setting: the values of the other axes, in the order of :func:`other_columns`.
        lower: the lower value.
        upper: the upper value.
        is_stable_below: whether the lower value is the stable one.
    """

    setting: tuple[float, ...]
    lower: float
    upper: float
    is_stable_below: bool

    @property
    def width(self) -> float:
        """The width relative to the upper value."""
        return (self.upper - self.lower) / abs(self.upper) if self.upper else np.inf

    def inside(self) -> FloatArray:
        """Return the values to try next: equal ratios, or equal differences from zero or below."""
        space = geometric if self.lower > 0 else np.linspace
        values = np.unique(space(self.lower, self.upper, _POINTS + 2))
        return values[(values > self.lower) & (values < self.upper)]


class BoundarySearch:
    """A search method that scans an axis, then divides every bracket of an edge down to the axis's tolerance.

    A trial is stable if it stays finite and its final loss, without the penalty of weight decay, is at most its initial
    loss; a setting is stable if its trials with all seeds and folds are. The edge is that of the configured number of
    epochs, which approaches theory's as they grow. Two edges between neighbouring points of the scan are missed.
    """

    packages = ()
    is_adaptive = True

    def next_stage(self, space: SearchSpace, history: History) -> Stage | None:
        """Return the scan, then new values in all brackets wider than the tolerance."""
        if len(history) == 0:
            return Stage(tuple(grid.products(space)))
        name, tolerance = edge_axis(space)
        table = pa.concat_tables([history[i] for i in range(len(history))])
        wide = [bracket for bracket in brackets(space, table) if bracket.width > tolerance]
        parts = [_trials(space, name, bracket) for bracket in wide]
        parts = [part for part in parts if len(part)]
        return Stage((TrialTable.of(parts),)) if parts else None


METHOD = BoundarySearch()


def edge_axis(space: SearchSpace) -> tuple[str, float]:
    """Return the axis with a tolerance, and the tolerance."""
    [found] = [(k, a.tolerance) for m in space.mappings for k, a in m.items() if a.tolerance is not None]
    return found


def other_columns(space: SearchSpace) -> tuple[str, ...]:
    """Return the columns that identify a setting apart from the edge's axis."""
    left_out = {"seed", FOLD, edge_axis(space)[0]}
    return tuple(name for name in space.columns if name not in left_out)


def brackets(space: SearchSpace, table: pa.Table) -> Iterator[Bracket]:
    """Yield the bracket of each edge in the trials of a table, by setting and from low to high."""
    name, names = edge_axis(space)[0], other_columns(space)
    matrix = np.column_stack([*(_column(space, table, each) for each in names), _numbers(table, name)])
    points, inverse = np.unique(matrix, axis=0, return_inverse=True, equal_nan=True)
    stable = np.ones(len(points), dtype=bool)
    np.logical_and.at(stable, inverse.reshape(-1), is_stable(table))
    same = (points[1:, :-1] == points[:-1, :-1]) | (np.isnan(points[1:, :-1]) & np.isnan(points[:-1, :-1]))
    for i in np.flatnonzero(same.all(axis=1) & (stable[1:] != stable[:-1])):
        yield Bracket(tuple(points[i, :-1].tolist()), float(points[i, -1]), float(points[i + 1, -1]), bool(stable[i]))


def is_stable(table: pa.Table) -> Mask:
    """Return whether each trial stayed finite and its final loss is at most its initial loss."""
    # The final loss of a trial that overflowed is its last finite one.
    finite = np.asarray(table["first_nonfinite_step"].is_null().to_numpy())
    final, initial = _numbers(table, "final_loss"), _numbers(table, "initial_loss")
    return finite & np.isfinite(final) & (final <= initial)


def _column(space: SearchSpace, table: pa.Table, name: str) -> FloatArray:
    if name.startswith("init.") and not _is_given(space, name):
        return np.full(len(table), UNSET)  # the table has the values that the model drew
    values = _numbers(table, name)
    return np.where(np.isnan(values), np.inf, values) if name in CLIPPING else values


def _is_given(space: SearchSpace, name: str) -> bool:
    axes = [axis for mapping in space.mappings for axis in mapping]
    return any(name == axis or name.startswith(f"{axis}.") for axis in axes)


def _numbers(table: pa.Table, name: str) -> FloatArray:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def _trials(space: SearchSpace, name: str, bracket: Bracket) -> TrialTable:
    """Return the trials inside a bracket, with every seed and fold."""
    columns = {"seed": np.array(space.seeds, dtype=np.float64)} | space.repeats | {name: bracket.inside()}
    mesh = np.meshgrid(*columns.values(), indexing="ij")
    varied = dict(zip(columns, (each.reshape(-1) for each in mesh), strict=True))
    fixed = dict(zip(other_columns(space), bracket.setting, strict=True))
    count = mesh[0].size
    return TrialTable({each: varied[each] if each in varied else np.full(count, fixed[each]) for each in space.columns})
