"""Final verdicts, relative to the best objective of the whole sweep, for losses without a known minimum.

A shard computes verdicts from its own best objective. Once all shards are stored, the verdicts are recomputed from the
sweep's best. The operation is idempotent.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore import Thresholds
from sgdcore.verdict import absolute, conclude, least_reached
from sweeps import arrow_columns
from sweeps.config.schema import FOLD
from sweeps.store.store import SweepFiles


def apply_final_verdicts(files: SweepFiles, thresholds: Thresholds) -> None:
    """Update ``verdict`` and ``steps_to_tolerance`` in all stored shards."""
    for index, table, judged in final_verdicts(files, thresholds):
        if not judged.equals(table):
            files.shards.replace(index, judged)


def final_verdicts(files: SweepFiles, thresholds: Thresholds) -> Iterator[tuple[int, pa.Table, pa.Table]]:
    """Yield each stored shard's index, its table, and the table with the correct verdicts and steps_to_tolerance."""
    done = sorted(files.shards.done())
    if not done:
        return
    objective = _objective(files.shards.schema(done[0]))
    columns = [name for name in files.shards.schema(done[0]).names if name.partition(".")[0] in ("weight_decay", FOLD)]
    epochs = files.config().training.epochs
    best: dict[tuple[float, ...], float] = {}
    for table in files.shards.tables([*columns, objective]):
        decays = np.array([table[name].to_numpy() for name in columns])
        distinct, first = np.unique(decays, axis=1, return_index=True)
        least = least_reached(arrow_columns.matrix(table[objective], len(table)), decays)[first]
        for decay, value in zip(distinct.T.tolist(), least.tolist(), strict=True):
            best[*decay] = min(value, best.get((*decay,), np.inf))
    for index, table in zip(done, files.shards.read_many(done), strict=True):
        metadata = files.shards.metadata(index)
        decays = np.array([table[name].to_numpy() for name in columns])
        distinct, places = np.unique(decays, axis=1, return_inverse=True)
        points = np.array(metadata["steps"], dtype=np.int64)
        verdict, steps = conclude(
            arrow_columns.matrix(table[objective], len(table)),
            np.array([best[*decay] for decay in distinct.T.tolist()])[places.reshape(-1)],
            table["first_nonfinite_step"].is_valid().to_numpy(),
            points,
            absolute(thresholds, metadata["loss_scale"]),
            _last_points(table, points, epochs),
            metadata["loss_floor"],
        )
        judged = _replaced(table, "verdict", pa.array(verdict))
        yield index, table, _replaced(judged, "steps_to_tolerance", arrow_columns.steps(steps))


def _last_points(table: pa.Table, steps: NDArray[np.int64], epochs: int) -> NDArray[np.intp]:
    """Return the (T,) last points of the trials' curves, as sgdcore.verdict.conclude takes them."""
    if "stopped_epoch" not in table.column_names:
        return np.full(len(table), len(steps) - 1)
    stopped = arrow_columns.numbers(table["stopped_epoch"])
    reached = np.where(np.isnan(stopped), steps[-1], np.rint(stopped * steps[-1] / epochs))
    return np.asarray(np.searchsorted(steps, reached, side="right") - 1, dtype=np.intp)


def _objective(schema: pa.Schema) -> str:
    """Return the column of the objective that trials minimise."""
    return "objective" if "objective" in schema.names else "loss"


def _replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values.cast(table.schema.field(name).type))
