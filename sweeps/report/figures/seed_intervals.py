"""Seed intervals: the mean loss over seeds of the best settings, with confidence intervals."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from sweeps.report.theme import ACCENT, template
from sweeps.results.binning import ticks
from sweeps.results.results import Results
from sweeps.results.seed_variance import seed_spread
from sweeps.text.formatting import cell, heading

_SHOWN = 20
_APART = "#8a93a0"


def seed_intervals(results: Results) -> go.Figure | None:
    """Draw the geometric mean over seeds and the 95 % interval of the best settings; None without several seeds.

    Losses that can be negative have plain means.

    Settings that are not significantly worse than the best are filled and highlighted.
    """
    spread = seed_spread(results, _SHOWN)
    if not len(spread):
        return None
    names = [axis.name for axis in results.aggregate.settings.axes] if results.aggregate.settings else []
    labels = [", ".join(cell(row[name], name) for name in names) for _, row in spread.iterrows()]
    figure = go.Figure(layout={"template": template(), "height": 130 + 24 * len(spread)})
    for tied, colour, symbol, name in (
        (True, ACCENT, "circle", "not significantly worse than the best"),
        (False, _APART, "circle-open", "worse than the best (p < 0.05)"),
    ):
        rows = np.flatnonzero(spread["tied"].to_numpy(dtype=bool) == tied)
        if not len(rows):
            continue
        part = spread.iloc[rows]
        figure.add_scatter(
            x=part["mean_loss"],
            y=rows,
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": part["high"] - part["mean_loss"],
                "arrayminus": part["mean_loss"] - part["low"],
                "color": colour,
                "thickness": 1.5,
                "width": 3,
            },
            customdata=np.stack([part["low"], part["high"], part["p"]], axis=-1),
            text=[labels[row] for row in rows],
            hovertemplate="%{text}<br>mean loss %{x:.4~g} (%{customdata[0]:.4~g} to %{customdata[1]:.4~g})"
            "<br>p %{customdata[2]:.2~g}<extra></extra>",
        )
    # Intervals over two or three seeds can be huge, so the means determine the axis range.
    ends = spread[["mean_loss", "low", "high"]].to_numpy(dtype=np.float64)
    means, lows, highs = (ends if results.config.task.is_signed else np.log10(ends)).T
    reach = max(1.5 * float(np.ptp(means)), 0.02)
    low, high = max(lows.min(), means.min() - reach), min(highs.max(), means.max() + reach)
    loss = f"{heading(results.metric)} ({results.config.task.loss})"
    if results.config.task.is_signed:
        figure.update_xaxes(title_text=f"{loss}, mean", range=[low, high])
    else:
        figure.update_xaxes(title_text=f"{loss}, geometric mean", type="log")
        figure.update_xaxes(range=[low, high], **ticks(low, high))
    figure.update_yaxes(title_text=", ".join(map(heading, names)))
    return figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, range=[len(labels) - 0.4, -0.6])
