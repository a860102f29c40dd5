"""Loss curves: every trial if there are few, else the median of each verdict with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sgdcore.verdict import VERDICTS
from sweeps.report.colors import COLOURS, SYMBOLS
from sweeps.report.theme import DASHES, MARKERS, faded, template
from sweeps.results.binning import ticks
from sweeps.results.results import Results
from sweeps.text.formatting import cell, heading

FEW = 12  # up to this many trials, each has its own curve
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
STEP_ZERO = 0.5  # position of step 0 on a logarithmic axis
LEAST = 1e-300
LOG_STEPS = 20  # with more steps, the step axis is logarithmic
_ROOM = 0.06  # padding around the curves, as a share of the axis
_SPAN_ABOVE = 1000.0  # times the largest loss of a settled trial
SETTLED = VERDICTS[:3]

FloatArray = NDArray[np.float64]


def loss_curves(results: Results, trials: Sequence[int] | None = None) -> go.Figure:
    """Draw the training loss by step: one curve per trial for up to FEW trials, else curves by verdict.

    A verdict's curve is the median, with bands that hold 50 % and 80 % of a uniform, reproducible sample of its trials;
    a trial that stopped early stays at its last loss, and that of a diverged one becomes infinite. The loss axis spans
    the settled trials, so diverging curves leave it at the top; where each trial has a curve, the axis also spans
    losses up to 1,000 times those of the settled. With losses below 0 it is linear.

    Args:
        results: The sweep's results.
        trials: Numbers of the trials to draw, one curve each, instead of the default.
    """
    figure = go.Figure(layout={"template": template(), "height": 460})
    drawn = sampled_trials(results) if trials is None else results.rows(trials)[["trial", "verdict", *results.swept]]
    curves = results.curves(drawn["trial"].tolist(), ["loss", "validation_loss"]).merge(drawn, on="trial")
    settled = curves["loss"][curves["verdict"].isin(SETTLED)]
    each = trials is not None or results.stored <= FEW
    if not len(settled):
        shown = _below(curves, results.config.verdict.diverged_factor)
    elif each and settled.min() >= 0:
        shown = curves["loss"][curves["loss"] <= _SPAN_ABOVE * settled.max()]
    else:
        shown = settled
    floor = loss_floor(shown)
    last = int(curves[results.time].max()) if len(curves) else 0
    logarithmic = last > LOG_STEPS
    layout = loss_axis(shown, floor)
    ceiling = _ceiling(layout)
    curves = curves.assign(
        step_shown=curves[results.time].clip(lower=STEP_ZERO if logarithmic else 0),
        loss_shown=curves["loss"].clip(floor, ceiling),
    )
    if each:
        _every_trial(figure, results, curves)
    else:
        _by_verdict(figure, results, curves, floor, ceiling)
    _validation(figure, results, curves, each, floor, ceiling)
    figure.update_xaxes(title_text=results.time, **step_axis(last, logarithmic))
    loss = f"training loss ({results.config.task.loss})"
    return figure.update_yaxes(title_text=loss, **layout)


def band(steps: FloatArray, low: FloatArray, high: FloatArray, colour: str, group: str) -> go.Scatter:
    """Return a filled band between two curves."""
    return go.Scatter(
        x=np.concatenate([steps, steps[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="none",
        fill="toself",
        fillcolor=colour,
        legendgroup=group,
        showlegend=False,
        hoverinfo="skip",
    )


def sampled_trials(results: Results) -> pd.DataFrame:
    """Return the trials whose curves are drawn: a uniform sample of each verdict and the best settled trial."""
    aggregate = results.aggregate
    parts = [results.shown(aggregate.samples[verdict]) for verdict in VERDICTS]
    found = pd.concat([results.shown(aggregate.best_settled), *parts], ignore_index=True)
    return found[["trial", "verdict", *results.swept]].drop_duplicates("trial")


def losses_by_step(curves: pd.DataFrame, step: str, *, hold: bool) -> pd.DataFrame:
    """Return the losses by trial and step; after a curve's end they are its last one (``hold``) or infinite."""
    table = curves.pivot_table(index="trial", columns=step, values="loss", dropna=False).astype(np.float64)
    return (table.ffill(axis=1) if hold else table).fillna(np.inf)


def _every_trial(figure: go.Figure, results: Results, curves: pd.DataFrame) -> None:
    for trial, frame in curves.dropna(subset=["loss"]).groupby("trial", sort=True):
        verdict = str(frame["verdict"].iloc[0])
        figure.add_scatter(
            x=frame["step_shown"],
            y=frame["loss_shown"],
            customdata=frame[[results.time, "loss"]].to_numpy(),
            name=f"trial {trial}, {verdict}",
            mode="lines+markers" if len(frame) <= LOG_STEPS else "lines",
            line={"color": COLOURS[verdict], "dash": DASHES[verdict], "width": 2.2},
            marker={"symbol": MARKERS[verdict], "size": 8},
            hovertemplate=f"{_settings(results, frame.iloc[0])}<br>{results.time} %{{customdata[0]:,}}"
            "<br>loss %{customdata[1]:.4~g}",
        )


def _by_verdict(figure: go.Figure, results: Results, curves: pd.DataFrame, floor: float, ceiling: float) -> None:
    counts = dict(zip(VERDICTS, results.aggregate.verdicts.tolist(), strict=True))
    bands: list[tuple[str, NDArray[np.float64], FloatArray]] = []
    for verdict in VERDICTS:
        some = curves[curves["verdict"] == verdict]
        if len(some):
            table = losses_by_step(some, "step_shown", hold=verdict != "diverged")
            quantiles = np.quantile(table.to_numpy(), _QUANTILES, axis=0, method="nearest")
            bands.append((verdict, table.columns.to_numpy(dtype=np.float64), quantiles.clip(floor, ceiling)))
    for verdict, steps, (p10, p25, _, p75, p90) in reversed(bands):
        for low, high, strength in ((p10, p90, 0.13), (p25, p75, 0.2)):
            figure.add_trace(band(steps, low, high, faded(COLOURS[verdict], strength), verdict))
    for verdict, steps, quantiles in bands:
        within = quantiles[2] < ceiling
        end = len(steps) if within.all() else int(within.argmin()) + 1
        figure.add_scatter(
            x=steps[:end],
            y=quantiles[2, :end],
            customdata=quantiles[:, :end].T,
            name=f"{SYMBOLS[verdict]} {verdict}, {counts[verdict]:,}",
            mode="lines+markers",
            line={"color": COLOURS[verdict], "dash": DASHES[verdict], "width": 2.4},
            marker={"symbol": MARKERS[verdict], "size": 6, "maxdisplayed": 8},
            legendgroup=verdict,
            hovertemplate=f"{results.time} "
            + "%{x:,}<br>median %{customdata[2]:.3~g}<br>50 % between %{customdata[1]:.3~g} and "
            "%{customdata[3]:.3~g}<br>80 % between %{customdata[0]:.3~g} and %{customdata[4]:.3~g}",
        )
    best = results.shown(results.aggregate.best_settled)
    if len(best):
        frame = curves[curves["trial"] == best["trial"].iloc[0]].dropna(subset=["loss"])
        figure.add_scatter(
            x=frame["step_shown"],
            y=frame["loss_shown"],
            name=f"best: trial {best['trial'].iloc[0]}",
            mode="lines",
            line={"color": "#0072B2", "width": 2, "dash": "dashdot"},
            hovertemplate=f"{_settings(results, best.iloc[0])}<br>{results.time} %{{x:,}}<br>loss %{{y:.4~g}}",
        )


def _validation(
    figure: go.Figure, results: Results, curves: pd.DataFrame, each: bool, floor: float, ceiling: float
) -> None:
    """Draw the validation loss of each trial, or of the best, dotted."""
    if "validation_loss" not in curves:
        return
    best = results.shown(results.aggregate.best_settled)["trial"].tolist()
    chosen = curves if each else curves[curves["trial"].isin(best)]
    for trial, frame in chosen.dropna(subset=["validation_loss"]).groupby("trial", sort=True):
        figure.add_scatter(
            x=frame["step_shown"],
            y=frame["validation_loss"].clip(floor, ceiling),
            name=f"trial {trial}, validation",
            mode="lines",
            line={"color": COLOURS[str(frame["verdict"].iloc[0])], "dash": "dot", "width": 1.6},
            hovertemplate=f"{_settings(results, frame.iloc[0])}<br>{results.time} %{{x:,}}<br>"
            "validation loss %{y:.4~g}",
        )


def _settings(results: Results, trial: pd.Series) -> str:
    named = [f"{heading(name)} {cell(trial[name], name)}" for name in results.swept]
    return "<br>".join(named[:8]) or f"trial {trial['trial']}"


def _below(curves: pd.DataFrame, factor: float) -> pd.Series[float]:
    """Return the losses that are at most ``factor`` times the size of the first loss of their trial."""
    first = curves.groupby("trial")["loss"].transform("first").abs()
    return curves["loss"][curves["loss"] <= factor * first]


def loss_floor(losses: pd.Series[float]) -> float:
    """Return the loss at which smaller ones are drawn: a logarithmic axis has no 0. Losses below 0 need none."""
    if (losses < 0).any():
        return -np.inf
    positive = losses[losses > 0]
    return max(float(positive.min()) / 10, LEAST) if (losses == 0).any() and len(positive) else LEAST


def _ceiling(layout: dict[str, Any]) -> float:
    """Return the loss at which larger ones are drawn, beyond the axis."""
    if "range" not in layout:
        return np.inf
    low, high = layout["range"]
    return float(10 ** (high + 3) if layout["type"] == "log" else high + (high - low))


def loss_axis(losses: pd.Series[float], floor: float) -> dict[str, Any]:
    """Return the type, range (with padding) and ticks of a loss axis: logarithmic, or linear without a floor."""
    if floor == -np.inf:
        known = losses.dropna().to_numpy(dtype=np.float64)
        room = max(_ROOM * float(np.ptp(known)), 1e-6 * float(np.abs(known).max()))
        return {"type": "linear", "range": [known.min() - room, known.max() + 2 * room]}
    exponents = np.log10(losses.dropna().clip(lower=floor).to_numpy(dtype=np.float64))
    if not len(exponents):
        return {"type": "log"}
    low, high = exponents.min(), exponents.max()
    room = max(_ROOM * (high - low), 0.15)
    return {"type": "log", "range": [low - room, high + 2 * room], **ticks(low - room, high + 2 * room)}


def step_axis(last: int, logarithmic: bool) -> dict[str, object]:
    """Return the layout of the step axis up to ``last``; on a logarithmic axis step 0 is drawn at STEP_ZERO."""
    if not logarithmic:
        return {"rangemode": "tozero"}
    powers = [10**k for k in range(len(str(last)))]
    room = 0.02 * np.log10(last / STEP_ZERO)
    return {
        "type": "log",
        "tickvals": [STEP_ZERO, *powers],
        "ticktext": ["0", *(f"{power:,}" for power in powers)],
        "range": [np.log10(STEP_ZERO) - room, np.log10(last) + room],
    }
