"""Convergence speed: the fewest steps to tolerance along the map's first axis, for selected values of the second."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from sweeps.config.schema import REPEATS
from sweeps.report.theme import LINES, template
from sweeps.results.binning import ticks
from sweeps.results.results import Results
from sweeps.results.stability_map import stability_panels
from sweeps.text.formatting import cell, heading, meaning

_MOST_LINES = 4
_FEWEST = 3  # minimum number of points to draw
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")


def convergence_speed(results: Results) -> go.Figure | None:
    """Draw the fewest steps to tolerance; None if too few trials reach it or only the seed is swept."""
    found = stability_panels(results)
    if found:
        across, up = found[0].cells.axes
        steps = np.minimum.reduce([panel.cells.steps for panel in found])
    else:
        name = next((name for name in results.axes if name not in REPEATS), None)
        if name is None:
            return None
        cells = results.aggregate.cells[(name,)].widened()
        (across, up), steps = cells.axes, cells.steps
    if np.isfinite(steps).sum() < _FEWEST:
        return None
    figure = go.Figure(layout={"template": template(), "height": 420})
    rows = np.flatnonzero(np.isfinite(steps).any(axis=0))
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MOST_LINES)).round().astype(int))]
    for i, row in enumerate(chosen):
        name = f"{heading(up.name)} {cell(meaning(up.labels[row], up.name), up.name)}" if up.name else ""
        figure.add_scatter(
            x=across.positions.astype(np.float32),
            y=np.where(np.isfinite(steps[:, row]), steps[:, row], np.nan).astype(np.float32),
            mode="lines+markers",
            name=name,
            line={"color": LINES[i], "width": 2},
            marker={"symbol": _SYMBOLS[i], "size": 7, "maxdisplayed": 16},
            hovertemplate=f"{heading(across.name)} %{{x:.4~g}}<br>%{{y:,}} steps<extra>{name}</extra>",
        )
    figure.update_layout(showlegend=bool(up.name))
    figure.update_xaxes(title_text=heading(across.name), **across.layout())
    known = np.log10(np.maximum(steps[:, chosen][np.isfinite(steps[:, chosen])], 0.5))
    low, high = known.min() - 0.1, known.max() + 0.1
    return figure.update_yaxes(title_text="steps to tolerance", type="log", range=[low, high], **ticks(low, high))
