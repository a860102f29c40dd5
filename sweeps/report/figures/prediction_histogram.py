"""The prediction histogram: outcomes by the growth per epoch that theory predicts before running."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from sgdcore.stability import Kind
from sgdcore.verdict import VERDICTS
from sweeps.report.colors import COLOURS, SYMBOLS
from sweeps.report.theme import pattern, template
from sweeps.results.aggregate import RADII
from sweeps.results.results import Results


def prediction_histogram(results: Results) -> go.Figure | None:
    """Draw trials by predicted radius and verdict, with a line at radius 1; None if no prediction is known.

    The last bar holds all radii of 2 or more.
    """
    counts = results.aggregate.predictions.histogram
    if not counts.sum():
        return None
    figure = go.Figure(layout={"template": template(), "height": 380, "barmode": "stack", "bargap": 0.06})
    width = RADII[1] - RADII[0]
    for i, verdict in enumerate(VERDICTS):
        if counts[:, i].any():
            figure.add_bar(
                x=RADII + width / 2,
                y=counts[:, i],
                width=width,
                name=f"{SYMBOLS[verdict]} {verdict}",
                marker={"color": COLOURS[verdict], "pattern": pattern(verdict)},
                hovertemplate=f"{verdict}: %{{y:,}} trials<br>radius near %{{x:.2f}}<extra></extra>",
            )
    figure.add_vline(x=1, line={"color": "#6b7280", "width": 1.5, "dash": "dash"})
    known = results.metadata["prediction"] or Kind.EPOCH_MAP
    last = float(RADII[-1] + width)
    figure.update_xaxes(
        title_text=f"predicted {known}",
        range=[0, last],
        tickvals=[*np.arange(0, 2, 0.25), RADII[-1] + width / 2],
        ticktext=[*(f"{value:g}" for value in np.arange(0, 2, 0.25)), "2 or more"],
    )
    return figure.update_yaxes(title_text="trials", rangemode="tozero")
