"""The order of best trials, for reports, MLflow runs, ``top:N`` and the logged model.

Trials that did not diverge are sorted by the sweep's metric, then by fewer steps to tolerance, then by lower number.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweeps.arrow_columns import numbers
from sweeps.results.top_k import TopK
from sweeps.store.store import SweepFiles


def is_ranked(table: pa.Table, metric: str) -> NDArray[np.bool_]:
    """Return which trials of a table can be the best: those that did not diverge and have the metric."""
    ranked: NDArray[np.bool_] = (table["verdict"].to_numpy() != "diverged") & ~np.isnan(numbers(table[metric]))
    return ranked


def ranking_keys(table: pa.Table, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return the keys to sort trials by, the best first; NaN comes last."""
    return numbers(table[metric]), numbers(table["steps_to_tolerance"]), table["trial"].to_numpy()


def best_trials(files: SweepFiles, metric: str, count: int) -> dict[int, list[int]]:
    """Return the numbers of the ``count`` best stored trials, the best first, by the index of their shard."""
    best: TopK | None = None
    for index in sorted(files.shards.done()):
        table = files.shards.read(index, ["trial", "verdict", "steps_to_tolerance", metric]).replace_schema_metadata()
        table = table.append_column("shard", pa.array(np.full(len(table), index)))
        part = TopK.of(table, np.flatnonzero(is_ranked(table, metric)), ranking_keys(table, metric), count)
        best = part if best is None else best + part
    chosen: dict[int, list[int]] = {}
    for row in best.table.select(["shard", "trial"]).to_pylist() if best is not None else ():
        chosen.setdefault(row["shard"], []).append(row["trial"])
    return chosen
