"""Figures that compare sweeps: stability maps on one scale, overlaid loss curves, and shares of verdicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sgdcore.verdict import VERDICTS
from sweeps.report.colors import COLOURS, SYMBOLS
from sweeps.report.figures.loss_curves import (
    LOG_STEPS,
    SETTLED,
    STEP_ZERO,
    band,
    loss_axis,
    loss_floor,
    losses_by_step,
    step_axis,
)
from sweeps.report.figures.stability_map import draw_maps
from sweeps.report.theme import LEAST_WIDTH, LINES, faded, pattern, template
from sweeps.results.aggregate import SAMPLED
from sweeps.results.comparison import Comparison
from sweeps.results.heatmap import Panel
from sweeps.results.results import Results
from sweeps.results.stability_map import MAX_CELLS, make_panels
from sweeps.text.formatting import heading

_DASHES = ("solid", "dash", "dot")  # distinguish sweeps that share a colour
_QUANTILES = (0.25, 0.5, 0.75)
_MOST_IN_A_ROW = 4
_LEAST = {LEAST_WIDTH: 620}  # the legend included

FloatArray = NDArray[np.float64]


def compared_maps(comparison: Comparison, view: str = "verdict") -> go.Figure | None:
    """Draw the sweeps' stability maps on one colour scale; None if no sweep has a map.

    See :func:`sweeps.report.figures.stability_map`. All maps together have as many cells as the map of one sweep.

    Raises:
        ValueError: ``view`` is not one of the map's views.
    """
    most = MAX_CELLS // len(comparison.sweeps)
    found = [make_panels(results, most) for results in comparison.sweeps]
    drawn = [
        Panel(", ".join(filter(None, [name, panel.title])), panel.cells)
        for name, panels in zip(comparison.names, found, strict=True)
        for panel in panels
    ]
    counts = {len(panels) for panels in found}
    [each] = counts if len(counts) == 1 else [0]
    loss = heading(comparison.sweeps[0].metric)
    return draw_maps(drawn, loss, view, each if 1 < each <= _MOST_IN_A_ROW else None)


def compared_curves(comparison: Comparison) -> go.Figure | None:
    """Draw the loss of each sweep's best trial and the median of its settled trials; None if no trial settled.

    The band holds half of a sweep's settled trials. It is computed from a uniform sample per verdict, weighted by the
    number of trials with that verdict.
    """
    figure = go.Figure(layout={"template": template(), "height": 480, "meta": _LEAST})
    curves = [_curves(results) for results in comparison.sweeps]
    shown = pd.concat([frame["loss"] for frame in curves]) if curves else pd.Series(dtype=float)
    if not shown.notna().any():
        return None
    floor = loss_floor(shown)
    time = "epoch" if any(results.time == "epoch" for results in comparison.sweeps) else "step"
    last = int(max(frame[time].max() for frame in curves if len(frame)))
    logarithmic = last > LOG_STEPS
    for i, (name, frame) in enumerate(zip(comparison.names, curves, strict=True)):
        if len(frame):
            steps = frame[time].clip(lower=STEP_ZERO if logarithmic else 0)
            _add(figure, frame.assign(shown=steps, loss=frame["loss"].clip(lower=floor)), name, time, i)
    figure.update_xaxes(title_text=time, **step_axis(last, logarithmic))
    losses = dict.fromkeys(results.config.task.loss for results in comparison.sweeps)
    title = f"training loss ({', '.join(losses)})"
    return figure.update_yaxes(title_text=title, **loss_axis(shown, floor))


def compared_shares(comparison: Comparison) -> go.Figure:
    """Draw the share of each verdict among the stored trials, one bar per sweep."""
    bars = [
        (name, results) for name, results in zip(comparison.names, comparison.sweeps, strict=True) if results.stored
    ]
    layout = {"template": template(), "barmode": "stack", "height": 150 + 44 * len(bars), "meta": _LEAST}
    figure = go.Figure(layout=layout)
    for i, verdict in enumerate(VERDICTS):
        counts = np.array([results.aggregate.verdicts[i] for _, results in bars])
        if counts.any():
            figure.add_bar(
                y=[name for name, _ in bars],
                x=counts / np.array([results.stored for _, results in bars]),
                orientation="h",
                name=f"{SYMBOLS[verdict]} {verdict}",
                marker={"color": COLOURS[verdict], "line": {"width": 0}, "pattern": pattern(verdict)},
                customdata=counts,
                hovertemplate=f"%{{y}}<br>{verdict}: %{{customdata:,}} trials, %{{x:.1%}}<extra></extra>",
            )
    figure.update_layout(legend_traceorder="normal")
    figure.update_xaxes(title_text="share of trials", tickformat=".0%", range=[0, 1])
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def _curves(results: Results) -> pd.DataFrame:
    """Return the curves of the sampled settled trials, each weighted by the number of trials it represents."""
    aggregate = results.aggregate
    parts = []
    for verdict, count in zip(VERDICTS, aggregate.verdicts.tolist(), strict=True):
        if verdict in SETTLED and count:
            trials = results.shown(aggregate.samples[verdict])["trial"]
            parts.append(pd.DataFrame({"trial": trials, "weight": count / min(count, SAMPLED)}))
    best = results.shown(aggregate.best_settled)["trial"]
    parts.append(pd.DataFrame({"trial": best, "weight": 0.0}))
    sampled: pd.DataFrame = pd.concat(parts, ignore_index=True).drop_duplicates("trial")
    sampled = sampled.assign(best=sampled["trial"].isin(best))
    return results.curves(sampled["trial"].tolist(), ["loss"]).merge(sampled, on="trial")


def _add(figure: go.Figure, curves: pd.DataFrame, name: str, time: str, place: int) -> None:
    colour, dash = LINES[place % len(LINES)], _DASHES[place // len(LINES) % len(_DASHES)]
    table = losses_by_step(curves, "shown", hold=True)  # settled trials end only by early stopping
    weights = curves.drop_duplicates("trial").set_index("trial")["weight"].reindex(table.index).to_numpy()
    steps = table.columns.to_numpy(dtype=np.float64)
    low, median, high = _quantiles(table.to_numpy(), weights)
    figure.add_trace(band(steps, low, high, faded(colour, 0.14), name))
    figure.add_scatter(
        x=steps,
        y=median,
        customdata=np.stack([low, high], axis=-1),
        name=f"{name}: median",
        mode="lines",
        line={"color": colour, "dash": "dot", "width": 1.8},
        legendgroup=name,
        hovertemplate=f"{time} "
        + "%{x:,}<br>median %{y:.3~g}<br>50 % between %{customdata[0]:.3~g} and %{customdata[1]:.3~g}",
    )
    leader = curves[curves["best"]].dropna(subset=["loss"])
    if len(leader):
        figure.add_scatter(
            x=leader["shown"],
            y=leader["loss"],
            name=f"{name}: best, trial {leader['trial'].iloc[0]}",
            mode="lines",
            line={"color": colour, "dash": dash, "width": 2.6},
            legendgroup=name,
            hovertemplate=f"{time} " + "%{x:,}<br>loss %{y:.4~g}",
        )


def _quantiles(losses: FloatArray, weights: FloatArray) -> FloatArray:
    """Return (Q, K) weighted quantiles of (T, K) losses: the smallest loss that reaches each share of the weight."""
    order = np.argsort(losses, axis=0)
    share = np.cumsum(weights[order], axis=0) / weights.sum()
    first = np.stack([(share >= quantile - 1e-12).argmax(axis=0) for quantile in _QUANTILES])
    return np.take_along_axis(np.take_along_axis(losses, order, axis=0), first, axis=0)
