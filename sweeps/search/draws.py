"""Settings drawn from the distributions of a search space, whose rows are computed on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sweeps.config.axis import Axis
from sweeps.config.schema import BATCH_SIZE
from sweeps.search.axes import axes_of
from sweeps.search.base import FloatArray, SearchSpace
from sweeps.search.product import Product

MAX_TABLE = 2_000_000  # trials that are listed instead of computed
_NEAR = 1_000  # points that are computed for nothing rather than in another call


class Points(Protocol):
    """An infinite sequence of points in a unit cube with one dimension per name."""

    def column(self, name: str, start: int, stop: int) -> FloatArray:
        """Return the coordinates of points start ... stop - 1 in the dimension of a name, in (0, 1)."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Settings drawn from the distributions of axes, each with every combination of repeats.

    Args:
        settings: the number of settings; setting i depends on i and the points alone.
        repeats: the seeds, and the folds if there are any: every setting has all their combinations.
        axes: the axis or the only value of all other columns.
        points: the points whose coordinates are the axes' quantiles.
    """

    settings: int
    repeats: Product
    axes: Mapping[str, Axis | float]
    points: Points

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return (*self.repeats.names, *self.axes)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.settings * len(self.repeats)

    def __getitem__(self, name: str) -> FloatArray:
        """Return the values of a column; of a continuous distribution, a thousand quantiles."""
        if name in self.repeats.names:
            return self.repeats[name]
        axis = self.axes[name]
        return (axis.points() if isinstance(axis, Axis) else np.array([axis])) + 0.0

    def replace(self, name: str, values: FloatArray) -> Draws:
        """Return the draws with other seeds or folds."""
        return replace(self, repeats=self.repeats.replace(name, values))

    def rows(self, indices: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Return the columns of the rows with these indices."""
        setting, repeat = np.divmod(indices, len(self.repeats))
        columns = self.repeats.rows(repeat)
        columns |= {name: self._column(name, axis, setting) for name, axis in self.axes.items()}
        return valid(columns)

    def _column(self, name: str, axis: Axis | float, setting: NDArray[np.int64]) -> FloatArray:
        if not isinstance(axis, Axis):
            return np.full(len(setting), axis)
        if axis.distribution_name == "constant":
            return np.full(len(setting), axis.points()[0] + 0.0)
        values = np.empty(len(setting))
        for rows, start, stop in _runs(setting):
            found = axis.quantiles(self.points.column(name, start, stop)) + 0.0
            values[rows] = found[setting[rows] - start]
        return values


def valid(columns: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Return drawn columns as trials that torch.optim.SGD accepts: nesterov only with momentum and without dampening.

    Where both are drawn, nesterov is off where a momentum is 0, and dampening is 0 where nesterov is on. Dampening is 0
    where it has no effect: without momentum.
    """
    momenta = [name for name in columns if name.partition(".")[0] == "momentum"]
    dampenings = [name for name in columns if name.partition(".")[0] == "dampening"]
    nesterov = columns["nesterov"] != 0
    if nesterov.any():
        nesterov = np.logical_and.reduce([nesterov, *(columns[name] != 0 for name in momenta)])
        columns["nesterov"] = nesterov.astype(np.float64)
        for name in dampenings:
            columns[name] = np.where(nesterov & ~np.isnan(columns[name]), 0.0, columns[name])
    if momenta == ["momentum"]:
        columns["dampening"] = np.where(columns["momentum"] != 0, columns["dampening"], 0.0)
    return columns


def draws(space: SearchSpace, points: Points, cap: int) -> Draws:
    """Return at most ``cap`` trials drawn from a search space with one mapping."""
    [mapping] = space.mappings
    repeats = repeats_of(space)
    return Draws(cap // len(repeats), repeats, axes_of(space, mapping), points)


def repeats_of(space: SearchSpace) -> Product:
    """Return the product of the seeds and the folds."""
    seeds = {"seed": np.array(space.seeds, dtype=np.float64)}
    return Product(tuple((seeds | space.repeats).items()))


def is_listed(space: SearchSpace) -> bool:
    """Return whether trials drawn from a space are listed: they can repeat, or differ in their batch size."""
    [mapping] = space.mappings
    size = mapping.get(BATCH_SIZE)
    varies = size is not None and len(size) > 1
    return varies or all(axis.possible() is not None for axis in mapping.values())


def _runs(indices: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], int, int]]:
    """Yield the rows whose indices are near each other, with the range that holds them."""
    order = np.argsort(indices, kind="stable")
    breaks = np.flatnonzero(np.diff(indices[order]) > _NEAR) + 1
    for rows in np.split(order, breaks):
        if len(rows):
            yield rows, int(indices[rows[0]]), int(indices[rows[-1]]) + 1
