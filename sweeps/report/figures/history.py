"""Best loss and stable share over time of sweeps with one name, for example those of a schedule."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sweeps.report.theme import ACCENT, LINES, template
from sweeps.results.binning import ticks
from sweeps.text.formatting import heading

_ROOM = 0.08  # padding around the losses, as a share of the axis


def history_lines(history: pd.DataFrame) -> go.Figure | None:
    """Draw the best loss (top) and stable share (bottom), one point per sweep; None for fewer than two sweeps.

    Args:
        history: Rows of :func:`sweeps.results.history.history`; uses id, created, metric, best and stable_share. The
            customdata of a point is the sweep's id.
    """
    rows = history[history["stable_share"].notna()].sort_values("created")
    if len(rows) < 2:
        return None
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.58, 0.42])
    metric = heading(rows["metric"].iloc[-1])
    common = {"x": rows["created"], "customdata": rows["id"], "mode": "lines+markers", "showlegend": False}
    lines = (
        (1, rows["best"], ACCENT, f"best {metric} %{{y:.4~g}}"),
        (2, rows["stable_share"], LINES[2], "stable %{y:.1%}"),
    )
    for row, values, colour, text in lines:
        figure.add_scatter(
            **common,
            y=values,
            line={"color": colour, "width": 2},
            marker={"size": 9, "color": colour, "line": {"width": 1.5, "color": "#ffffff"}},
            hovertemplate=f"%{{x|%Y-%m-%d %H:%M}}<br>{text}<br>sweep %{{customdata}}<extra></extra>",
            row=row,
            col=1,
        )
    figure.update_yaxes(row=1, title_text=f"best {metric}", **_loss_axis(rows["best"]))
    figure.update_yaxes(row=2, title_text="stable", tickformat=".0%", range=[-0.03, 1.03])
    return figure.update_layout(template=template(), height=460, margin_t=24, hovermode="closest")


def _loss_axis(losses: pd.Series) -> dict[str, object]:
    """Return the layout of the loss axis: logarithmic if all losses are positive, with padding."""
    known = losses.dropna().to_numpy(dtype=np.float64)
    if not len(known) or (known <= 0).any():
        return {"rangemode": "tozero"}
    low, high = np.log10(known.min()), np.log10(known.max())
    room = max(_ROOM * (high - low), 0.02)
    return {"type": "log", "range": [low - room, high + room], **ticks(low - room, high + room)}
