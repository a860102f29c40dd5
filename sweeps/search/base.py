"""Search methods: what a method is given, what it answers, and where the methods are found.

A sweep runs in stages. A stage is a set of trials; stage n is a pure function of the config and of the results of the
stages before it, so that resuming and verifying a sweep need nothing but its store. A grid has one stage.

To add a method, write a module of its name in this package with a constant ``METHOD``, and add the name to
``SweepConfig.method``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sweeps.config.axis import Axis
from sweeps.config.schema import HYPERPARAMETERS, SweepConfig

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]


class TrialSet(Protocol):
    """Trials as rows: a formula (:class:`sweeps.search.product.Product`) or a table of values
    (:class:`sweeps.search.trial_table.TrialTable`).

    Columns are those of :meth:`SearchSpace.columns`; booleans are 0.0 and 1.0.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, name: str) -> FloatArray:
        """Return the values that occur in a column, in any order."""

    def rows(self, indices: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Return the columns of the rows with these indices."""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """What a method chooses trials from.

    Args:
        mappings: the axes of the sweep file's ``parameters`` by name; the sweep is the union of the mappings.
        seeds: the seeds of every setting.
        starts: the S model parameters that can be given start values.
    """

    mappings: tuple[Mapping[str, Axis], ...]
    seeds: tuple[int, ...]
    starts: tuple[str, ...]

    @classmethod
    def of(cls, config: SweepConfig, starts: tuple[str, ...]) -> SearchSpace:
        """Return the search space of a sweep file."""
        return cls(tuple(config.mappings()), config.seeds, starts)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every trial has: the seed, the start values, the hyperparameters."""
        return ("seed", *(f"init.{name}" for name in self.starts), *HYPERPARAMETERS)


@dataclass(frozen=True, eq=False)
class Stage:
    """The trials that run next. Combinations that torch rejects, and repeated trials, are dropped by the planner."""

    trials: tuple[TrialSet, ...]


class History(Sequence["pa.Table"]):
    """The results of the stages that have run: one table per stage, one row per trial, in order of trials.

    Columns are the scalar columns of the shard files, except ``verdict`` and ``steps_to_tolerance``: those can still
    change while later stages run. A table is read when it is asked for.
    """


class NoHistory(History):
    """The history before the first stage."""

    def __len__(self) -> int:
        """Return 0."""
        return 0

    def __getitem__(self, index: object) -> pa.Table:
        """Raise IndexError."""
        raise IndexError(index)


class SearchMethod(Protocol):
    """Chooses the trials of a sweep."""

    @property
    def is_adaptive(self) -> bool:
        """Whether later stages depend on earlier results. If not, there is one stage."""

    def next_stage(self, space: SearchSpace, history: History) -> Stage | None:
        """Return the stage that follows ``history``, or None if the search is complete.

        The same space and history must always give the same stage.
        """


def search_method(name: str) -> SearchMethod:
    """Return the method with this name, as the sweep file's ``method`` spells it."""
    method: SearchMethod = importlib.import_module(f"sweeps.search.{name}").METHOD
    return method


def start_parameters(name: str, starts: tuple[str, ...]) -> list[str]:
    """The parameters that init.NAME stands for: init.weight.0 for one, init.weight for all of several weights."""
    given = name.removeprefix("init.")
    return [p for p in starts if p == given or p.startswith(f"{given}.")]
