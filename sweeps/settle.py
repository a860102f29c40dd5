"""settle(): verdicts against the best that the whole sweep has found, where a loss has no minimum known beforehand.

A shard judges its trials by its own best. When all shards are stored, this judges them anew by the sweep's best; done
twice, it changes nothing.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore import Thresholds
from sgdcore.verdict import conclude, least_reached
from sweeps import columns
from sweeps.store import SweepFiles


def settle(files: SweepFiles, thresholds: Thresholds) -> None:
    """Bring the verdicts and steps_to_tolerance of all stored shards up to date."""
    best: dict[float, float] = {}
    for index in sorted(files.done()):
        table = files.read_shard(index)
        decays = table["weight_decay"].to_numpy()
        for decay, least in zip(decays, least_reached(_objective(table), decays), strict=True):
            best[decay] = min(least, best.get(decay, np.inf))
    recorded = np.array(files.metadata()["steps"], dtype=np.int64) if best else np.empty(0, np.int64)
    for index in sorted(files.done()):
        table = files.read_shard(index)
        verdict, steps = conclude(
            _objective(table),
            np.array([best[decay] for decay in table["weight_decay"].to_pylist()]),
            table["first_nonfinite_step"].is_valid().to_numpy(),
            recorded,
            thresholds,
        )
        judged = _replaced(_replaced(table, "verdict", pa.array(verdict)), "steps_to_tolerance", columns.steps(steps))
        if not judged.equals(table):
            files.replace_shard(index, judged)


def _objective(table: pa.Table) -> NDArray[np.float64]:
    column = "objective" if "objective" in table.column_names else "loss"
    return columns.matrix(table[column], len(table))


def _replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values.cast(table.schema.field(name).type))
