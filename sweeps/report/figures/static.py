"""Static figures: the report's main figures as PNG files of about 50 kB, for viewers without scripts (MLflow's UI)."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from sgdcore.verdict import VERDICTS
from sweeps.report.colors import COLOURS
from sweeps.report.figures.loss_curves import loss_curves
from sweeps.report.figures.map_overlays import boundary
from sweeps.results.binning import MapAxis
from sweeps.results.heatmap import Panel
from sweeps.results.results import Results
from sweeps.results.stability_map import stability_panels
from sweeps.text.formatting import cell, heading, meaning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_COLUMNS = 4
_MOST_LABELS = 12  # labels on an axis of listed values
_DASHES = {"dash": "--", "dot": ":", "dashdot": "-."}
_RGBA = re.compile(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)")
_GRID = "#d9dce1"


def stills(results: Results) -> dict[str, bytes]:
    """Return the PNG files by name; figures with nothing to draw are omitted."""
    drawn = {"stability_map.png": _stability_map(results), "loss_curves.png": _loss_curves(results)}
    return {name: _png(figure) for name, figure in drawn.items() if figure is not None}


def _stability_map(results: Results) -> Figure | None:
    """Draw the verdict of each cell of the map and the predicted boundary."""
    panels = stability_panels(results)
    if not panels:
        return None
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    figure = _figure(4.2 * columns + (2.8 if columns == 1 else 0.6), 3.4 * rows + 1.1)
    panes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for place, (pane, panel) in enumerate(zip(panes, panels, strict=False)):
        _draw_panel(pane, panel, place % columns == 0, place + columns >= len(panels))
    for pane in panes[len(panels) :]:
        pane.set_visible(False)
    seen = [verdict for i, verdict in enumerate(VERDICTS) if any((p.cells.verdict == i).any() for p in panels)]
    _legend(figure, panes[0], seen)
    return figure


def _draw_panel(pane: Axes, panel: Panel, leftmost: bool, lowest: bool) -> None:
    from matplotlib.colors import ListedColormap

    cells = panel.cells
    across, up = cells.axes
    verdict = np.ma.masked_less(cells.verdict, 0).T
    palette = ListedColormap([COLOURS[name] for name in VERDICTS])
    pane.pcolormesh(across.edges, up.edges, verdict, cmap=palette, vmin=-0.5, vmax=len(VERDICTS) - 0.5, rasterized=True)
    for line in boundary(cells, False):
        pane.plot(line.x, line.y, color=line.line.color, linewidth=line.line.width * 0.7)
    _scale(pane, across, "x")
    _scale(pane, up, "y")
    if panel.title:
        pane.set_title(_plain(panel.title), fontsize=9)
    if lowest:
        pane.set_xlabel(_plain(heading(across.name)))
        pane.tick_params(labelbottom=True)
    if leftmost:
        pane.set_ylabel(_plain(heading(up.name)))


def _scale(pane: Axes, axis: MapAxis, side: str) -> None:
    limits, scale, ticks = (getattr(pane, f"set_{side}{what}") for what in ("lim", "scale", "ticks"))
    if axis.kind == "log":
        scale("log")
    if axis.kind == "listed":
        shown = slice(None, None, -(-len(axis.labels) // _MOST_LABELS))
        texts = [_plain(cell(meaning(value, axis.name), axis.name)) for value in axis.labels[shown]]
        ticks(axis.positions[shown], texts)
    limits(axis.edges[0], axis.edges[-1])


def _legend(figure: Figure, pane: Axes, verdicts: list[str]) -> None:
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=COLOURS[verdict], label=verdict) for verdict in verdicts]
    if lines := [line for line in pane.lines if line.get_color() != "#ffffff"]:
        lines[0].set_label("predicted boundary: radius = 1")
        handles.append(lines[0])
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=8)


def _loss_curves(results: Results) -> Figure | None:
    """Redraw the report's loss curves with matplotlib."""
    if not results.stored:
        return None
    page = loss_curves(results)
    figure = _figure(8.4, 4.4)
    pane = figure.subplots()
    for trace in page.data:
        if trace.fill == "toself":
            pane.fill(trace.x, trace.y, color=_colour(trace.fillcolor), linewidth=0)
        else:
            style = _DASHES.get(trace.line.dash, "-")
            pane.plot(trace.x, trace.y, style, color=trace.line.color, linewidth=1.6, label=_plain(trace.name))
    for side in ("x", "y"):
        _copy_axis(pane, page.layout[f"{side}axis"], side)
    pane.grid(color=_GRID, linewidth=0.6)
    pane.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _copy_axis(pane: Axes, layout: Any, side: str) -> None:
    getattr(pane, f"set_{side}label")(_plain(layout.title.text))
    if layout.type == "log":
        getattr(pane, f"set_{side}scale")("log")
    if layout.range is not None:
        low, high = (10**end for end in layout.range) if layout.type == "log" else layout.range
        getattr(pane, f"set_{side}lim")(low, high)
    if layout.tickvals is not None:
        texts = [re.sub(r"<sup>(.*?)</sup>", r"$^{\1}$", text) for text in layout.ticktext]
        getattr(pane, f"set_{side}ticks")(layout.tickvals, texts)
        getattr(pane, f"{side}axis").set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"font.size": 9}):
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def _colour(text: str) -> tuple[float, ...] | str:
    found = _RGBA.fullmatch(text.replace(" ", ""))
    return (*(int(part) / 255 for part in found.groups()[:3]), float(found[4])) if found else text


def _plain(text: str) -> str:
    """Escape text so that matplotlib does not parse it as a formula."""
    return text.replace("$", r"\$")
