"""Shares of the verdicts along one axis: the stability map of sweeps over a single parameter."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from sgdcore.verdict import VERDICTS
from sweeps.config.schema import REPEATS
from sweeps.report.colors import COLOURS, SYMBOLS
from sweeps.report.theme import pattern, template
from sweeps.results.results import Results
from sweeps.text.formatting import heading

MIN_VALUES = 3


def verdict_shares(results: Results, axis: str | None = None) -> go.Figure | None:
    """Draw the share of each verdict by value of an axis, by default the widest.

    None if the axis has fewer than MIN_VALUES values.
    """
    axis = axis or next((name for name in results.axes if name not in REPEATS), None)
    if axis is None or len(results.values[axis]) < MIN_VALUES:
        return None
    cells = results.aggregate.cells[(axis,)]
    (place,), run = cells.axes, cells.trials > 0
    figure = go.Figure(layout={"template": template(), "barmode": "stack", "bargap": 0, "height": 360})
    for i, verdict in enumerate(VERDICTS):
        if cells.counts[:, i].any():
            figure.add_bar(
                x=place.centres[run],
                y=cells.counts[run, i] / cells.trials[run],
                width=np.diff(place.edges)[run],
                name=f"{SYMBOLS[verdict]} {verdict}",
                marker={
                    "color": COLOURS[verdict],
                    "line": {"width": 0},
                    "pattern": pattern(verdict),
                },
                customdata=place.labels[run],
                hovertemplate=f"{heading(axis)} %{{customdata}}<br>{verdict}: %{{y:.1%}}<extra></extra>",
            )
    figure.update_layout(legend_traceorder="normal")
    figure.update_xaxes(title_text=heading(axis), showgrid=False, **place.layout())
    return figure.update_yaxes(title_text="share of trials", tickformat=".0%", range=[0, 1])
