"""Panels: the stability map's cells, over two axes, one panel for each setting of the axes beside them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa

from sweeps.arrow_columns import numbers
from sweeps.results.binning import MapAxis, pair
from sweeps.results.heatmap import OUTCOME, Outcomes, Panel
from sweeps.results.results import Results
from sweeps.text.formatting import cell, heading, meaning

MAX_CELLS = 40_000  # of all panels: about a megabyte of a page
_MAX_PANELS = 8
_FACETS = ("nesterov", "weight_decay", "dampening")


def stability_panels(results: Results) -> list[Panel]:
    """The panels of the stability map as every page draws it; see :func:`make_panels`."""
    return results.cached("panels", lambda: make_panels(results))


def make_panels(results: Results, most: int = MAX_CELLS) -> list[Panel]:
    """The maps of the two widest axes that were crossed, lr across; none where fewer than two are swept.

    One for each combination of nesterov, weight_decay and dampening that was run, as far as there are at most eight;
    over all other parameters a cell holds its best trial. All have at most ``most`` cells.
    """
    widest = results.widest_pair
    if widest is None:
        return []
    names = sorted((axis.name for axis in widest.axes), key=lambda name: name != "lr")
    facets = _facets(results, names)
    values = results.values
    each = most // max(2, math.prod(len(axis.labels) for axis in facets))
    across, up = pair(names[0], values[names[0]].values, names[1], values[names[1]].values, each)
    cells = results.cells(across, up, *facets)
    found = []
    for places in _product(facets):
        part = cells.at(*places)
        if part.trials.any():
            title = ", ".join(_said(axis, place) for axis, place in zip(facets, places, strict=True))
            found.append(Panel(title, part, tuple(zip(facets, places, strict=True))))
    return found


def cell_trials(results: Results, panel: Panel, column: int, row: int) -> pd.DataFrame:
    """The trials of one cell of a panel, the best first as :class:`sweeps.results.heatmap.Cells` compares them.

    One row a trial: trial, the swept parameters, verdict, final_loss, best_loss, steps_to_tolerance. Of the shards only
    these columns are read.
    """
    across, up = panel.cells.axes
    places = [(across, column), (up, row), *panel.beside]
    shown = list(dict.fromkeys(["trial", *results.swept, "verdict", "final_loss", "best_loss", "steps_to_tolerance"]))
    columns = list(dict.fromkeys([*shown, *OUTCOME, *(axis.name for axis, _ in places)]))
    parts = []
    for table in results.tables(columns):
        inside = np.logical_and.reduce([axis.places(numbers(table[axis.name])) == place for axis, place in places])
        if inside.any():
            parts.append(table.filter(pa.array(inside)))
    if not parts:
        return pd.DataFrame(columns=shown)
    found = pa.concat_tables(parts)
    order = Outcomes.of(found).worst_first[::-1]
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


def _said(axis: MapAxis, place: int) -> str:
    return f"{heading(axis.name)} {cell(meaning(axis.labels[place], axis.name), axis.name)}"
