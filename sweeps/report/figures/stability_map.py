"""The stability map: verdict, final loss or steps to tolerance over two axes, with the predicted boundary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from sgdcore.verdict import VERDICTS
from sweeps.report.colors import COLOURS, SYMBOLS
from sweeps.report.figures.map_overlays import boundary, glyphs
from sweeps.report.theme import BUTTONS, LOSS_SCALE, NOT_YET, SPEED_SCALE, template
from sweeps.results.binning import MapAxis, ticks
from sweeps.results.heatmap import Cells, Panel
from sweeps.results.results import Results
from sweeps.results.stability_map import stability_panels
from sweeps.text.formatting import heading, number

VIEWS = ("verdict", "final loss", "steps to tolerance")
_LEVELS = 224  # levels of a colour scale; higher levels are for cells without a value
_MISSING = {"not yet": 232, "diverging": 240, "diverged": 248, "nothing": 254}
CLEAR = "rgba(0,0,0,0)"
_LEAST = 1e-300
_GLYPHS = {1: (28, 9), 2: (14, 9), 3: (9, 5), 4: (7, 5)}  # symbols across and up a panel, by panels per row
_PANEL_HEIGHT = {1: 430, 2: 340, 3: 250}  # pixels, by the number of rows
_ABOVE, _BELOW, _BETWEEN = 84, 150, 64  # pixels, for two-line titles
_BUTTONS_HEIGHT = 50  # pixels, including the space above
_LINE, _AXIS_TITLE = 15, 56  # pixels per additional title line, and per axis title if every panel has its own

FloatArray = NDArray[np.float64]


def stability_map(results: Results, view: str = "verdict") -> go.Figure | None:
    """Draw the outcome of each setting over the two widest axes; None if fewer than two axes are swept.

    See :func:`draw_maps`.
    """
    return draw_maps(stability_panels(results), heading(results.metric), view)


def draw_maps(
    found: Sequence[Panel], loss: str, view: str = "verdict", in_a_row: int | None = None
) -> go.Figure | None:
    """Draw maps on one scale; None if there are none.

    A cell shows its best trial and its fewest steps to tolerance. The boundary is drawn where the smallest predicted
    radius of a cell is 1. Buttons switch between VIEWS, starting with ``view``. ``loss`` names the metric, which the
    view "final loss" shows. ``in_a_row`` is the number of panels per row, by default chosen from their number.

    Raises:
        ValueError: ``view`` is not one of VIEWS.
    """
    if view not in VIEWS:
        raise ValueError(f"view must be one of {', '.join(VIEWS)}, not {view!r}")
    if not found:
        return None
    figure, columns = panes(found, in_a_row)
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
            title = (loss if name == "final loss" else name) if place == 0 else None
            add(_measures(cells, name, values, missing, scales[name], title), place, name)
        for verdict, signs in glyphs(cells, _GLYPHS[columns]).items():
            add(signs, place, *(VIEWS[:1] if verdict not in ("diverging", "diverged") else VIEWS))
        for line in boundary(cells, place == 0):
            add(line, place)
        add(_hover(cells, loss), place)
    for verdict in _verdicts_of(found):
        add(_legend_entry(verdict), 0, "verdict")
    visible = {name: [name in views for views in shown] for name in VIEWS}
    for trace, seen in zip(figure.data, visible[view], strict=True):
        trace.visible = seen
    return figure.update_layout(updatemenus=[buttons(visible, view, figure.layout)])


def panes(found: Sequence[Panel], in_a_row: int | None = None) -> tuple[go.Figure, int]:
    """Return a figure with empty panels, and the number of panels per row."""
    columns = in_a_row or min(len(found), 3 if len(found) in (3, 5, 6) else 2 if len(found) <= 4 else 4)
    rows = math.ceil(len(found) / columns)
    height = _PANEL_HEIGHT.get(rows, 230)
    alike = all(same_cells(panel.cells, found[0].cells) for panel in found)
    titles = [panel.title.replace(", ", "<br>") for panel in found]
    more = _LINE * max(0, max(title.count("<br>") for title in titles) - 1)
    above, between = _ABOVE + more, _BETWEEN + more + (0 if alike else _AXIS_TITLE)
    inner = rows * height + (rows - 1) * between
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes="all" if alike else False,
        shared_yaxes="all" if alike else False,
        horizontal_spacing=0.03 if alike else 0.09,
        vertical_spacing=between / inner if rows > 1 else 0,
        subplot_titles=titles if len(found) > 1 else None,
    )
    for place, panel in enumerate(found):
        across, up = panel.cells.axes
        row, column = 1 + place // columns, 1 + place % columns
        ends = place + columns >= len(found)  # the lowest panel of its column
        title = {"title_text": heading(across.name), "showticklabels": True} if ends or not alike else {}
        figure.update_xaxes(showgrid=False, **across.layout(), **title, row=row, col=column)
        title = {"title_text": heading(up.name)} if column == 1 or not alike else {}
        figure.update_yaxes(showgrid=False, **up.layout(), **title, row=row, col=column)
    figure.update_annotations(font_size=13 if columns < 3 else 11)
    return figure.update_layout(
        template=template(),
        height=inner + above + _BELOW,
        margin={"t": above, "b": _BELOW},
        legend={"yref": "container", "y": (_BELOW - 58) / (inner + above + _BELOW), "yanchor": "top"},
    ), columns


def same_cells(one: Cells, other: Cells) -> bool:
    """Check that two maps have the same axes with the same values."""
    return all(
        mine.name == theirs.name and np.array_equal(mine.labels, theirs.labels)
        for mine, theirs in zip(one.axes, other.axes, strict=True)
    )


def _verdicts(cells: Cells) -> go.Heatmap:
    colours = [*(COLOURS[verdict] for verdict in VERDICTS), CLEAR]
    scale = [[(i + side) / len(colours), colour] for i, colour in enumerate(colours) for side in (0, 1)]
    return heat(cells, np.where(cells.verdict < 0, len(VERDICTS), cells.verdict), scale, -0.5, len(VERDICTS) + 0.5)


def _measures(
    cells: Cells,
    name: str,
    values: FloatArray,
    missing: NDArray[np.bool_],
    span: Span,
    title: str | None,
) -> go.Heatmap:
    """Draw cells by a value or its logarithm; levels above the scale show the outcome of cells without one.

    ``title`` is that of the scale, None if there is none to draw.
    """
    level = span.levels(values)
    instead = list(_MISSING.values())
    level = np.where(missing, np.select([cells.badness == b for b in range(4)], instead), np.nan_to_num(level))
    ramp: list[tuple[float, str]] = LOSS_SCALE if name == "final loss" else SPEED_SCALE
    scale = [(place * _LEVELS / 256, colour) for place, colour in ramp]
    first = _LEVELS / 256
    not_yet = ramp[-1][1] if name == "final loss" else NOT_YET  # every settled cell has a final loss
    for word, colour in zip(_MISSING, (not_yet, COLOURS["diverging"], COLOURS["diverged"], CLEAR), strict=True):
        last = min(1.0, (_MISSING[word] + 4) / 256)
        scale += [(first, colour), (last, colour)]
        first = last
    drawn = heat(cells, np.round(level), scale, 0, 256)
    if title is None:
        return drawn
    labels = span.ticks()
    at = span.levels(np.array(labels["tickvals"])).tolist()
    ends = {
        "final loss": "end of scale: diverging, diverged",
        "steps to tolerance": "end of scale: not reached, diverging, diverged",
    }
    return with_scale(drawn, f"{title} ({ends[name]})", at, labels["ticktext"])


def with_scale(drawn: go.Heatmap, title: str, at: Sequence[float], words: Sequence[str]) -> go.Heatmap:
    """Add a colour scale below the figure, with the labels ``words`` at the levels ``at``."""
    return drawn.update(
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
            "title": {"text": title, "side": "bottom"},
            "tickvals": at,
            "ticktext": words,
        },
    )


def heat(cells: Cells, levels: NDArray[np.number], scale: object, least: float, greatest: float) -> go.Heatmap:
    """Draw cells coloured by level; levels are integers from 0 to 255."""
    across, up = cells.axes
    return go.Heatmap(
        **places(across, up),
        z=levels.T.astype(np.uint8),
        colorscale=scale,
        zmin=least,
        zmax=greatest,
        showscale=False,
        hoverinfo="skip",
    )


def _hover(cells: Cells, loss: str) -> go.Heatmap:
    """Return an invisible hover layer, shared by all views because hover data take the most space."""
    across, up = cells.axes
    lines = [hover_line(axis, letter) for axis, letter in ((across, "x"), (up, "y"))]
    run = cells.trials > 0
    values = np.where(cells.loss < np.finfo(np.float32).max, cells.loss, np.nan)
    hover_data = np.stack([cells.trial, values], axis=-1).swapaxes(0, 1)
    return go.Heatmap(
        **places(across, up),
        z=np.where(run, 0, np.nan).T.astype(np.uint8 if run.all() else np.float32),  # one byte per cell if possible
        customdata=hover_data.astype(np.float32),
        opacity=0,
        showscale=False,
        hoverongaps=False,
        hovertemplate="<br>".join([*lines, "trial %{customdata[0]:d}", f"{loss} %{{customdata[1]:.4~g}}"])
        + "<extra></extra>",
    )


def hover_line(axis: MapAxis, letter: str) -> str:
    """Return the hover text template for a value on an axis."""
    return f"{heading(axis.name)} %{{{letter}{'' if axis.kind == 'listed' else ':.5~g'}}}"


def places(across: MapAxis, up: MapAxis) -> dict[str, FloatArray]:
    """Return the coordinates of a map's cells."""
    return {
        letter: axis.positions if len(axis.labels) > 1 else axis.edges for letter, axis in (("x", across), ("y", up))
    }


def _verdicts_of(found: Sequence[Panel]) -> list[str]:
    seen = {VERDICTS[place] for panel in found for place in np.unique(panel.cells.verdict) if place >= 0}
    return [verdict for verdict in VERDICTS if verdict in seen]


def _legend_entry(verdict: str) -> go.Scatter:
    marker = {"color": COLOURS[verdict], "symbol": "square", "size": 12}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=f"{SYMBOLS[verdict]} {verdict}")


class Span(NamedTuple):
    """The range of a colour scale, in powers of ten if it is logarithmic."""

    low: float
    high: float
    is_log: bool = True

    def levels(self, values: FloatArray) -> FloatArray:
        """Return the levels of values."""
        with np.errstate(invalid="ignore"):
            placed = np.log10(np.maximum(values, 10**self.low)) if self.is_log else np.maximum(values, self.low)
            return np.asarray((placed - self.low) / (self.high - self.low) * (_LEVELS - 1))

    def ticks(self) -> dict[str, list[Any]]:
        """Return the labels of the scale."""
        if self.is_log:
            return ticks(self.low, self.high)
        values = np.linspace(self.low, self.high, 5).tolist()
        return {"tickvals": values, "ticktext": [number(value, 3) for value in values]}


def _span(parts: Sequence[FloatArray]) -> Span:
    """Return the range of the positive finite values; if any is negative, that of all on a linear scale."""
    values = np.concatenate([part[np.isfinite(part)] for part in parts])
    if (values < 0).any():
        low, high = float(values.min()), float(values.max())
        return Span(low, max(high, low + 1e-6 * abs(low)), is_log=False)
    positive = values[values > 0]
    if not len(positive):
        return Span(0.0, 1.0)
    low, high = np.log10(max(positive.min(), _LEAST)), np.log10(positive.max())
    return Span(low, high) if high - low > 0.1 else Span(low - 0.1, high + 0.1)


def buttons(visible: dict[str, list[bool]], view: str, layout: go.Layout) -> dict[str, object]:
    """Return buttons above the maps that switch between views; ``visible`` lists the traces that each view shows."""
    above = layout.margin.t
    inner = layout.height - above - _BELOW
    return {
        **BUTTONS,
        "active": list(visible).index(view),
        "y": 1 + (above - _BUTTONS_HEIGHT) / inner,
        "buttons": [
            {"label": name.capitalize(), "method": "restyle", "args": ["visible", seen]}
            for name, seen in visible.items()
        ],
    }
