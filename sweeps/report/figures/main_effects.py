"""Main effects: the share of trials that settle and their mean loss, by value of each swept parameter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sweeps.report.colors import COLOURS
from sweeps.report.theme import ACCENT, LEAST_WIDTH, faded, template
from sweeps.results.binning import MapAxis, ticks
from sweeps.results.importance import effects, main_effect
from sweeps.results.results import Results
from sweeps.text.formatting import heading

_MOST = 6  # parameters drawn
_COLUMN_WIDTH = 140  # pixels


def main_effects(results: Results) -> go.Figure | None:
    """Draw one column per parameter: the share that settles (top) and the geometric mean of the final loss (bottom).

    The band is one standard deviation of log10 loss on each side. Losses that can be negative have plain means and
    deviations. None if fewer than two parameters are swept.
    """
    shares = effects(results)
    if not len(shares):
        return None
    names = [name for name in shares["parameter"] if name in results.axes][:_MOST]
    explained = shares.set_index("parameter")
    figure = make_subplots(
        rows=2,
        cols=len(names),
        shared_yaxes="rows",
        shared_xaxes="columns",
        row_heights=[0.4, 0.6],
        vertical_spacing=0.06,
        horizontal_spacing=0.035,
        column_titles=[heading(name) for name in names],
    )
    parts = {name: main_effect(results, name) for name in names}
    for column, name in enumerate(names, start=1):
        axis = MapAxis.of(parts[name][name], name)
        places = axis.positions
        where = f"{heading(name)} %{{x:.4~g}}<br>"
        _add_effect(figure, parts[name], places, column, where, is_signed=results.config.task.is_signed)
        layout = {**axis.layout(), "showticklabels": True}
        figure.update_xaxes(**(layout | {"showticklabels": False}), row=1, col=column)
        figure.update_xaxes(**layout, row=2, col=column, title_text=_explained(explained.loc[name]))
    figure.update_xaxes(title_font_size=11, nticks=4)
    figure.update_yaxes(title_text="share that settles", tickformat=".0%", range=[-0.05, 1.05], row=1, col=1)
    every = pd.concat(parts.values())
    low, high = (
        (
            float(np.nanmin(every["mean_log_loss"] - every["deviation"])),
            float(np.nanmax(every["mean_log_loss"] + every["deviation"])),
        )
        if every["mean_log_loss"].notna().any()
        else (0.0, 1.0)
    )
    room = 0.06 * max(high - low, 0.2)
    spaced: dict[str, object] = {"range": [low - room, high + room]}
    if not results.config.task.is_signed:
        spaced |= {"type": "log", **ticks(low - room, high + room)}
    for column in range(1, len(names) + 1):
        figure.update_yaxes(**spaced, row=2, col=column)
    loss = f"{heading(results.metric)} ({results.config.task.loss})"
    figure.update_yaxes(title_text=loss, row=2, col=1)
    figure.update_annotations(font_size=13)
    least = {LEAST_WIDTH: 90 + _COLUMN_WIDTH * len(names)}
    return figure.update_layout(template=template(), height=500, showlegend=False, margin={"b": 76}, meta=least)


def _add_effect(
    figure: go.Figure, part: pd.DataFrame, places: np.ndarray, column: int, where: str, *, is_signed: bool
) -> None:
    line = {"mode": "lines+markers", "marker": {"size": 6}}
    figure.add_scatter(
        x=places,
        y=part["settles"],
        line={"color": COLOURS["converged"], "width": 2},
        hovertemplate=where + "%{y:.1%} settle<extra></extra>",
        **line,
        row=1,
        col=column,
    )
    known = part["mean_log_loss"].notna().to_numpy()
    mean, deviation = part["mean_log_loss"].to_numpy()[known], part["deviation"].to_numpy()[known]
    x = places[known]
    word = "mean" if is_signed else "geometric mean"

    def losses(averages: np.ndarray) -> np.ndarray:
        return averages if is_signed else np.asarray(10**averages)

    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=losses(np.concatenate([mean + deviation, (mean - deviation)[::-1]])),
        mode="none",
        fill="toself",
        fillcolor=faded(ACCENT, 0.14),
        hoverinfo="skip",
        row=2,
        col=column,
    )
    figure.add_scatter(
        x=x,
        y=losses(mean),
        line={"color": ACCENT, "width": 2},
        hovertemplate=where + f"%{{y:.3~g}} ({word})<extra></extra>",
        **line,
        row=2,
        col=column,
    )


def _explained(row: pd.Series) -> str:
    parts = [
        f"{share:.0%} of {what}"
        for what, share in (("settling", row["of_settling"]), ("log loss", row["of_log_loss"]))
        if pd.notna(share)
    ]
    return "explains<br>" + "<br>".join(parts) if parts else ""
