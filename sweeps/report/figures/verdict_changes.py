"""The map of changes between two sweeps: which settings settle in both, one or neither, and the ratio of losses."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sweeps.report.colors import SYMBOLS
from sweeps.report.figures.stability_map import CLEAR, buttons, heat, hover_line, panes, places, same_cells, with_scale
from sweeps.results.heatmap import Cells
from sweeps.results.stability_map import MAX_CELLS, make_panels
from sweeps.results.trial_matching import Pair
from sweeps.text.formatting import number

VIEWS = ("what settles", "final loss ratio")
# Kinds of cells: settles in both, only in the second, only in the first, in neither; not run in both.
_COLOURS = ("#cfe3f2", "#0072B2", "#D55E00", "#8b93a0", CLEAR)
_SIGNS = ("", "+", SYMBOLS["diverged"], "", "")
_RATIO_SCALE = [(0.0, "#0072B2"), (0.5, "#f4f4f2"), (1.0, "#D55E00")]
_LEVELS = 200  # levels of the ratio scale; higher levels are for cells without a ratio
_MOST = 3.0  # maximum range of the scale, in powers of ten
_LEAST = 0.05  # minimum range, so that rounding differences do not fill the scale
_TINY = 1e-300
_SIGNS_ACROSS, _SIGNS_UP = 28, 9


def changed_map(
    pair: Pair, names: tuple[str, str] = ("A", "B"), view: str = "what settles", most: int = MAX_CELLS // 4
) -> go.Figure | None:
    """Draw the changes from the first sweep to the second per cell; None if their maps have different axes.

    A cell compares the best trials of both sweeps. The ratio is the second sweep's final loss divided by the first's,
    if both settle. Buttons switch between VIEWS, starting with ``view``. All panels together have at most ``most``
    cells.

    Raises:
        ValueError: ``view`` is not one of VIEWS.
    """
    if view not in VIEWS:
        raise ValueError(f"view must be one of {', '.join(VIEWS)}, not {view!r}")
    before, after = (make_panels(results, most) for results in (pair.first, pair.second))
    if not before or [panel.title for panel in before] != [panel.title for panel in after]:
        return None
    both = list(zip((panel.cells for panel in before), (panel.cells for panel in after), strict=True))
    if not all(same_cells(was, now) for was, now in both):
        return None
    figure, columns = panes(after)
    ratios = [_ratio(was, now) for was, now in both]
    known = np.concatenate([np.abs(ratio[np.isfinite(ratio)]) for ratio in ratios])
    span = float(np.clip(known.max(initial=0.0), _LEAST, _MOST))
    shown: list[tuple[str, ...]] = []
    seen: set[int] = set()

    def add(trace: go.Heatmap | go.Scatter, place: int, *views: str) -> None:
        figure.add_trace(trace, row=1 + place // columns, col=1 + place % columns)
        shown.append(views or VIEWS)

    for place, ((was, now), ratio) in enumerate(zip(both, ratios, strict=True)):
        kinds = _kinds(was, now)
        seen |= set(np.unique(kinds).tolist())
        scale = [[(i + side) / len(_COLOURS), colour] for i, colour in enumerate(_COLOURS) for side in (0, 1)]
        add(heat(now, kinds, scale, -0.5, len(_COLOURS) - 0.5), place, VIEWS[0])
        for kind in np.unique(kinds).tolist():
            if _SIGNS[kind]:
                add(_signs(now, kinds == kind, _SIGNS[kind]), place, VIEWS[0])
        add(_ratios(now, ratio, span, place == 0, names), place, VIEWS[1])
        add(_hover(was, now, names), place)
    words = ("settles in both", f"settles only in {names[1]}", f"settles only in {names[0]}", "settles in neither")
    for kind, word in enumerate(words):
        if kind in seen:
            marker = {"color": _COLOURS[kind], "symbol": "square", "size": 12}
            entry = f"{_SIGNS[kind]} {word}".strip()
            add(go.Scatter(x=[None], y=[None], mode="markers", marker=marker, name=entry), 0, VIEWS[0])
    visible = {name: [name in views for views in shown] for name in VIEWS}
    for trace, is_shown in zip(figure.data, visible[view], strict=True):
        trace.visible = is_shown
    return figure.update_layout(updatemenus=[buttons(visible, view, figure.layout)])


def _kinds(was: Cells, now: Cells) -> NDArray[np.intp]:
    """Return the kind of each cell as an index into _COLOURS."""
    missing = (was.trials == 0) | (now.trials == 0)
    before, after = was.badness == 0, now.badness == 0
    kinds = np.select([missing, before & after, ~before & after, before & ~after], [4, 0, 1, 2], 3)
    return np.asarray(kinds, dtype=np.intp)


def _ratio(was: Cells, now: Cells) -> NDArray[np.float64]:
    """Return log10 of the ratio of final losses, second to first; NaN if either does not settle or is negative."""
    settled = (was.badness == 0) & (now.badness == 0) & np.isfinite(was.loss) & np.isfinite(now.loss)
    settled &= (was.loss >= 0) & (now.loss >= 0)
    ratio = np.full(was.loss.shape, np.nan)
    ratio[settled] = np.log10(np.maximum(now.loss[settled], _TINY)) - np.log10(np.maximum(was.loss[settled], _TINY))
    return ratio


def _ratios(
    cells: Cells, ratio: NDArray[np.float64], span: float, in_legend: bool, names: tuple[str, str]
) -> go.Heatmap:
    level = np.round((np.clip(np.nan_to_num(ratio), -span, span) + span) / (2 * span) * (_LEVELS - 1))
    level = np.where(np.isfinite(ratio), level, np.where(cells.trials > 0, 225, 254))
    end = _LEVELS / 256
    scale = [(place * end, colour) for place, colour in _RATIO_SCALE]
    scale += [(end, "#8b93a0"), (0.96, "#8b93a0"), (0.96, CLEAR), (1.0, CLEAR)]
    drawn = heat(cells, level, scale, 0, 256)
    if not in_legend:
        return drawn
    powers = np.linspace(-span, span, 5)
    at = ((powers + span) / (2 * span) * (_LEVELS - 1)).tolist()
    title = f"final loss, {names[1]} over {names[0]} (end of scale: does not settle in both)"
    return with_scale(drawn, title, at, [number(float(10**power), 3) for power in powers])


def _signs(cells: Cells, where: NDArray[np.bool_], sign: str) -> go.Scatter:
    """Draw a sign on a subset of the cells, so that the map is readable without colours."""
    across, up = cells.axes
    step = [max(1, -(-n // most)) for n, most in zip(where.shape, (_SIGNS_ACROSS, _SIGNS_UP), strict=True)]
    columns, rows = (np.arange(s // 2, n, s) for n, s in zip(where.shape, step, strict=True))
    x, y = np.meshgrid(across.positions[columns], up.positions[rows], indexing="ij")
    chosen = where[np.ix_(columns, rows)]
    return go.Scatter(
        x=x[chosen],
        y=y[chosen],
        mode="text",
        text=sign,
        textfont={"size": 11, "color": "rgba(255,255,255,0.85)"},
        hoverinfo="skip",
        showlegend=False,
    )


def _hover(was: Cells, now: Cells, names: tuple[str, str]) -> go.Heatmap:
    """Return an invisible hover layer, shared by both views."""
    across, up = now.axes
    run = (was.trials > 0) & (now.trials > 0)
    hover_data = np.stack([was.trial, _shown(was), now.trial, _shown(now)], axis=-1).swapaxes(0, 1)
    lines = [hover_line(axis, letter) for axis, letter in ((across, "x"), (up, "y"))]
    lines += [
        f"{name}: trial %{{customdata[{2 * i}]:d}}, loss %{{customdata[{2 * i + 1}]:.4~g}}"
        for i, name in enumerate(names)
    ]
    return go.Heatmap(
        **places(across, up),
        z=np.where(run, 0, np.nan).T.astype(np.uint8 if run.all() else np.float32),
        customdata=hover_data.astype(np.float32),
        opacity=0,
        showscale=False,
        hoverongaps=False,
        hovertemplate="<br>".join(lines) + "<extra></extra>",
    )


def _shown(cells: Cells) -> NDArray[np.float64]:
    return np.where(cells.loss < np.finfo(np.float32).max, cells.loss, np.nan)
