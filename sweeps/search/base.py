"""The interface of search methods: the search space, stages of trials, and the history of results.

A sweep runs in stages. A stage is a set of trials; stage n is a pure function of the config and of the results of the
stages before it, so that a sweep can be resumed and verified from its store alone. A grid has one stage.

To add a method, add a module with its name and a constant ``METHOD`` to this package, and its name to
``SweepConfig.method``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sweeps.config.axis import Axis
from sweeps.config.schema import BATCH_SIZE, CLIPPING, FOLD, HYPERPARAMETERS, LEAST_POPULATION, SweepConfig

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]
_MOST_BATCH, _ROUNDS = 64, 10  # settings per round, and rounds, by default


class TrialSet(Protocol):
    """A set of trials, one per row: a product of axes (:class:`sweeps.search.product.Product`), draws from
    distributions (:class:`sweeps.search.draws.Draws`) or a table (:class:`sweeps.search.trial_table.TrialTable`).

    The columns are those of :attr:`SearchSpace.columns`; booleans are 0.0 and 1.0.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, name: str) -> FloatArray:
        """Return the values that occur in a column, in any order; of a continuous distribution, its quantiles."""

    def rows(self, indices: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Return the columns of the rows with these indices."""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """The search space from which a method chooses trials.

    Args:
        mappings: the axes of the sweep file's ``parameters`` by name; the sweep is the union of the mappings.
        seeds: the seeds of every setting.
        starts: the S model parameters that can be given start values.
        options: the axes beyond the hyperparameters and start values, with the value of trials that have no such axis:
            the sweep file's batch size, inf for no clipping, NaN for the default parameter group's value or the number
            in the schedule.
        folds: the number of folds, with each of which every setting is trained; 0 without cross-validation.
        run_cap: the number of trials that a method draws; 0 for a grid.
        search_seed: the seed of the draws.
        batch: the number of settings per round of a method that learns.
        metric: the column that ranks trials, the lowest first.
    """

    mappings: tuple[Mapping[str, Axis], ...]
    seeds: tuple[int, ...]
    starts: tuple[str, ...]
    options: Mapping[str, float] = field(default_factory=dict)
    folds: int = 0
    run_cap: int = 0
    search_seed: int = 0
    batch: int = 0
    metric: str = "final_loss"

    @classmethod
    def of(cls, config: SweepConfig, starts: tuple[str, ...]) -> SearchSpace:
        """Return the search space of a sweep file."""
        options = {name: math.inf if name in CLIPPING else math.nan for name in config.options}
        if BATCH_SIZE in options:
            options[BATCH_SIZE] = float(config.training.batch_size)
        options.pop(FOLD, None)
        folds, cap = config.task.dataset.folds, config.run_cap or 0
        settings = cap // (len(config.seeds) * max(1, folds))
        return cls(
            mappings=tuple(config.mappings()),
            seeds=config.seeds,
            starts=starts,
            options=options,
            folds=folds,
            run_cap=cap,
            search_seed=config.search_seed,
            batch=config.batch or max(LEAST_POPULATION, min(_MOST_BATCH, settings // _ROUNDS)),
            metric=config.metric_name,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every trial has: the seed, the fold, the start values, the hyperparameters, the options."""
        return ("seed", *self.repeats, *(f"init.{name}" for name in self.starts), *HYPERPARAMETERS, *self.options)

    @property
    def repeats(self) -> dict[str, FloatArray]:
        """The column of folds, if there are any."""
        return {FOLD: np.arange(self.folds, dtype=np.float64)} if self.folds else {}


@dataclass(frozen=True, eq=False)
class Stage:
    """The trials that run next. The planner drops combinations that torch rejects, and repeated trials."""

    trials: tuple[TrialSet, ...]


class History(Sequence["pa.Table"]):
    """The results of the stages that have run: one table per stage, with one row per trial in the order of trials.

    The columns are the scalar columns of the shard files, except ``verdict`` and ``steps_to_tolerance``, which can
    change while later stages run. Tables are read on access.
    """

    @property
    def earlier(self) -> pa.Table | None:
        """The settings of another sweep to learn from, with the columns that a method needs; None without one."""
        return None


class NoHistory(History):
    """The history before the first stage."""

    def __len__(self) -> int:
        """Return 0."""
        return 0

    def __getitem__(self, index: object) -> pa.Table:
        """Raise IndexError."""
        raise IndexError(index)


class SearchMethod(Protocol):
    """The interface of a search method, which chooses the trials of a sweep."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The optional packages that the method needs."""

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
    """Return the parameters that init.NAME selects: one for init.weight.0, all weights for init.weight."""
    given = name.removeprefix("init.")
    return [p for p in starts if p == given or p.startswith(f"{given}.")]
