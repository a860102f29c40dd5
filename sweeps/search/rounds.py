"""Search in rounds: each suggests settings from the results of all rounds before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sweeps.arrow_columns import PRUNED, STOPPED_EPOCH, numbers
from sweeps.config.axis import Axis
from sweeps.config.schema import CLIPPING
from sweeps.search.axes import axes_of
from sweeps.search.base import FloatArray, History, SearchSpace, Stage
from sweeps.search.draws import Points, repeats_of, valid
from sweeps.search.philox_points import PhiloxPoints
from sweeps.search.sobol_points import MAX_DIMENSIONS, SobolPoints
from sweeps.search.trial_table import TrialTable


@dataclass(frozen=True, eq=False)
class Observations:
    """The results of N settings.

    Args:
        levels: (N,) levels in [0, 1] of the settings on each axis, by name: see Axis.levels.
        ranks: (N,) the ranks of the settings by their metric, 0 for the best; equal settings share one. Those that
            overflowed come last, in the order of their growth.
        rounds: (N,) the round of each setting; -1 for those of an earlier sweep.
    """

    levels: Mapping[str, FloatArray]
    ranks: FloatArray
    rounds: FloatArray

    def __len__(self) -> int:
        """Return the number of settings."""
        return len(self.ranks)


Suggest = Callable[[Mapping[str, Axis], Observations, int, int], Mapping[str, FloatArray]]
"""Return the levels of the next settings, given the axes, all results, the number of settings and a seed."""


@dataclass(frozen=True)
class RoundsSearch:
    """A search method that starts with Sobol points and lets ``suggest`` choose the settings of all later rounds."""

    suggest: Suggest
    packages: tuple[str, ...]
    is_adaptive: bool = True

    def next_stage(self, space: SearchSpace, history: History) -> Stage | None:
        """Return the next round: ``space.batch`` settings with all seeds and folds, or what is left of the cap."""
        [mapping] = space.mappings
        repeats = repeats_of(space)
        done = sum(len(history[i]) for i in range(len(history)))
        settings = min(space.batch, (space.run_cap - done) // len(repeats))
        if settings < 1:
            return None
        axes = {
            name: axis for name, axis in axes_of(space, mapping).items() if isinstance(axis, Axis) and _varies(axis)
        }
        levels: Mapping[str, FloatArray]
        if len(history) == 0 or not axes:
            levels = _spread(axes, space.search_seed, settings)
        else:
            levels = self.suggest(axes, observations(space, axes, history), settings, seed_of(space, len(history)))
        columns = {
            name: np.full(settings, value.points()[0] + 0.0 if isinstance(value, Axis) else value)
            for name, value in axes_of(space, mapping).items()
        }
        columns |= {name: axis.quantiles(levels[name]) + 0.0 for name, axis in axes.items()}
        each = np.arange(settings * len(repeats))
        rows = repeats.rows(each % len(repeats))
        rows |= {name: np.repeat(values, len(repeats)) for name, values in valid(columns).items()}
        return Stage((TrialTable(rows),))


def observations(space: SearchSpace, axes: Mapping[str, Axis], history: History) -> Observations:
    """Return the settings of an earlier sweep and of all rounds, with the mean of their metric over seeds and folds."""
    earlier = [] if (settings := history.earlier) is None else [_of_round(space, axes, settings)]
    parts = [*earlier, *(_of_round(space, axes, history[i]) for i in range(len(history)))]
    numbers_of_rounds = np.arange(-len(earlier), len(history), dtype=np.float64)
    metric, growth, missed = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    return Observations(
        levels={name: np.concatenate([part[0][name] for part in parts]) for name in axes},
        ranks=_ranks(metric, growth, missed),
        rounds=np.repeat(numbers_of_rounds, [len(part[1]) for part in parts]),
    )


def seed_of(space: SearchSpace, stage: int) -> int:
    """Return the seed of a round, below 2^31."""
    digest = hashlib.blake2b(f"{space.search_seed} {stage}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def _of_round(
    space: SearchSpace, axes: Mapping[str, Axis], table: pa.Table
) -> tuple[dict[str, FloatArray], FloatArray, FloatArray, FloatArray]:
    """Return the levels, mean metric, growth and minus the epochs of a round's settings.

    A mean is NaN where a repeat overflowed; the epochs are inf where a setting was trained to the end.
    """
    columns = {name: _column(table, name) for name in axes}
    keys = np.column_stack([np.nan_to_num(values) for values in columns.values()])
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    which, order = which.reshape(-1), np.argsort(first)
    overflow = numbers(table["first_nonfinite_step"])
    metric = np.where(np.isnan(overflow), numbers(table[space.metric]), np.nan)
    stopped = numbers(table[STOPPED_EPOCH]) if PRUNED in table.column_names else np.full(len(table), np.nan)
    missed = -np.where(np.isnan(stopped), np.inf, stopped)[first[order]]
    mean = np.bincount(which, metric) / np.bincount(which)
    growth = np.zeros(len(first))
    np.maximum.at(growth, which, np.where(np.isnan(overflow), 0, 1 / np.maximum(overflow, 1)))
    return (
        {n: axes[n].levels(values[first[order]]) for n, values in columns.items()},
        mean[order],
        growth[order],
        missed,
    )


def _column(table: pa.Table, name: str) -> FloatArray:
    """Return the values of an axis; inf where clipping is off, which is null in shard files."""
    values = numbers(table[name])
    return np.where(np.isnan(values), np.inf, values) if name in CLIPPING else values


def _ranks(metric: FloatArray, growth: FloatArray, missed: FloatArray) -> FloatArray:
    """Return the rank of each setting, from 0 for the best.

    As in Optuna, pruned settings follow those trained to the end, the earlier they stopped the later. Settings without
    a metric come last, by their growth.
    """
    keys = np.column_stack([np.isnan(metric), missed, np.nan_to_num(metric), growth])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.float64)


def _varies(axis: Axis) -> bool:
    return axis.distribution_name != "constant" and len(axis.points()) > 1


def _spread(axes: Mapping[str, Axis], seed: int, settings: int) -> dict[str, FloatArray]:
    """Return the levels of Sobol points, or of pseudorandom points if there are too many axes."""
    names = tuple(axes)
    points: Points = SobolPoints(seed, names) if len(names) <= MAX_DIMENSIONS else PhiloxPoints(seed)
    return {name: points.column(name, 0, settings) for name in names}
