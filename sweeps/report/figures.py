"""The report's figures, as plotly figures that also show in a notebook: curves, the map of final loss, verdicts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sgdcore.verdict import VERDICTS
from sweeps.report.axes import MapAxis, ticks
from sweeps.report.cells import Cells
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
    chosen: dict[str, pd.Series] = {}
    for name, frame in _examples(results):
        if len(frame) and frame["trial"].iloc[0] not in [other["trial"] for other in chosen.values()]:
            chosen[name] = frame.iloc[0]
    return {name: chosen[name] for name in CURVES if name in chosen}


def heat_map(results: Results) -> go.Figure | None:
    """The least final loss over the two widest axes; None where fewer than two are swept.

    A cell is coloured by the best of its trials; where none settled it says so in a colour of its own.
    """
    found = results.widest_pair
    if found is None:
        return None
    across, up = found.axes
    cells = _table(found)
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
            _add_cells(figure, bad, None, across, up, solid)
            marker = {"color": COLOURS[verdict], "symbol": "square", "size": 12}
            figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=words, showlegend=True)
    figure.update_xaxes(title_text=heading(across.name), showgrid=False, **across.layout())
    figure.update_yaxes(title_text=heading(up.name), showgrid=False, **up.layout())
    return figure


def verdict_bars(results: Results, axis: str | None = None) -> go.Figure:
    """Trials by verdict; with an axis, the share of each verdict at each of its values."""
    figure = go.Figure(layout={"template": template()})
    if axis is None:
        counts = results.tally.verdicts
        figure.add_bar(
            x=counts,
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
    cells = results.tally.cells[(axis,)]
    (place,), run = cells.axes, cells.trials > 0
    for i, verdict in enumerate(VERDICTS):
        if not cells.counts[:, i].any():
            continue
        figure.add_bar(
            x=place.centres[run],
            y=cells.counts[run, i] / cells.trials[run],
            width=np.diff(place.edges)[run],
            name=verdict,
            marker={"color": COLOURS[verdict], "line": {"width": 0}},
            customdata=place.labels[run],
            hovertemplate=f"{heading(axis)} %{{customdata}}<br>{verdict}: %{{y:.1%}}<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0, height=360, legend_traceorder="normal")
    figure.update_xaxes(title_text=heading(axis), showgrid=False, **place.layout())
    return figure.update_yaxes(title_text="share of trials", tickformat=".0%", range=[0, 1])


def _examples(results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """Candidates for the trials whose curves are shown, the most wanted first, each a table of one row or none."""
    tally, metric = results.tally, results.config.metric.name
    yield "best", results.shown(tally.best_settled)
    yield "worst", results.shown(tally.worst_settled)
    settled = [verdict for verdict in VERDICTS if verdict not in ("diverging", "diverged")]
    yield "median", _median(results, settled, {metric: True, "steps_to_tolerance": True, "trial": True})
    for verdict in ("diverging", "diverged"):
        yield verdict, _median(results, [verdict], {"first_nonfinite_step": True, "growth": False, "trial": True})


def _median(results: Results, verdicts: list[str], order: dict[str, bool]) -> pd.DataFrame:
    """The trial in the middle of an order; where there are many, the middle of the samples, each of its weight."""
    counts = dict(zip(VERDICTS, results.tally.verdicts.tolist(), strict=True))
    samples = {verdict: results.tally.samples[verdict] for verdict in verdicts if counts[verdict]}
    if not samples:
        return pd.DataFrame()
    frames = [results.shown(sample).assign(weight=counts[v] / len(sample)) for v, sample in samples.items()]
    ranked = pd.concat(frames).sort_values(list(order), ascending=list(order.values()))
    middle = (sum(counts[verdict] for verdict in verdicts) - 1) // 2
    place = int(np.searchsorted(ranked["weight"].cumsum().to_numpy(), middle, side="right"))
    return ranked.iloc[[min(place, len(ranked) - 1)]]


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


def _table(cells: Cells) -> pd.DataFrame:
    """One row a cell that was run: where it is, and its best trial."""
    rows, columns = np.nonzero(cells.trials.T)
    at = (columns, rows)
    names = [axis.name for axis in cells.axes]
    table = pd.DataFrame({"row": rows, "column": columns, "badness": cells.badness[at], "trial": cells.trial[at]})
    table["final_loss"] = np.where(np.isfinite(cells.loss[at]), cells.loss[at], np.nan)
    return table.assign(**dict(zip(names, cells.position[at].T, strict=True)))


def _add_cells(
    figure: go.Figure,
    cells: pd.DataFrame,
    colours: NDArray[np.float64] | None,
    across: MapAxis,
    up: MapAxis,
    style: dict[str, object],
) -> None:
    """Draw cells with their losses in colours, or all in one, and then no farther than they reach."""
    rows, columns = cells["row"].to_numpy(), cells["column"].to_numpy()
    shown = {across.name: ".4g", up.name: ".4g", "trial": "d"}
    left, low, right, high = 0, 0, len(across.labels), len(up.labels)
    if colours is None:
        left, low, right, high = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    else:
        shown["final_loss"] = ".4g"
    z = np.full((high - low, right - left), np.nan, dtype=np.float32)
    z[rows - low, columns - left] = 0 if colours is None else colours
    told = cells[list(shown)].astype(float).to_numpy()
    # Most of the page, therefore rounded; 0 up to the cells of a row that are shown, and nothing after them.
    hover: list[list[list[float] | int]] = [[] for _ in z]
    for row, column, values in zip((rows - low).tolist(), (columns - left).tolist(), told.tolist(), strict=True):
        hover[row] += [0] * (column - len(hover[row]))
        hover[row].append([float(f"{value:.4g}") if i != 2 else int(value) for i, value in enumerate(values)])
    lines = [f"{heading(name)} %{{customdata[{i}]:{format}}}" for i, (name, format) in enumerate(shown.items())]
    figure.add_heatmap(
        x=across.edges[left : right + 1],
        y=up.edges[low : high + 1],
        z=z,
        customdata=hover,
        hoverongaps=False,
        hovertemplate="<br>".join(lines) + "<extra></extra>",
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
