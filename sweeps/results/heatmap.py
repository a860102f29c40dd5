"""Cells: trials counted and compared by where they lie on some axes; any number of shards' cells can be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sgdcore.verdict import VERDICTS
from sweeps.arrow_columns import numbers
from sweeps.results.binning import MapAxis

if TYPE_CHECKING:
    pass

OUTCOME = ("trial", "verdict", "final_loss", "predicted_radius", "steps_to_tolerance")  # what Outcomes are made of

FloatArray = NDArray[np.float64]
_LEAST = 1e-300  # stands for a loss of 0 where logarithms are taken
_BADNESS = np.array([{"diverging": 1, "diverged": 2}.get(verdict, 0) for verdict in VERDICTS], dtype=np.int8)
_NOBODY = 3  # the badness of a cell without a trial


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What became of T trials, of which there may not be none."""

    verdict: NDArray[np.intp]  # places in VERDICTS
    loss: FloatArray  # the final one; inf where there is none
    trial: NDArray[np.int64]
    radius: FloatArray  # predicted; inf where it is not known
    steps: FloatArray  # to tolerance; inf of trials that did not converge

    @classmethod
    def of(cls, table: pa.Table) -> Outcomes:
        """Those of some rows of shard files."""
        verdict = pc.index_in(table["verdict"], pa.array(VERDICTS)).to_numpy().astype(np.intp)
        converged = verdict == VERDICTS.index("converged")  # others may have passed by
        return cls(
            verdict=verdict,
            loss=_or_infinite(table["final_loss"]),
            trial=table["trial"].to_numpy(),
            radius=_or_infinite(table["predicted_radius"]),
            steps=np.where(converged, _or_infinite(table["steps_to_tolerance"]), np.inf),
        )

    @cached_property
    def badness(self) -> NDArray[np.int8]:
        """0 settled, 1 diverging, 2 diverged."""
        return np.asarray(_BADNESS[self.verdict])

    @cached_property
    def worst_first(self) -> NDArray[np.intp]:
        """The trials' order, the best of all at the end."""
        return np.lexsort((-self.trial, -self.loss, -self.badness))


@dataclass(frozen=True, eq=False)
class Cells:
    """One entry a cell of the product of some axes, in the axes' shape; V verdicts.

    The best trial of a cell is one that settled, else one that is diverging, else one that diverged; among these the
    one of least final loss, and of equals the first.
    """

    axes: tuple[MapAxis, ...]
    counts: NDArray[np.int64]  # (..., V) trials by verdict
    badness: NDArray[np.int8]  # of the best trial: 0 settled, 1 diverging, 2 diverged, 3 none was run
    loss: FloatArray  # its final loss; inf where it has none
    trial: NDArray[np.int64]  # its number
    position: FloatArray  # (..., axes) its values
    radius: FloatArray  # the least predicted one of all trials; inf where none is known
    steps: FloatArray  # the fewest to tolerance of trials that converged; inf where none did
    measured: NDArray[np.int64]  # trials that settled and have a final loss
    mean: FloatArray  # of log10 of these losses; 0 where there are none
    squares: FloatArray  # sum of the squared deviations from that mean

    @classmethod
    def of(cls, axes: Sequence[MapAxis], table: pa.Table, outcomes: Outcomes) -> Cells:
        """Those of some rows of shard files, whose outcomes these are."""
        verdict, loss, trial, badness = outcomes.verdict, outcomes.loss, outcomes.trial, outcomes.badness
        columns = [numbers(table[axis.name]) for axis in axes]
        shape = tuple(len(axis.labels) for axis in axes)
        places = [axis.places(column) for axis, column in zip(axes, columns, strict=True)]
        cell = np.ravel_multi_index(places, shape)
        number = int(np.prod(shape))
        counts = np.bincount(cell * len(VERDICTS) + verdict, minlength=number * len(VERDICTS))
        best = np.full(number, -1)
        best[cell[outcomes.worst_first]] = outcomes.worst_first  # of several the last is kept, which is the best
        found = best >= 0
        settled = (badness == 0) & np.isfinite(loss)
        measured, mean, squares = _moments(cell[settled], np.log10(np.maximum(loss[settled], _LEAST)), number)
        values = np.stack(columns, axis=-1)
        return cls(
            axes=tuple(axes),
            counts=counts.reshape(*shape, len(VERDICTS)),
            badness=np.where(found, badness[best], np.int8(_NOBODY)).reshape(shape),
            loss=np.where(found, loss[best], np.inf).reshape(shape),
            trial=np.where(found, trial[best], -1).reshape(shape),
            position=np.where(found[:, np.newaxis], values[best], np.nan).reshape(*shape, len(axes)),
            radius=_least(cell, outcomes.radius, number).reshape(shape),
            steps=_least(cell, outcomes.steps, number).reshape(shape),
            measured=measured.reshape(shape),
            mean=mean.reshape(shape),
            squares=squares.reshape(shape),
        )

    def __add__(self, other: Cells) -> Cells:
        """Those of both; the moments as of Chan, Golub and LeVeque (1979)."""
        theirs = other.badness < self.badness
        theirs |= (other.badness == self.badness) & (other.loss < self.loss)
        theirs |= (other.badness == self.badness) & (other.loss == self.loss) & (other.trial < self.trial)
        n = self.measured + other.measured
        share = np.divide(other.measured, n, out=np.zeros(n.shape), where=n > 0)
        apart = other.mean - self.mean
        return Cells(
            axes=self.axes,
            counts=self.counts + other.counts,
            badness=np.where(theirs, other.badness, self.badness),
            loss=np.where(theirs, other.loss, self.loss),
            trial=np.where(theirs, other.trial, self.trial),
            position=np.where(theirs[..., np.newaxis], other.position, self.position),
            radius=np.minimum(self.radius, other.radius),
            steps=np.minimum(self.steps, other.steps),
            measured=n,
            mean=self.mean + apart * share,
            squares=self.squares + other.squares + apart**2 * self.measured * share,
        )

    def at(self, *places: int) -> Cells:
        """Those at one place of each of the last axes."""
        axes = self.axes[: len(self.axes) - len(places)]
        here: tuple[slice | int, ...] = (*(slice(None) for _ in axes), *places)
        arrays = {name: value[here] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        arrays["position"] = arrays["position"][..., : len(axes)]
        return replace(self, axes=axes, **arrays)

    def widened(self) -> Cells:
        """The same cells with one more axis, which has a single place."""
        arrays = {name: value[:, np.newaxis] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, axes=(*self.axes, MapAxis.of([0.0], "")), **arrays)

    @property
    def verdict(self) -> NDArray[np.intp]:
        """The verdict of each cell's best trial as a place in VERDICTS; of those that settled the most frequent one."""
        settled = np.where(_BADNESS == 0, self.counts, -1).argmax(axis=-1)
        bad = [VERDICTS.index("diverging"), VERDICTS.index("diverged"), -1]
        return np.asarray(np.select([self.badness == 0, *(self.badness == b for b in (1, 2, 3))], [settled, *bad]))

    @property
    def settled(self) -> NDArray[np.int64]:
        """Number of trials that settled."""
        return np.asarray(self.counts[..., _BADNESS == 0].sum(axis=-1))

    @property
    def trials(self) -> NDArray[np.int64]:
        """Number of trials."""
        return np.asarray(self.counts.sum(axis=-1))


def _or_infinite(column: pa.ChunkedArray) -> FloatArray:
    values = numbers(column)
    return np.where(np.isnan(values), np.inf, values)


def _least(cell: NDArray[np.intp], values: FloatArray, number: int) -> FloatArray:
    """The least of each cell's values; inf where there are none."""
    least = np.full(number, np.inf)
    np.minimum.at(least, cell, values)
    return least


def _moments(
    cell: NDArray[np.intp], values: FloatArray, number: int
) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """The number of each cell's values, their mean, and the sum of squared deviations from it."""
    count = np.bincount(cell, minlength=number)
    mean = np.divide(np.bincount(cell, values, number), count, out=np.zeros(number), where=count > 0)
    squares = np.bincount(cell, (values - mean[cell]) ** 2, number)
    return count, mean, np.asarray(squares, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Panel:
    """One map: ``cells`` has two axes, the first goes across; ``title`` is empty where there is only one panel."""

    title: str
    cells: Cells
    beside: tuple[tuple[MapAxis, int], ...] = ()  # the axes that other panels vary, and this one's place on each
