"""How figures look: the palette and the template that all of them share."""

from __future__ import annotations

import plotly.graph_objects as go

# Okabe and Ito's palette, which colour-blind readers can tell apart
COLOURS = {
    "converged": "#009E73",
    "converging": "#56B4E9",
    "stalled": "#999999",
    "diverging": "#E69F00",
    "diverged": "#D55E00",
}
CURVES = {  # colour and dash
    "best": ("#009E73", "solid"),
    "median": ("#0072B2", "solid"),
    "worst": ("#999999", "solid"),
    "diverging": (COLOURS["diverging"], "dash"),
    "diverged": (COLOURS["diverged"], "dot"),
}
LOSS_SCALE = [[0.0, "#08306b"], [0.25, "#1c6aaf"], [0.5, "#5ba3cf"], [0.75, "#a6cee3"], [1.0, "#e3eef7"]]
_INK, _LINE = "#6b7280", "rgba(128,128,128,0.22)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def template() -> go.layout.Template:
    """What all figures share: light, with transparent paper, so that a dark page shows through."""
    axis = {
        "gridcolor": _LINE,
        "linecolor": _LINE,
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": _LINE,
        "automargin": True,
        "title": {"standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": _FONT, "size": 13, "color": _INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "bgcolor": "rgba(0,0,0,0)"},
            "margin": {"l": 64, "r": 24, "t": 48, "b": 56},
            "hoverlabel": {"font": {"family": _FONT, "size": 13}},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": _INK, "activecolor": "#0072B2"},
            "height": 420,
        }
    )
