"""Where stored trials stopped early, by their recorded curves.

A loss that differs from torch's by a rounding can miss an improvement that torch's makes. Trials are therefore compared
with torch up to where their own curves stop them, and at their own best points.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore.trajectories import NEVER, EarlyStops, FloatArray
from sweeps.arrow_columns import PRUNED, STOPPED_EPOCH, matrix, numbers
from sweeps.planning.prepared import PreparedSweep


def recorded_stops(prepared: PreparedSweep, table: pa.Table) -> EarlyStops | None:
    """Return where the rule stops the trials in rows of a shard file; None without early stopping.

    Args:
        prepared: the sweep, with the batch size of these trials.
        table: rows with ``first_nonfinite_step`` and the curve of ``SweepConfig.stopping_loss``.
    """
    curves = matrix(table[prepared.config.stopping_loss], len(table)) if prepared.early_stopping else np.empty((0, 0))
    return stops_of(prepared, curves, numbers(table["first_nonfinite_step"]))


def pruned_epochs(table: pa.Table) -> list[int]:
    """Return the epochs after which early termination pruned the trials in rows of a shard file; 0: it did not."""
    if PRUNED not in table.column_names:
        return [0] * len(table)
    return [round(epoch or 0) for epoch in table[STOPPED_EPOCH].to_pylist()]


def stops_of(prepared: PreparedSweep, curves: FloatArray, first_nonfinite_step: FloatArray) -> EarlyStops | None:
    """Return where the rule stops trials with these (T, K) curves; NaN is the step of a trial that stayed finite."""
    if (rule := prepared.early_stopping) is None:
        return None
    overflow: NDArray[np.int64] = np.nan_to_num(first_nonfinite_step, nan=NEVER).astype(np.int64)
    return rule.stops(prepared.recording.steps(0, prepared.plan.steps), curves, overflow)
