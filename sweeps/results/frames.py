"""Convert trials of shard files to DataFrames, with a column per final value, growth and ordered verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from sgdcore.verdict import VERDICTS
from sweeps.arrow_columns import VALIDATION_LOSSES, matrix
from sweeps.config.schema import HYPERPARAMETERS

_STEPS = ("best_step", "first_nonfinite_step", "steps_to_tolerance", "peak_step")
_TEXTS = ("trial_id", "verdict", "overshoot_parameter")
_MEASURES = (
    "predicted_radius",
    "initial_loss",
    "final_loss",
    "best_loss",
    *VALIDATION_LOSSES,
    "best_epoch",
    "overshoot_percent",
    "peak_value",
)


def frame(table: pa.Table, names: list[str]) -> pd.DataFrame:
    """Return trials as a DataFrame.

    Args:
        table: Scalar columns and, optionally, ``final``.
        names: Names of the model's parameters.
    """
    lists = [c for c in table.column_names if c == "final"]
    rows: pd.DataFrame = table.drop_columns([*lists, *(c for c in table.column_names if c == "growth")]).to_pandas()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        growth = rows["final_loss"].to_numpy() / rows["initial_loss"].to_numpy()
    final = matrix(table["final"], len(table)) if lists and len(table) else np.empty((0, len(names)))
    added = {f"final.{name}": final[:, j] for j, name in enumerate(names) if lists}
    added["growth"] = np.where(np.isfinite(growth) & (rows["initial_loss"].to_numpy() > 0), growth, np.nan)
    rows = pd.concat([rows, pd.DataFrame(added)], axis=1)
    rows["verdict"] = pd.Categorical(rows["verdict"], categories=VERDICTS)
    for name in _STEPS:
        rows[name] = rows[name].astype("Int64")
    return rows


def nothing(names: list[str], options: Sequence[str] = ()) -> pa.Table:
    """Return an empty table with the columns of a shard file, for these model parameters and options."""
    types = {
        **dict.fromkeys(("trial", "seed", *_STEPS), pa.int64()),
        **dict.fromkeys(_TEXTS, pa.string()),
        **dict.fromkeys((*HYPERPARAMETERS, *(f"init.{name}" for name in names), *_MEASURES), pa.float64()),
        **dict.fromkeys(options, pa.float64()),
        "final": pa.list_(pa.float64()),
    }
    return pa.schema(types).empty_table()
