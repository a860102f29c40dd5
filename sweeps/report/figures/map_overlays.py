"""Overlays of the stability map: symbols of the verdicts and the predicted stability boundary."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from sgdcore.verdict import VERDICTS
from sweeps.report.colors import SYMBOLS
from sweeps.results.heatmap import Cells


def glyphs(cells: Cells, lattice: tuple[int, int]) -> dict[str, go.Scatter]:
    """Return verdict symbols on a lattice of cells, so that the map is readable without colours."""
    across, up = cells.axes
    columns, rows = (
        np.unique(np.linspace(0, n - 1, 2 * min(n, most) + 1)[1::2].round().astype(int))
        for n, most in zip(cells.trial.shape, lattice, strict=True)
    )
    x, y = np.meshgrid(across.positions[columns], up.positions[rows], indexing="ij")
    verdict = cells.verdict[np.ix_(columns, rows)]
    return {
        name: go.Scatter(
            x=x[verdict == i],
            y=y[verdict == i],
            mode="text",
            text=SYMBOLS[name],
            textfont={"size": 10, "color": "rgba(0,0,0,0.45)"},
            hoverinfo="skip",
            showlegend=False,
        )
        for i, name in enumerate(VERDICTS)
        if (verdict == i).any()
    }


BOUNDARY = "predicted boundary: radius = 1"


def boundary(cells: Cells, in_legend: bool) -> list[go.Scatter]:
    """Return the line where the predicted radius is 1, dark with a light edge to be visible on any colour."""
    import contourpy

    known = np.isfinite(cells.radius)
    if min(cells.radius.shape) < 2 or max(cells.radius.shape) < 3 or not known.any():
        return []
    with np.errstate(divide="ignore"):
        log = np.clip(np.log(cells.radius), -5, 5)
    x, y = (np.log10(axis.positions) if axis.kind == "log" else axis.positions for axis in cells.axes)
    lines = contourpy.contour_generator(x, y, np.ma.masked_array(log, ~known).T).lines(0.0)
    if not lines:
        return []
    gap = np.full((1, 2), np.nan)
    points = np.concatenate([part for line in lines for part in (line, gap)])[:-1]
    drawn = [10**p if axis.kind == "log" else p for axis, p in zip(cells.axes, points.T, strict=True)]
    return [
        go.Scatter(
            x=drawn[0].astype(np.float32),
            y=drawn[1].astype(np.float32),
            mode="lines",
            line={"width": width, "color": colour},
            hoverinfo="skip",
            name=BOUNDARY,
            legendgroup="boundary",
            legendrank=2000,
            showlegend=in_legend and colour != "#ffffff",
        )
        for width, colour in ((4, "#ffffff"), (1.8, "#111827"))
    ]
