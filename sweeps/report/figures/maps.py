"""The stability map: verdict, final loss or steps to tolerance over two axes, and the predicted boundary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from sgdcore.verdict import VERDICTS
from sweeps.report.axes import MapAxis, ticks
from sweeps.report.cells import Cells
from sweeps.report.figures.overlays import boundary, glyphs
from sweeps.report.palette import COLOURS, SYMBOLS
from sweeps.report.panels import Panel
from sweeps.report.results import Results
from sweeps.report.style import BUTTONS, LOSS_SCALE, NOT_YET, SPEED_SCALE, template
from sweeps.report.text import heading

VIEWS = ("verdict", "final loss", "steps to tolerance")
_LEVELS = 224  # of a colour scale; those above are for trials without a number
_MISSING = {"not yet": 232, "diverging": 240, "diverged": 248, "nothing": 254}
_CLEAR = "rgba(0,0,0,0)"
_LEAST = 1e-300
_GLYPHS = {1: (28, 9), 2: (14, 9), 3: (9, 5), 4: (7, 5)}  # symbols across and up a panel, by the panels in a row
_PANEL_HEIGHT = {1: 430, 2: 340, 3: 250}  # pixels, by the number of rows
_ABOVE, _BELOW, _BETWEEN = 84, 150, 64  # pixels

FloatArray = NDArray[np.float64]


def stability_map(results: Results, view: str = "verdict") -> go.Figure | None:
    """What became of each setting over the two widest axes; None where fewer than two are swept.

    A cell shows the best of its trials, its fewest steps to tolerance and, where it is known, the least predicted
    radius: where that is 1 lies the drawn boundary. Buttons switch between VIEWS; ``view`` is shown first.

    Raises:
        ValueError: another view.
    """
    if view not in VIEWS:
        raise ValueError(f"view must be one of {', '.join(VIEWS)}, not {view!r}")
    found = results.panels
    if not found:
        return None
    figure, columns = _panes(found)
    shown: list[tuple[str, ...]] = []  # the views that show each trace

    def add(trace: go.Heatmap | go.Scatter, place: int, *views: str) -> None:
        figure.add_trace(trace, row=1 + place // columns, col=1 + place % columns)
        shown.append(views or VIEWS)

    scales = {"final loss": _span([p.cells.loss[p.cells.badness == 0] for p in found])}
    scales["steps to tolerance"] = _span([p.cells.steps for p in found])
    for place, panel in enumerate(found):
        cells = panel.cells
        add(_verdicts(cells), place, "verdict")
        for name, values, missing in (
            ("final loss", cells.loss, cells.badness != 0),
            ("steps to tolerance", cells.steps, ~np.isfinite(cells.steps)),
        ):
            add(_measures(cells, name, values, missing, scales[name], place == 0), place, name)
        for verdict, signs in glyphs(cells, _GLYPHS[columns]).items():
            add(signs, place, *(VIEWS[:1] if verdict not in ("diverging", "diverged") else VIEWS))
        for line in boundary(cells, place == 0):
            add(line, place)
        add(_hover(cells), place)
    for verdict in _verdicts_of(found):
        add(_legend_entry(verdict), 0, "verdict")
    visible = {name: [name in views for views in shown] for name in VIEWS}
    for trace, seen in zip(figure.data, visible[view], strict=True):
        trace.visible = seen
    return figure.update_layout(updatemenus=[_buttons(visible, view, figure.layout.height)])


def _panes(found: Sequence[Panel]) -> tuple[go.Figure, int]:
    """The empty panels side by side, and how many stand in a row."""
    columns = min(len(found), 3 if len(found) in (3, 5, 6) else 2 if len(found) <= 4 else 4)
    rows = math.ceil(len(found) / columns)
    height = _PANEL_HEIGHT.get(rows, 230)
    inner = rows * height + (rows - 1) * _BETWEEN
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=_BETWEEN / inner if rows > 1 else 0,
        subplot_titles=[panel.title.replace(", ", "<br>") for panel in found] if len(found) > 1 else None,
    )
    across, up = found[0].cells.axes
    figure.update_xaxes(showgrid=False, **across.layout())
    figure.update_yaxes(showgrid=False, **up.layout())
    for column in range(1, columns + 1):
        last = sum(place % columns == column - 1 for place in range(len(found)))
        figure.update_xaxes(title_text=heading(across.name), showticklabels=True, row=last, col=column)
    figure.update_yaxes(title_text=heading(up.name), col=1)
    figure.update_annotations(font_size=13 if columns < 3 else 11)
    return figure.update_layout(
        template=template(),
        height=inner + _ABOVE + _BELOW,
        margin={"t": _ABOVE, "b": _BELOW},
        legend={"yref": "container", "y": (_BELOW - 58) / (inner + _ABOVE + _BELOW), "yanchor": "top"},
    ), columns


def _verdicts(cells: Cells) -> go.Heatmap:
    colours = [*(COLOURS[verdict] for verdict in VERDICTS), _CLEAR]
    scale = [[(i + side) / len(colours), colour] for i, colour in enumerate(colours) for side in (0, 1)]
    return _heat(cells, np.where(cells.verdict < 0, len(VERDICTS), cells.verdict), scale, -0.5, len(VERDICTS) + 0.5)


def _measures(
    cells: Cells,
    name: str,
    values: FloatArray,
    missing: NDArray[np.bool_],
    span: tuple[float, float],
    in_legend: bool,
) -> go.Heatmap:
    """Cells by the logarithm of a number; where there is none the scale goes on with what happened instead."""
    low, high = span
    with np.errstate(invalid="ignore"):
        level = (np.log10(np.maximum(values, 10**low)) - low) / (high - low) * (_LEVELS - 1)
    instead = list(_MISSING.values())
    level = np.where(missing, np.select([cells.badness == b for b in range(4)], instead), np.nan_to_num(level))
    ramp: list[tuple[float, str]] = LOSS_SCALE if name == "final loss" else SPEED_SCALE
    scale = [(place * _LEVELS / 256, colour) for place, colour in ramp]
    first = _LEVELS / 256
    not_yet = ramp[-1][1] if name == "final loss" else NOT_YET  # each has a loss
    for word, colour in zip(_MISSING, (not_yet, COLOURS["diverging"], COLOURS["diverged"], _CLEAR), strict=True):
        last = min(1.0, (_MISSING[word] + 4) / 256)
        scale += [(first, colour), (last, colour)]
        first = last
    heat = _heat(cells, np.round(level), scale, 0, 256)
    if not in_legend:
        return heat
    powers = ticks(low, high)
    at = ((np.log10(powers["tickvals"]) - low) / (high - low) * (_LEVELS - 1)).tolist()
    ends = {
        "final loss": "at the end: diverging, diverged",
        "steps to tolerance": "at the end: none, diverging, diverged",
    }
    heat.update(
        showscale=True,
        colorbar={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
            "len": 1,
            "thickness": 12,
            "outlinewidth": 0,
            "title": {"text": f"{name} ({ends[name]})", "side": "bottom"},
            "tickvals": at,
            "ticktext": powers["ticktext"],
        },
    )
    return heat


def _heat(cells: Cells, levels: NDArray[np.number], scale: object, least: float, greatest: float) -> go.Heatmap:
    across, up = cells.axes
    return go.Heatmap(
        **_places(across, up),
        z=levels.T.astype(np.uint8),
        colorscale=scale,
        zmin=least,
        zmax=greatest,
        showscale=False,
        hoverinfo="skip",
    )


def _hover(cells: Cells) -> go.Heatmap:
    """An invisible layer that all views share, since what it says takes the most room."""
    across, up = cells.axes
    lines = [_hover_line(axis, letter) for axis, letter in ((across, "x"), (up, "y"))]
    run = cells.trials > 0
    loss = np.where(cells.loss < np.finfo(np.float32).max, cells.loss, np.nan)
    told = np.stack([cells.trial, loss], axis=-1).swapaxes(0, 1)
    return go.Heatmap(
        **_places(across, up),
        z=np.where(run, 0, np.nan).T.astype(np.uint8 if run.all() else np.float32),  # a byte a cell where it can be
        customdata=told.astype(np.float32),
        opacity=0,
        showscale=False,
        hoverongaps=False,
        hovertemplate="<br>".join([*lines, "trial %{customdata[0]:d}", "final loss %{customdata[1]:.4~g}"])
        + "<extra></extra>",
    )


def _hover_line(axis: MapAxis, letter: str) -> str:
    return f"{heading(axis.name)} %{{{letter}{'' if axis.kind == 'listed' else ':.5~g'}}}"


def _places(across: MapAxis, up: MapAxis) -> dict[str, FloatArray]:
    return {
        letter: axis.positions if len(axis.labels) > 1 else axis.edges for letter, axis in (("x", across), ("y", up))
    }


def _verdicts_of(found: Sequence[Panel]) -> list[str]:
    seen = {VERDICTS[place] for panel in found for place in np.unique(panel.cells.verdict) if place >= 0}
    return [verdict for verdict in VERDICTS if verdict in seen]


def _legend_entry(verdict: str) -> go.Scatter:
    marker = {"color": COLOURS[verdict], "symbol": "square", "size": 12}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=f"{SYMBOLS[verdict]} {verdict}")


def _span(parts: Sequence[FloatArray]) -> tuple[float, float]:
    """The powers of ten between which some numbers lie."""
    values = np.concatenate([part[np.isfinite(part)] for part in parts])
    positive = values[values > 0]
    if not len(positive):
        return 0.0, 1.0
    low, high = np.log10(max(positive.min(), _LEAST)), np.log10(positive.max())
    return (low, high) if high - low > 0.1 else (low - 0.1, high + 0.1)


def _buttons(visible: dict[str, list[bool]], view: str, height: float) -> dict[str, object]:
    inner = height - _ABOVE - _BELOW
    return {
        **BUTTONS,
        "active": VIEWS.index(view),
        "y": 1 + 34 / inner,
        "buttons": [
            {"label": name.capitalize(), "method": "restyle", "args": ["visible", seen]}
            for name, seen in visible.items()
        ],
    }
