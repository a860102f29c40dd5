"""The order of best trials, for reports, MLflow runs, ``top:N`` and the logged model.

Trials that did not diverge are sorted by the sweep's metric. Losses that only rounding tells apart are equal; the order
of equals is: fewer steps to tolerance, a smaller predicted radius (a wider margin to the edge of stability), a lower
number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sweeps.arrow_columns import PRUNED, numbers
from sweeps.config.schema import SweepConfig
from sweeps.results.cross_validation import best_setting
from sweeps.results.top_k import TopK
from sweeps.store.store import SweepFiles

_DIGITS = 48  # bits of a loss that are compared
_ROUNDINGS = 16  # a prediction that is off by this many roundings of its dtype still counts as exact

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """The order of a sweep's trials, best first.

    Args:
        metric: the column to sort by.
        noise: a loss up to which the differences of losses are rounding.
        prunes: whether early termination prunes trials; those are not ranked.
        is_signed: whether losses can be negative.
    """

    metric: str
    noise: float
    prunes: bool = False
    is_signed: bool = False

    @classmethod
    def of(cls, config: SweepConfig, metadata: Mapping[str, Any]) -> Ranking:
        """Return the order for a sweep; ``metadata`` of its shards has the scale of its losses."""
        relative = _ROUNDINGS * float(np.finfo(config.training.dtype).eps)
        squared = config.task.loss not in ("mae", "quantile")
        noise = (relative**2 if squared else relative) * metadata.get("loss_scale", 1.0)
        return cls(config.metric_name, noise, config.early_terminate is not None, config.task.is_signed)

    @property
    def columns(self) -> list[str]:
        """The columns that the order needs."""
        pruned = [PRUNED] if self.prunes else []
        return ["trial", "verdict", "steps_to_tolerance", "predicted_radius", self.metric, *pruned]

    def ranked(self, table: pa.Table) -> NDArray[np.bool_]:
        """Return which trials of a table can be the best: those that did not diverge and have the metric."""
        chosen: NDArray[np.bool_] = (table["verdict"].to_numpy() != "diverged") & ~np.isnan(numbers(table[self.metric]))
        return chosen & (numbers(table[PRUNED]) == 0) if self.prunes else chosen

    def keys(self, table: pa.Table) -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.int64]]:
        """Return the keys to sort trials by; NaN comes last."""
        return (
            self.comparable(numbers(table[self.metric])),
            numbers(table["steps_to_tolerance"]),
            numbers(table["predicted_radius"]),
            table["trial"].to_numpy(),
        )

    def comparable(self, losses: FloatArray) -> FloatArray:
        """Return losses rounded so that those that only rounding tells apart are equal."""
        with np.errstate(over="ignore", invalid="ignore"):
            coarse = np.floor(losses / self.noise) * self.noise if self.noise else losses
        digits, powers = np.frexp(losses)
        fine = np.ldexp(np.rint(np.ldexp(digits, _DIGITS)), powers - _DIGITS)
        return np.where(np.abs(losses) * 2.0**-_DIGITS < self.noise, coarse, fine)


@dataclass(frozen=True)
class BestTrial:
    """The best trial of a sweep."""

    shard: int  # index of its shard
    number: int
    trial_id: str
    value: float  # of the sweep's metric; with a cross-validation, the setting's mean


def best_trial(files: SweepFiles, config: SweepConfig) -> BestTrial | None:
    """Return the best stored trial; None if all diverged or none is stored.

    With a cross-validation, it is the first fold's trial of the setting with the best mean over all folds.

    Raises:
        StoreError: a shard is damaged.
    """
    if (setting := best_setting(files, config)) is not None:
        number, mean = setting
        shard = int(files.planned().packs.holding(np.array([number]))[0])
        table = files.shards.read(shard, ["trial", "trial_id"])
        [row] = table.filter(pc.equal(table["trial"], number)).to_pylist()
        return BestTrial(shard, number, row["trial_id"], mean)
    for shard, [number] in best_trials(files, config, 1).items():
        table = files.shards.read(shard, ["trial", "trial_id", config.metric_name])
        [row] = table.filter(pc.equal(table["trial"], number)).to_pylist()
        return BestTrial(shard, number, row["trial_id"], row[config.metric_name])
    return None


def best_trials(files: SweepFiles, config: SweepConfig, count: int) -> dict[int, list[int]]:
    """Return the numbers of the ``count`` best stored trials, the best first, by the index of their shard."""
    done = sorted(files.shards.done())
    if not done:
        return {}
    ranking, best = Ranking.of(config, files.shards.metadata()), None
    for index in done:
        table = files.shards.read(index, ranking.columns).replace_schema_metadata()
        table = table.append_column("shard", pa.array(np.full(len(table), index)))
        part = TopK.of(table, np.flatnonzero(ranking.ranked(table)), ranking.keys(table), count)
        best = part if best is None else best + part
    chosen: dict[int, list[int]] = {}
    for row in best.table.select(["shard", "trial"]).to_pylist() if best is not None else ():
        chosen.setdefault(row["shard"], []).append(row["trial"])
    return chosen
