"""The edges of stability that boundary search has measured, with theory's growth on both sides of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sweeps.arrow_columns import numbers
from sweeps.config.schema import REPEATS
from sweeps.results.results import Results
from sweeps.search.base import SearchSpace
from sweeps.search.boundary import brackets, edge_axis, other_columns
from sweeps.text.formatting import meaning


def measured_edges(results: Results) -> pd.DataFrame:
    """Return one row per edge, by setting and from low to high; empty for other methods.

    Columns are the swept parameters of the setting; ``edge``, from 1 for the setting's lowest; ``lower`` and ``upper``,
    the values of the axis between which trials become unstable or stable; ``stable``, whether those below or above the
    edge are stable; ``width``, relative to the upper value; and, where theory knows it, the growth per epoch
    (predicted_radius) at both values.
    """
    if results.config.method != "boundary" or not results.stored:
        return pd.DataFrame()
    starts = tuple(name.removeprefix("init.") for name in results.starts)
    space = SearchSpace.of(results.config, starts)
    axis, names = edge_axis(space)[0], other_columns(space)
    measures = ["first_nonfinite_step", "initial_loss", "final_loss", "predicted_radius"]
    table = pa.concat_tables(results.tables(list(dict.fromkeys([axis, *names, *REPEATS[:1], *measures]))))
    shown = [name for name in names if name in results.swept]
    places = zip(*(numbers(table[name]).tolist() for name in (*shown, axis)), strict=True)
    radius = dict(zip(places, numbers(table["predicted_radius"]).tolist(), strict=True))
    rows: list[dict[str, Any]] = []
    before = None
    for found in brackets(space, table):
        setting = dict(zip(names, found.setting, strict=True))
        key = tuple(setting[name] for name in shown)
        rows.append(
            {name: meaning(setting[name], name) for name in shown}
            | {
                "edge": rows[-1]["edge"] + 1 if rows and key == before else 1,
                "lower": found.lower,
                "upper": found.upper,
                "stable": "below" if found.is_stable_below else "above",
                "width": found.width,
                "radius_below": radius.get((*key, found.lower), np.nan),
                "radius_above": radius.get((*key, found.upper), np.nan),
            }
        )
        before = key
    return pd.DataFrame(rows).dropna(axis="columns", how="all")
