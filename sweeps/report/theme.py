"""The appearance of figures: colour scales, patterns and the common plotly template."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

MARKERS = {
    "converged": "circle",
    "converging": "diamond",
    "stalled": "square",
    "diverging": "triangle-up",
    "diverged": "x",
}
_PATTERNS = {"converged": "", "converging": "/", "stalled": "-", "diverging": "\\", "diverged": "x"}
DASHES = {"converged": "solid", "converging": "solid", "stalled": "solid", "diverging": "dash", "diverged": "dot"}
NOT_YET = "#b8bec7"  # cells without a value
ACCENT = "#0072B2"
LOSS_SCALE = [(0.0, "#08306b"), (0.25, "#1c6aaf"), (0.5, "#5ba3cf"), (0.75, "#a6cee3"), (1.0, "#e3eef7")]
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7B5B3A")
PATHS = ("#0072B2", "#CC79A7", "#009E73", "#7B3294", "#E69F00", "#D55E00")
CONTOURS = [[0.0, "#dfeaf5"], [0.5, "#eef2f6"], [1.0, "#fbfbfa"]]
SPEED_SCALE = [(0.0, "#fff7d6"), (0.3, "#c7e3a8"), (0.55, "#6dbd9b"), (0.8, "#2d8a96"), (1.0, "#1f4e79")]
BUTTONS = {
    "type": "buttons",
    "direction": "right",
    "x": 0,
    "xanchor": "left",
    "yanchor": "bottom",
    "pad": {"t": 0, "r": 0, "b": 0, "l": 0},
    "font": {"size": 12},
    "bgcolor": "rgba(128,128,128,0.08)",
    "bordercolor": "rgba(128,128,128,0.35)",
    "borderwidth": 1,
}
LEAST_WIDTH = "least_width"  # a key of layout.meta: the width in pixels below which a figure's texts overlap
PLOT_CONFIG: dict[str, Any] = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    "plotlyServerURL": "",  # nothing leaves the page: no upload to Plotly's cloud
}
_INK, _LINE = "#6b7280", "rgba(128,128,128,0.22)"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def faded(colour: str, strength: float) -> str:
    """Return a colour such as #0072B2 as a transparent rgba() colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{strength})"


def pattern(verdict: str) -> dict[str, object]:
    """Return the fill pattern that distinguishes a verdict's bars without colours."""
    return {
        "shape": _PATTERNS[verdict],
        "size": 6,
        "solidity": 0.2,
        "fillmode": "overlay",
        "fgcolor": "rgba(0,0,0,0.4)",
    }


def template() -> go.layout.Template:
    """Return the template of all figures; its paper is transparent, so it suits light and dark pages."""
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
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": _INK, "activecolor": ACCENT},
            "height": 420,
        }
    )
