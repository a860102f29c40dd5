"""Results: the stored trials of a sweep, aggregated shard by shard, and single trials and curves on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import combinations
from operator import add
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sweeps.arrow_columns import PRUNED, STOPPED_EPOCH, VALIDATION_LOSSES, matrix, numbers
from sweeps.config.schema import CLIPPING, FOLD, HYPERPARAMETERS, REPEATS, MetricName, SweepConfig
from sweeps.results.aggregate import Aggregate, Scope
from sweeps.results.binning import MAX_CELLS, MAX_MAP_CELLS, MapAxis, pair
from sweeps.results.cache import AggregateCache
from sweeps.results.cross_validation import fold_means
from sweeps.results.frames import frame, nothing
from sweeps.results.heatmap import Cells, Outcomes
from sweeps.results.ranking import Ranking
from sweeps.results.top_k import DistinctValues, TopK
from sweeps.store.sweep_files import Extent, SweepFiles

MAX_FINAL_COLUMNS = 16  # models with more parameters have no columns of final values
_MAX_PAIRED = 6  # number of axes aggregated in pairs
_MAX_SETTINGS = 50_000  # for more settings, the spread over seeds is not computed
_PER_CELL, _PER_BIN = 5, 20  # drawn trials per cell of a map, and per bin of an axis
_FEW_BINS = 5
_CROSSED = 0.9  # minimum share of its combinations that a crossed pair of axes has run
T = TypeVar("T")

_MADE_BY = ("kernel", "device", "prediction")


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a sweep so far; some or all shards can be missing."""

    files: SweepFiles
    config: SweepConfig
    manifest: dict[str, Any]  # plan.json
    extent: Extent  # the planned stages, trials and shards
    metadata: dict[str, Any]  # steps, parameters, kernel, device, prediction
    shards: tuple[tuple[int, int, int], ...]  # (index, first trial, number of trials) of the stored shards, in order

    @property
    def metric(self) -> MetricName:
        """The column that ranks trials."""
        return self.config.metric_name

    def ranked_by(self, metric: MetricName) -> Results:
        """Return the same results with their trials ranked by another metric."""
        if metric == self.metric:
            return self
        return replace(self, config=self.config.ranked_by(metric))

    @property
    def losses(self) -> list[str]:
        """The columns of a trial's losses, the metric first."""
        validation = VALIDATION_LOSSES if self.config.task.dataset.validation else ()
        return list(dict.fromkeys([self.metric, "final_loss", "best_loss", *validation]))

    @property
    def planned(self) -> int:
        """The number of planned trials."""
        return self.extent.trials

    @property
    def stored(self) -> int:
        """The number of stored trials."""
        return sum(trials for _, _, trials in self.shards)

    @property
    def parameters(self) -> list[str]:
        """The names of the model's parameters."""
        return list(self.metadata["parameters"])

    @cached_property
    def starts(self) -> list[str]:
        """The names of the start value columns."""
        return [name for name in self._scalars if name.startswith("init.")]

    @property
    def time(self) -> Literal["step", "epoch"]:
        """The column of curves by which trials are compared: epochs if they differ in their steps."""
        return "epoch" if self.config.is_divided else "step"

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the columns beyond the hyperparameters and start values."""
        return self.config.options

    @property
    def settings(self) -> list[str]:
        """The columns that tell settings apart: hyperparameters, options, start values."""
        return [*HYPERPARAMETERS, *(name for name in self.options if name not in REPEATS), *self.starts]

    @property
    def repeats(self) -> list[str]:
        """The columns that repeat a setting: the seed, and the fold with a cross-validation."""
        return [name for name in REPEATS if name == "seed" or name in self.options]

    @cached_property
    def values(self) -> dict[str, DistinctValues]:
        """The distinct values of each hyperparameter, start value and seed among the stored trials."""
        return self._cache.get("values", self._find_values)

    @cached_property
    def _cache(self) -> AggregateCache:
        return AggregateCache(self.files, [index for index, _, _ in self.shards], self.stored)

    def _find_values(self) -> dict[str, DistinctValues]:
        columns = [*self.settings, *self.repeats]
        parts = ({c: DistinctValues.of(_known(table[c])) for c in columns} for table in self.tables(columns))
        none = dict.fromkeys(columns, DistinctValues.of(np.empty(0)))
        return reduce(lambda one, other: {c: one[c] + other[c] for c in columns}, parts, none)

    @cached_property
    def axes(self) -> list[str]:
        """The parameters with more than one value among the stored trials, most values first."""
        swept = [name for stage in self.extent.stages for name in stage.swept]
        named = [c for c in dict.fromkeys(swept if "swept" in self.manifest else self.values) if c in self.values]
        return sorted((c for c in named if len(self.values[c]) > 1), key=lambda c: -len(self.values[c]))

    @cached_property
    def swept(self) -> list[str]:
        """The axes in column order: hyperparameters, options, start values, seed, fold."""
        return [c for c in (*self.settings, *self.repeats) if c in self.axes]

    @cached_property
    def aggregate(self) -> Aggregate:
        """The aggregate of all stored trials, from the cache or from one pass over the shards."""
        return self._cache.get(f"aggregate by {self.metric}", self._find_aggregate)

    def _find_aggregate(self) -> Aggregate:
        values = {name: self.values[name].values for name in self.axes}
        paired = [name for name in self.axes if name not in REPEATS][:_MAX_PAIRED]
        along = (
            MAX_CELLS if self.config.method == "grid" else int(np.clip(self.stored // _PER_BIN, _FEW_BINS, MAX_CELLS))
        )
        groups = [(MapAxis.of(values[name], name, along),) for name in self.axes]
        groups += [pair(a, values[a], b, values[b], self.map_cells) for a, b in combinations(paired, 2)]  # type: ignore[misc]
        settings = [MapAxis.of(values[name], name, len(values[name])) for name in self.axes if name not in REPEATS]
        repeated = "seed" in self.axes and FOLD not in self.options
        spread = repeated and math.prod(len(axis.labels) for axis in settings) <= _MAX_SETTINGS
        scope = Scope(
            ranking=Ranking.of(self.config, self.metadata),
            epochs=self.config.training.epochs,
            groups=tuple(groups),
            settings=tuple(settings) if spread else (),
        )
        columns = [name for name in self._scalars if name != "trial_id"]
        parts = (Aggregate.of(table, scope) for table in self.tables(columns))
        first = next(parts, None) or Aggregate.of(nothing(self.parameters, self.options), scope)
        return reduce(add, parts, first)

    @cached_property
    def pruning(self) -> tuple[int, float]:
        """The number of trials that early termination pruned, and the share of all epochs that it saved."""

        def count() -> tuple[int, float]:
            epochs = [numbers(table[STOPPED_EPOCH]) for table in self.tables([STOPPED_EPOCH])]
            stopped = np.concatenate(epochs)[~np.isnan(np.concatenate(epochs))] if epochs else np.empty(0)
            saved = float(np.sum(1 - stopped / self.config.training.epochs)) / max(self.stored, 1)
            return len(stopped), saved

        found = self.cached("pruning", count) if self.config.early_terminate is not None else (0, 0.0)
        return int(found[0]), float(found[1])

    @cached_property
    def fold_means(self) -> pd.DataFrame:
        """The settings by their mean over the folds (sweeps.results.cross_validation); empty without folds."""
        return fold_means(self.files, self.config)

    @property
    def map_cells(self) -> int:
        """The most cells of a map of two axes: of a grid all, of drawn trials as many as have several trials each."""
        most = MAX_MAP_CELLS if self.config.method == "grid" else self.stored // _PER_CELL
        return int(np.clip(most, _FEW_BINS**2, MAX_MAP_CELLS))

    @property
    def widest_pair(self) -> Cells | None:
        """The cells of the two widest axes that were crossed, the wider first; None if there are fewer than two axes.

        If the search space is a list, two axes can have few combinations in common. Their map would be almost empty,
        so such a pair is used only if no pair was crossed.
        """
        pairs = [cells for names, cells in self.aggregate.cells.items() if len(names) == 2]  # in order of width
        shares = [float((cells.trials > 0).mean()) for cells in pairs]
        full = [cells for cells, share in zip(pairs, shares, strict=True) if share >= _CROSSED]
        return full[0] if full else pairs[int(np.argmax(shares))] if pairs else None

    def cached(self, name: str, make: Callable[[], T]) -> T:
        """Return the result of ``make``, computed once; for large sweeps it is also cached in the sweep's folder."""
        if name not in self._made:
            self._made[name] = self._cache.get(f"{name} by {self.metric}", make)
        made: T = self._made[name]
        return made

    @cached_property
    def _made(self) -> dict[str, Any]:
        return {}

    def cells(self, *axes: MapAxis) -> Cells:
        """Return the cells of any axes, in a separate pass over the stored trials."""
        columns = list(dict.fromkeys([*Outcomes.columns(self.metric), *(axis.name for axis in axes)]))
        return reduce(
            add,
            (
                Cells.of(axes, table, Outcomes.of(table, self.metric, self.config.task.is_signed))
                for table in self.tables(columns)
            ),
        )

    def shown(self, leading: TopK, n: int | None = None) -> pd.DataFrame:
        """Return the first n rows of a ranking as a DataFrame; do not change it."""
        known = self._shown.get(id(leading))
        if known is None:
            known = self._shown[id(leading)] = leading, frame(leading.table, self.parameters)
        return known[1].iloc[:n]

    @cached_property
    def _shown(self) -> dict[int, tuple[TopK, pd.DataFrame]]:
        return {}  # by id, which stays taken while the ranking is kept

    @cached_property
    def trials(self) -> pd.DataFrame:
        """All stored trials as rows, about 0.3 kB each in memory; for notebooks, reports do not use it.

        Columns are the shards' scalar columns, final.<name> for models with up to 16 parameters, and growth: the last
        finite loss divided by the first.
        """
        return pd.concat(
            [*self.frames()] or [frame(nothing(self.parameters, self.options), self.parameters)], ignore_index=True
        )

    @property
    def settled(self) -> pd.DataFrame:
        """The rows of :attr:`trials` that neither diverged nor are diverging."""
        return self.trials[~self.trials["verdict"].isin(["diverging", "diverged"])]

    def frames(self) -> Iterator[pd.DataFrame]:
        """Yield the rows of :attr:`trials` shard by shard."""
        for table in self.tables(self._scalars):
            yield frame(table, self.parameters)

    def tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield the given columns of the stored trials shard by shard."""
        for table in self.files.shards.read_many((index for index, _, _ in self.shards), columns):
            yield _without_limit(table.replace_schema_metadata())

    def complete(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield the given columns as :meth:`tables` does, without the trials that early termination pruned."""
        if self.config.early_terminate is None:
            yield from self.tables(columns)
            return
        for table in self.tables([*columns, PRUNED]):
            yield table.filter(pc.invert(table[PRUNED])).select(columns)

    def matching(self, where: Mapping[str, Any]) -> list[int]:
        """Return the numbers of the trials with these values; floats are compared up to rounding."""
        found: list[int] = []
        for table in self.tables(["trial", *where]):
            inside = np.ones(len(table), dtype=bool)
            for name, value in where.items():
                column = table[name].to_numpy()
                if column.dtype.kind == "f":
                    inside &= np.isclose(column, value, rtol=4 * np.finfo(column.dtype).eps, atol=0)
                else:
                    inside &= column == value
            found += table["trial"].to_numpy()[inside].tolist()
        return found

    def rows(self, numbers: Sequence[int]) -> pd.DataFrame:
        """Return trials by number, as rows of :attr:`trials`. Only the shards that hold them are read."""
        tables = [table for _, table in self._some(numbers, self._scalars)]
        return frame(pa.concat_tables(tables) if tables else nothing(self.parameters, self.options), self.parameters)

    def ids(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return ``trial`` and ``trial_id`` of trials by number. Only the shards that hold them are read."""
        return [row for _, table in self._some(numbers, ["trial", "trial_id"]) for row in table.to_pylist()]

    def curves(self, numbers: Sequence[int], only: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the curves of trials, one row per trial and recorded step.

        Columns are trial, step, epoch, loss and, if recorded, validation_loss and param.<name>; ``only`` selects among
        the curves. Values are NaN from the step at which a trial stopped. Only the
        shards that hold the trials are read.
        """
        wanted = [name for name in self._recorded if only is None or name in ("trial", *only)]
        frames = [self._curves_of(table, index) for index, table in self._some(numbers, wanted)]
        columns = ["trial", "step", "epoch", "loss"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns, dtype=float)

    def final(self, numbers: Sequence[int]) -> dict[int, NDArray[Any]]:
        """Return the final parameters by trial number, in the training's dtype; NaN if not finite."""
        found: dict[int, NDArray[Any]] = {}
        for _, table in self._some(numbers, ["trial", "final"]):
            values = matrix(table["final"], len(table))
            found |= dict(zip(table["trial"].to_pylist(), values, strict=True))
        return found

    @cached_property
    def _schema(self) -> pa.Schema:
        return (
            self.files.shards.schema(self.shards[0][0])
            if self.shards
            else nothing(self.parameters, self.options).schema
        )

    @property
    def _scalars(self) -> list[str]:
        final = ["final"] if len(self.parameters) <= MAX_FINAL_COLUMNS else []
        stored = [field.name for field in self._schema if not pa.types.is_list(field.type)]
        return list(dict.fromkeys([*stored, *self.losses])) + final

    @property
    def _recorded(self) -> list[str]:
        lists = [field.name for field in self._schema if pa.types.is_list(field.type)]
        return ["trial", *(name for name in lists if name != "final")]

    def _some(self, numbers: Sequence[int], columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the rows of trials by number, shard by shard, with the shard's index."""
        wanted = np.unique(np.asarray(numbers, dtype=np.int64))
        places = np.searchsorted([first for _, first, _ in self.shards], wanted, side="right") - 1
        holding = [self.shards[place][0] for place in np.unique(places[places >= 0])]
        for index, table in zip(holding, self.files.shards.read_many(holding, columns), strict=True):
            rows = table.filter(pa.array(np.isin(table["trial"].to_numpy(), wanted)))
            if len(rows):
                yield index, _without_limit(rows.replace_schema_metadata())

    def _curves_of(self, table: pa.Table, shard: int) -> pd.DataFrame:
        metadata = self.files.shards.metadata(shard) if self.config.is_divided else self.metadata
        steps = np.asarray(metadata["steps"], dtype=np.int64)
        columns: dict[str, NDArray[Any]] = {
            "trial": np.repeat(table["trial"].to_numpy(), len(steps)),
            "step": np.tile(steps, len(table)),
            "epoch": np.tile(steps * self.config.training.epochs / max(1, steps[-1]), len(table)),
        }
        columns |= {c: matrix(table[c], len(table)).ravel() for c in table.column_names if c != "trial"}
        return pd.DataFrame(columns)


def load_results(files: SweepFiles) -> Results:
    """Open the stored results of a sweep; trials are read on demand.

    Raises:
        StoreError: a file of the sweep is damaged.
    """
    manifest = files.manifest()
    done = sorted(files.shards.done())
    unknown = {
        "steps": [],
        "parameters": manifest.get("parameters", []),
        "loss_scale": 1.0,
        "loss_floor": 0.0,
        **dict.fromkeys(_MADE_BY),
    }
    return Results(
        files=files,
        config=files.config(),
        manifest=manifest,
        extent=files.planned(),
        metadata=files.shards.metadata() if done else unknown,
        shards=tuple((index, *extent) for index, extent in zip(done, files.shards.extents(done), strict=True)),
    )


def _without_limit(table: pa.Table) -> pa.Table:
    """Return a table in which a clipping that is off, null in shard files, is a limit of inf."""
    for name in CLIPPING:
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, table[name].fill_null(np.inf))
    return table


def _known(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column's distinct values, without nulls."""
    return np.asarray(pc.unique(column).drop_null().to_numpy(zero_copy_only=False))
