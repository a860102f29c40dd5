"""The stability map: cells over two axes, in one panel per combination of the remaining facet parameters."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa

from sweeps.arrow_columns import numbers
from sweeps.results.binning import MapAxis, pair
from sweeps.results.heatmap import Outcomes, Panel
from sweeps.results.results import Results
from sweeps.text.formatting import cell, heading, meaning

MAX_CELLS = 40_000  # cells of all panels, about 1 MB of a page
_MAX_PANELS = 8
_FACETS = ("nesterov", "weight_decay", "dampening")


def stability_panels(results: Results) -> list[Panel]:
    """Return the cached panels of the stability map that all pages draw; see :func:`make_panels`."""
    return results.cached("panels", lambda: make_panels(results))


def make_panels(results: Results, most: int = MAX_CELLS) -> list[Panel]:
    """Return the maps of the two widest crossed axes, with lr as horizontal axis; empty if fewer than two are swept.

    There is one map per combination of nesterov, weight_decay and dampening that was run, at most eight in total. For
    all other parameters, a cell holds the best trial. All maps together have at most ``most`` cells.
    """
    widest = results.widest_pair
    if widest is None:
        return []
    names = sorted((axis.name for axis in widest.axes), key=lambda name: name != "lr")
    facets = _facets(results, names)
    values = results.values
    each = min(most, 2 * results.map_cells) // max(2, math.prod(len(axis.labels) for axis in facets))
    across, up = pair(names[0], values[names[0]].values, names[1], values[names[1]].values, each)
    cells = results.cells(across, up, *facets)
    found = []
    for places in _product(facets):
        part = cells.at(*places)
        if part.trials.any():
            title = ", ".join(_facet_title(axis, place) for axis, place in zip(facets, places, strict=True))
            found.append(Panel(title, part, tuple(zip(facets, places, strict=True))))
    return found


def cell_trials(results: Results, panel: Panel, column: int, row: int) -> pd.DataFrame:
    """Return the trials of one cell of a panel, best first in the order of :class:`sweeps.results.heatmap.Cells`.

    Columns are trial, the swept parameters, verdict, the losses and steps_to_tolerance; only these are read.
    """
    across, up = panel.cells.axes
    places = [(across, column), (up, row), *panel.beside]
    shown = list(dict.fromkeys(["trial", *results.swept, "verdict", *results.losses, "steps_to_tolerance"]))
    columns = list(dict.fromkeys([*shown, *Outcomes.columns(results.metric), *(axis.name for axis, _ in places)]))
    parts = []
    for table in results.tables(columns):
        inside = np.logical_and.reduce([axis.places(numbers(table[axis.name])) == place for axis, place in places])
        if inside.any():
            parts.append(table.filter(pa.array(inside)))
    if not parts:
        return pd.DataFrame(columns=shown)
    found = pa.concat_tables(parts)
    order = Outcomes.of(found, results.metric).worst_first[::-1]
    rows: pd.DataFrame = found.select(shown).take(pa.array(order)).to_pandas()
    return rows.astype({"steps_to_tolerance": "Int64"})


def _facets(results: Results, names: list[str]) -> list[MapAxis]:
    facets: list[MapAxis] = []
    panels = 1
    for name in _FACETS:
        count = len(results.values[name])
        if name in results.axes and name not in names and panels * count <= _MAX_PANELS:
            facets.append(MapAxis.of(results.values[name].values, name))
            panels *= count
    return facets


def _product(facets: list[MapAxis]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for axis in facets:
        places = [(*place, i) for place in places for i in range(len(axis.labels))]
    return places


def _facet_title(axis: MapAxis, place: int) -> str:
    return f"{heading(axis.name)} {cell(meaning(axis.labels[place], axis.name), axis.name)}"
