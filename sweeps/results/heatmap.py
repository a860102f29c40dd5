"""Map cells: trials counted and compared by their position on one or more axes; cells of shards can be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sgdcore.verdict import VERDICTS
from sweeps.arrow_columns import numbers
from sweeps.results.binning import MapAxis

FloatArray = NDArray[np.float64]
_LEAST = 1e-300  # replaces a loss of 0 before taking logarithms
_BADNESS = np.array([{"diverging": 1, "diverged": 2}.get(verdict, 0) for verdict in VERDICTS], dtype=np.int8)
_EMPTY = 3  # badness of a cell without a trial


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The outcomes of T trials, T > 0."""

    verdict: NDArray[np.intp]  # (T,) indices into VERDICTS
    loss: FloatArray  # the sweep's metric; inf if there is none
    trial: NDArray[np.int64]
    radius: FloatArray  # predicted spectral radius; inf if unknown
    steps: FloatArray  # steps to tolerance; inf for trials that did not converge
    is_signed: bool = False  # whether losses can be negative

    @staticmethod
    def columns(metric: str) -> list[str]:
        """Return the columns that outcomes are read from."""
        return ["trial", "verdict", metric, "predicted_radius", "steps_to_tolerance"]

    @classmethod
    def of(cls, table: pa.Table, metric: str, is_signed: bool = False) -> Outcomes:
        """Read the outcomes from rows of shard files.

        Args:
            table: the rows.
            metric: the column of the loss that ranks trials.
            is_signed: whether losses can be negative.
        """
        verdict = pc.index_in(table["verdict"], pa.array(VERDICTS)).to_numpy().astype(np.intp)
        converged = verdict == VERDICTS.index("converged")  # other trials can reach tolerance and leave it again
        return cls(
            verdict=verdict,
            loss=_or_infinite(table[metric]),
            trial=table["trial"].to_numpy(),
            radius=_or_infinite(table["predicted_radius"]),
            steps=np.where(converged, _or_infinite(table["steps_to_tolerance"]), np.inf),
            is_signed=is_signed,
        )

    def averaged(self, trials: NDArray[np.bool_]) -> FloatArray:
        """Return what is averaged of some trials' losses: their log10, or if they can be negative the losses."""
        return self.loss[trials] if self.is_signed else np.log10(np.maximum(self.loss[trials], _LEAST))

    @cached_property
    def badness(self) -> NDArray[np.int8]:
        """The (T,) badness: 0 settled, 1 diverging, 2 diverged."""
        return np.asarray(_BADNESS[self.verdict])

    @cached_property
    def worst_first(self) -> NDArray[np.intp]:
        """The (T,) order of the trials, worst first."""
        return np.lexsort((-self.trial, -self.loss, -self.badness))


@dataclass(frozen=True, eq=False)
class Cells:
    """One entry per cell of the product of the axes, in the axes' shape; V verdicts.

    The best trial of a cell is a settled one, else a diverging one, else a diverged one; ties are broken by lower
    loss, then by lower trial number.
    """

    axes: tuple[MapAxis, ...]
    counts: NDArray[np.int64]  # (..., V) trials by verdict
    badness: NDArray[np.int8]  # badness of the best trial: 0 settled, 1 diverging, 2 diverged, 3 no trial was run
    loss: FloatArray  # metric of the best trial; inf if it has none
    trial: NDArray[np.int64]  # number of the best trial; -1 if there is none
    position: FloatArray  # (..., axes) values of the best trial
    radius: FloatArray  # smallest predicted radius of all trials; inf if none is known
    steps: FloatArray  # fewest steps to tolerance of the converged trials; inf if none converged
    measured: NDArray[np.int64]  # number of settled trials that have the metric
    mean: FloatArray  # mean of log10 of these losses (see Outcomes.averaged); 0 if there are none
    squares: FloatArray  # sum of squared deviations from that mean

    @classmethod
    def of(cls, axes: Sequence[MapAxis], table: pa.Table, outcomes: Outcomes) -> Cells:
        """Build the cells from rows of shard files and their outcomes."""
        verdict, loss, trial, badness = outcomes.verdict, outcomes.loss, outcomes.trial, outcomes.badness
        columns = [numbers(table[axis.name]) for axis in axes]
        shape = tuple(len(axis.labels) for axis in axes)
        places = [axis.places(column) for axis, column in zip(axes, columns, strict=True)]
        cell = np.ravel_multi_index(places, shape)
        number = int(np.prod(shape))
        counts = np.bincount(cell * len(VERDICTS) + verdict, minlength=number * len(VERDICTS))
        best = np.full(number, -1)
        best[cell[outcomes.worst_first]] = outcomes.worst_first  # the last assignment wins, which is the best trial
        found = best >= 0
        settled = (badness == 0) & np.isfinite(loss)
        measured, mean, squares = _moments(cell[settled], outcomes.averaged(settled), number)
        values = np.stack(columns, axis=-1)
        return cls(
            axes=tuple(axes),
            counts=counts.reshape(*shape, len(VERDICTS)),
            badness=np.where(found, badness[best], np.int8(_EMPTY)).reshape(shape),
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
        """Return the cells of both; moments are combined as in Chan, Golub and LeVeque (1979)."""
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
        """Return the cells at one position on each of the last axes."""
        axes = self.axes[: len(self.axes) - len(places)]
        here: tuple[slice | int, ...] = (*(slice(None) for _ in axes), *places)
        arrays = {name: value[here] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        arrays["position"] = arrays["position"][..., : len(axes)]
        return replace(self, axes=axes, **arrays)

    def widened(self) -> Cells:
        """Return the same cells with an additional last axis of length 1."""
        arrays = {name: value[:, np.newaxis] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, axes=(*self.axes, MapAxis.of([0.0], "")), **arrays)

    @property
    def verdict(self) -> NDArray[np.intp]:
        """The verdict of each cell as an index into VERDICTS; -1 if the cell has no trial.

        It is the best trial's verdict or, if that settled, the most frequent verdict of the settled trials.
        """
        settled = np.where(_BADNESS == 0, self.counts, -1).argmax(axis=-1)
        bad = [VERDICTS.index("diverging"), VERDICTS.index("diverged"), -1]
        return np.asarray(np.select([self.badness == 0, *(self.badness == b for b in (1, 2, 3))], [settled, *bad]))

    @property
    def settled(self) -> NDArray[np.int64]:
        """The number of settled trials of each cell."""
        return np.asarray(self.counts[..., _BADNESS == 0].sum(axis=-1))

    @property
    def trials(self) -> NDArray[np.int64]:
        """The number of trials of each cell."""
        return np.asarray(self.counts.sum(axis=-1))


def _or_infinite(column: pa.ChunkedArray) -> FloatArray:
    values = numbers(column)
    return np.where(np.isnan(values), np.inf, values)


def _least(cell: NDArray[np.intp], values: FloatArray, number: int) -> FloatArray:
    """Return the smallest value of each cell; inf if it has none."""
    least = np.full(number, np.inf)
    np.minimum.at(least, cell, values)
    return least


def _moments(
    cell: NDArray[np.intp], values: FloatArray, number: int
) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """Return the count, mean and sum of squared deviations of each cell's values."""
    count = np.bincount(cell, minlength=number)
    mean = np.divide(np.bincount(cell, values, number), count, out=np.zeros(number), where=count > 0)
    squares = np.bincount(cell, (values - mean[cell]) ** 2, number)
    return count, mean, np.asarray(squares, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Panel:
    """One map: ``cells`` has two axes, the first horizontal; ``title`` is empty if there is only one panel."""

    title: str
    cells: Cells
    beside: tuple[tuple[MapAxis, int], ...] = ()  # axes that vary between panels, and this panel's index on each
