"""Conversion between NumPy arrays and Arrow columns; null stands for missing values and values that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore.trajectories import NEVER, FloatArray, last_finite

PRUNED, STOPPED_EPOCH = "pruned", "stopped_epoch"  # columns of trials that stopped before their last epoch
VALIDATION_LOSSES = ("final_validation_loss", "best_validation_loss")


def floats(values: NDArray[Any]) -> pa.Array:
    """Return values as a column, with null for values that are not finite."""
    return pa.array(values, mask=~np.isfinite(values))


def steps(values: NDArray[Any]) -> pa.Array:
    """Return steps as a column, with null for NEVER."""
    return pa.array(values, mask=values == NEVER)


def texts(indices: NDArray[np.intp], words: Sequence[str]) -> pa.Array:
    """Return ``words[index]`` for each index as a column, with null for negative indices."""
    places = pa.array(indices.astype(np.int32), mask=indices < 0)
    return pa.DictionaryArray.from_arrays(places, pa.array(words, pa.string())).cast(pa.string())


def lists(values: NDArray[Any]) -> pa.Array:
    """Return (T, K) values as a column of T lists of length K, with null for values that are not finite.

    The list field has the name that Parquet gives it, so that writing a table that was read produces the same bytes.
    """
    trials, points = values.shape
    flat = np.ascontiguousarray(values).reshape(-1)
    offsets = np.arange(0, (trials + 1) * points, points or 1, dtype=np.int32)[: trials + 1]
    parts = floats(flat)
    return pa.ListArray.from_arrays(pa.array(offsets), parts, type=pa.list_(pa.field("element", parts.type)))


def matrix(column: pa.ChunkedArray, rows: int) -> NDArray[Any]:
    """Return a column of lists of equal length K as a (rows, K) matrix; null becomes NaN."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values).reshape(rows, -1)


def validation_losses(curves: NDArray[np.float64], final: NDArray[np.float64] | None = None) -> dict[str, FloatArray]:
    """Return the (T,) final and least finite validation losses of (T, K) curves, NaN if there are none, by column.

    Without ``final``, the final ones are the last finite ones.
    """
    finite = np.where(np.isfinite(curves), curves, np.inf)
    last = finite[np.arange(len(curves)), last_finite(curves)] if final is None else final
    found = {"final_validation_loss": last, "best_validation_loss": finite.min(axis=1)}
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in found.items()}


def numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of numbers or booleans as a float64 array; null becomes NaN."""
    return np.asarray(column.to_numpy(), dtype=np.float64)
