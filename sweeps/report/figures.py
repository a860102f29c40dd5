"""The report's figures, as plotly figures that also show in a notebook: curves, the map of final loss, verdicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sgdcore.verdict import VERDICTS
from sweeps.report.axes import MapAxis, ticks, widest_pair
from sweeps.report.results import Results
from sweeps.report.style import COLOURS, CURVES, LOSS_SCALE, template
from sweeps.report.text import cell, heading

_STEP_ZERO = 0.5  # where step 0 stands on a logarithmic axis
_LEAST = 1e-300
_LOG_STEPS = 20  # from here on the steps' axis is logarithmic
_SETTLED = ("best", "median", "worst")
_ROOM = 0.06  # around the curves, as a share of the axis


def loss_curves(results: Results) -> go.Figure:
    """Loss by step of the best, median and worst trial that settled, and of one that diverges and one that diverged.

    The loss axis spans what the settled trials show; what diverges leaves it at the top.
    """
    chosen = example_trials(results)
    curves = results.curves([int(trial["trial"]) for trial in chosen.values()])
    by_trial = {int(trial["trial"]): curves[curves["trial"] == trial["trial"]] for trial in chosen.values()}
    settled = [by_trial[int(trial["trial"])]["loss"] for name, trial in chosen.items() if name in _SETTLED]
    shown = pd.concat(settled) if settled else _below(curves, results.config.verdict.diverged_factor)
    positive = shown[shown > 0]
    floor = max(float(positive.min()) / 10, _LEAST) if (shown == 0).any() and len(positive) else _LEAST
    last = int(curves["step"].max()) if len(curves) else 0
    logarithmic = last > _LOG_STEPS
    figure = go.Figure(layout={"template": template()})
    for name, trial in chosen.items():
        frame = by_trial[int(trial["trial"])].dropna(subset=["loss"])
        colour, dash = CURVES[name]
        figure.add_scatter(
            x=frame["step"].clip(lower=_STEP_ZERO if logarithmic else 0),
            y=frame["loss"].clip(lower=floor),
            customdata=frame[["step", "loss"]].to_numpy(),
            name=f"{name}: trial {trial['trial']}",
            mode="lines+markers" if len(frame) <= _LOG_STEPS else "lines",
            line={"color": colour, "dash": dash, "width": 2.4},
            hovertemplate=f"{_settings(results, trial)}<br>step %{{customdata[0]:,}}<br>loss %{{customdata[1]:.4g}}",
        )
    figure.update_xaxes(title_text="step", **_step_axis(last, logarithmic))
    return figure.update_yaxes(title_text="training loss", type="log", **_loss_axis(shown, floor))


def example_trials(results: Results) -> dict[str, pd.Series]:
    """The trials whose curves are shown, by what they stand for; no trial stands for two things."""
    metric = results.config.metric.name
    ranked = results.settled.dropna(subset=[metric]).sort_values([metric, "steps_to_tolerance", "trial"])
    places = {"best": 0, "median": (len(ranked) - 1) // 2, "worst": len(ranked) - 1}
    chosen: dict[str, pd.Series] = {}
    for name in ("best", "worst", "median"):
        if len(ranked) and places[name] not in {places[other] for other in chosen}:
            chosen[name] = ranked.iloc[places[name]]
    for verdict in ("diverging", "diverged"):
        bad = results.trials[results.trials["verdict"] == verdict]
        bad = bad.sort_values(["first_nonfinite_step", "growth", "trial"], ascending=[True, False, True])
        if len(bad):
            chosen[verdict] = bad.iloc[(len(bad) - 1) // 2]
    return {name: chosen[name] for name in CURVES if name in chosen}


def heat_map(results: Results) -> go.Figure | None:
    """The least final loss over the two widest axes; None where fewer than two are swept.

    A cell is coloured by the best of its trials; where none settled it says so in a colour of its own.
    """
    pair = widest_pair(results)
    if pair is None:
        return None
    across, up = pair
    cells = _cells(results, across, up)
    figure = go.Figure(layout={"template": template(), "height": 560})
    settled = cells[cells["badness"] == 0]
    loss = settled["final_loss"].to_numpy()
    positive = loss[loss > 0]
    floor = float(positive.min()) if len(positive) else _LEAST
    colours = np.log10(np.maximum(loss, floor))
    _add_cells(figure, settled, colours, across, up, _loss_colours(colours))
    for badness, verdict, words in (
        (1, "diverging", "all trials are diverging or diverged"),
        (2, "diverged", "all trials diverged"),
    ):
        bad = cells[cells["badness"] == badness]
        if len(bad):
            solid = {"colorscale": [[0, COLOURS[verdict]], [1, COLOURS[verdict]]], "showscale": False}
            _add_cells(figure, bad, np.zeros(len(bad)), across, up, solid)
            marker = {"color": COLOURS[verdict], "symbol": "square", "size": 12}
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=words, showlegend=True)
    figure.update_xaxes(title_text=heading(across.name), showgrid=False, **across.layout())
    figure.update_yaxes(title_text=heading(up.name), showgrid=False, **up.layout())
    return figure


def verdict_bars(results: Results, axis: str | None = None) -> go.Figure:
    """Trials by verdict; with an axis, the share of each verdict at each of its values."""
    figure = go.Figure(layout={"template": template()})
    if axis is None:
        counts = results.trials["verdict"].value_counts().reindex(list(VERDICTS), fill_value=0)
        figure.add_bar(
            x=counts.to_numpy(),
            y=list(VERDICTS),
            orientation="h",
            marker_color=[COLOURS[verdict] for verdict in VERDICTS],
            text=[f"{count:,}" for count in counts],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:,} trials<extra></extra>",
        )
        figure.update_xaxes(title_text="trials", rangemode="tozero")
        figure.update_yaxes(autorange="reversed", title_text="verdict")
        return figure.update_layout(height=300)
    place = MapAxis.of(results.trials[axis], axis)
    shares = pd.crosstab(place.places(results.trials[axis]), results.trials["verdict"].astype("str"), normalize="index")
    for verdict in (v for v in VERDICTS if v in shares):
        figure.add_bar(
            x=place.centres[shares.index],
            y=shares[verdict],
            width=np.diff(place.edges)[shares.index],
            name=verdict,
            marker={"color": COLOURS[verdict], "line": {"width": 0}},
            customdata=place.labels[shares.index],
            hovertemplate=f"{heading(axis)} %{{customdata}}<br>{verdict}: %{{y:.1%}}<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0, height=360, legend_traceorder="normal")
    figure.update_xaxes(title_text=heading(axis), showgrid=False, **place.layout())
    return figure.update_yaxes(title_text="share of trials", tickformat=".0%", range=[0, 1])


def _settings(results: Results, trial: pd.Series) -> str:
    named = [f"{heading(name)} {cell(trial[name], name)}" for name in results.swept]
    return "<br>".join(named[:8]) or f"trial {trial['trial']}"


def _below(curves: pd.DataFrame, factor: float) -> pd.Series[float]:
    """The losses that are not yet that much larger than their trial's first."""
    first = curves.groupby("trial")["loss"].transform("first")
    return curves["loss"][curves["loss"] <= factor * first]


def _loss_axis(losses: pd.Series[float], floor: float) -> dict[str, object]:
    """The axis' range in powers of ten, what is shown and a little room, and its ticks."""
    exponents = np.log10(losses.dropna().clip(lower=floor).to_numpy(dtype=np.float64))
    if not len(exponents):
        return {}
    low, high = exponents.min(), exponents.max()
    room = max(_ROOM * (high - low), 0.15)
    return {"range": [low - room, high + 2 * room], **ticks(low - room, high + 2 * room)}


def _step_axis(last: int, logarithmic: bool) -> dict[str, object]:
    if not logarithmic:
        return {"rangemode": "tozero"}
    powers = [10**k for k in range(len(str(last)))]
    room = 0.02 * np.log10(last / _STEP_ZERO)
    return {
        "type": "log",
        "tickvals": [_STEP_ZERO, *powers],
        "ticktext": ["0", *(f"{power:,}" for power in powers)],
        "range": [np.log10(_STEP_ZERO) - room, np.log10(last) + room],
    }


def _cells(results: Results, across: MapAxis, up: MapAxis) -> pd.DataFrame:
    """One row a cell that was run: its best trial, and how bad that is: 0 settled, 1 diverging, 2 diverged."""
    trials = results.trials
    badness = trials["verdict"].astype("str").map({"diverging": 1, "diverged": 2}).fillna(0).astype(int)
    cells = trials[["trial", "final_loss", across.name, up.name]].assign(
        badness=badness, column=across.places(trials[across.name]), row=up.places(trials[up.name])
    )
    return cells.sort_values(["badness", "final_loss", "trial"]).drop_duplicates(["row", "column"])


def _add_cells(
    figure: go.Figure,
    cells: pd.DataFrame,
    colours: NDArray[np.float64],
    across: MapAxis,
    up: MapAxis,
    style: dict[str, object],
) -> None:
    shape = (len(up.labels), len(across.labels))
    rows, columns = cells["row"].to_numpy(), cells["column"].to_numpy()
    z = np.full(shape, np.nan, dtype=np.float32)
    z[rows, columns] = colours
    told = cells[[across.name, up.name, "final_loss", "trial"]].astype(float).to_numpy()
    # rounded, since it is most of the page
    hover: list[list[list[float] | None]] = [[None] * shape[1] for _ in range(shape[0])]
    for row, column, values in zip(rows, columns, told, strict=True):
        hover[row][column] = [float(f"{value:.5g}") for value in values[:3]] + [int(values[3])]
    figure.add_heatmap(
        x=across.edges,
        y=up.edges,
        z=z,
        customdata=hover,
        hoverongaps=False,
        hovertemplate=f"{heading(across.name)} %{{customdata[0]:.5g}}<br>{heading(up.name)} %{{customdata[1]:.5g}}"
        "<br>final loss %{customdata[2]:.4g}<br>trial %{customdata[3]:d}<extra></extra>",
        **style,
    )


def _loss_colours(colours: NDArray[np.float64]) -> dict[str, object]:
    if not len(colours):
        return {"showscale": False}
    low, high = float(colours.min()), float(colours.max())
    if high - low < 0.1:
        low, high = low - 0.1, high + 0.1
    powers = ticks(low, high)
    return {
        "colorscale": LOSS_SCALE,
        "zmin": low,
        "zmax": high,
        "colorbar": {
            "title": {"text": "final loss", "side": "right"},
            "tickvals": np.log10(powers["tickvals"]).tolist(),
            "ticktext": powers["ticktext"],
            "outlinewidth": 0,
            "thickness": 14,
        },
    }
