"""The paths of a model's two parameters over the contours of the loss, with overshoots marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from sgdcore.tasks.task import Quadratic
from sweeps.report.figures.loss_curves import FEW
from sweeps.report.theme import CONTOURS, DASHES, PATHS, template
from sweeps.results.results import Results
from sweeps.text.formatting import cell, heading, number

_POINTS = 90  # grid points of the contours along each axis
# By whether there are few trials: how far other paths extend the axes, relative to the extent of settled paths.
_REACH = {True: 4.0, False: 0.3}
_MOST = 6

FloatArray = NDArray[np.float64]


def parameter_paths(results: Results, quadratic: Quadratic, trials: Sequence[int] | None = None) -> go.Figure | None:
    """Draw the paths of up to six trials over the contours of the training loss; None unless there are two parameters.

    By default, the trials are the best, the worst and the largest overshoot of the settled ones, the largest
    overshoots of the diverging ones, and one that diverged; ``trials`` selects others by number. A star marks where a
    parameter was farthest past its target. Lines join the recorded steps. The axes span the settled trials and extend
    towards the others by up to 4 times that span, or 0.3 times in sweeps of many trials.
    """
    names = results.parameters
    if len(names) != 2 or quadratic.factor.shape[0] != 2 or not results.stored:
        return None
    drawn = path_trials(results) if trials is None else results.rows(trials).head(_MOST)
    columns = [f"param.{name}" for name in names]
    curves = results.curves(drawn["trial"].tolist(), columns)
    if not set(columns) <= set(curves):
        return None
    paths = {t: curves[curves["trial"] == t][columns].dropna().to_numpy(float) for t in drawn["trial"].tolist()}
    optimum = quadratic.ridge_minimiser(np.zeros(1))[0]
    x, y = _ranges(drawn, paths, optimum, _REACH[results.stored <= FEW])
    figure = go.Figure(layout={"template": template(), "height": 560})
    figure.add_trace(_contours(quadratic, x, y))
    for (_, trial), colour in zip(drawn.iterrows(), PATHS, strict=False):
        _add_path(figure, results, trial, paths[int(trial["trial"])], colour, (x, y))
    figure.add_scatter(
        x=[optimum[0]],
        y=[optimum[1]],
        mode="markers",
        marker={"symbol": "cross-thin", "size": 16, "line": {"width": 3, "color": "#111827"}},
        name="minimum loss",
        hovertemplate=f"minimum loss {number(quadratic.minimum, 3)}<br>{names[0]} %{{x:.4~g}}<br>{names[1]} %{{y:.4~g}}"
        "<extra></extra>",
    )
    figure.update_xaxes(title_text=f"{names[0]} (w)" if names[0] == "weight" else names[0], range=x, showgrid=False)
    return figure.update_yaxes(
        title_text=f"{names[1]} (b)" if names[1] == "bias" else names[1], range=y, showgrid=False
    )


def path_trials(results: Results) -> pd.DataFrame:
    """Return the trials whose paths are drawn by default, at most six and without duplicates."""
    aggregate = results.aggregate
    wanted = [
        (aggregate.best_settled, 1),
        (aggregate.worst_settled, 1),
        (aggregate.overshoots, 1),
        (aggregate.overshoots_diverging, 2),
        (aggregate.samples["diverged"], 1),
    ]
    found = pd.concat([results.shown(leading, n) for leading, n in wanted], ignore_index=True)
    return found.drop_duplicates("trial").head(_MOST)


def _ranges(
    trials: pd.DataFrame, paths: dict[int, FloatArray], optimum: FloatArray, reach: float
) -> tuple[list[float], list[float]]:
    """Return the ranges of both axes: the settled paths with padding, extended by up to ``reach`` times their span."""
    bad = trials["verdict"].isin(["diverging", "diverged"])
    calm = [paths[t] for t in trials["trial"][~bad]]
    wild = [paths[t] for t in trials["trial"][bad]]
    inner = np.concatenate([optimum[np.newaxis], *(calm or [path[:2] for path in wild])])
    low, high = inner.min(axis=0), inner.max(axis=0)
    farthest = reach * np.maximum(high - low, 1e-9)
    if wild:
        outer = np.concatenate(wild).clip(low - farthest, high + farthest)
        low, high = np.minimum(low, outer.min(axis=0)), np.maximum(high, outer.max(axis=0))
    room = 0.08 * np.maximum(high - low, 1e-9)
    (x0, y0), (x1, y1) = low - room, high + room
    return [float(x0), float(x1)], [float(y0), float(y1)]


def _contours(quadratic: Quadratic, x: list[float], y: list[float]) -> go.Contour:
    w, b = np.linspace(x[0], x[1], _POINTS), np.linspace(y[0], y[1], _POINTS)
    above = quadratic.value(np.stack(np.meshgrid(w, b), axis=-1)) - quadratic.minimum
    return go.Contour(
        x=w.astype(np.float32),
        y=b.astype(np.float32),
        z=np.log10(np.maximum(above, above[above > 0].min())).astype(np.float32),
        ncontours=14,
        colorscale=CONTOURS,
        showscale=False,
        line={"width": 0.6, "color": "rgba(90,100,115,0.5)"},
        hoverinfo="skip",
    )


def _add_path(
    figure: go.Figure,
    results: Results,
    trial: pd.Series,
    path: FloatArray,
    colour: str,
    ends: tuple[list[float], list[float]],
) -> None:
    name = f"trial {trial['trial']}, {trial['verdict']}"
    # Cut points far outside the axes: plotly draws lines to coordinates such as 1e30 in wrong places.
    spans = np.array([[high - low, high + low] for low, high in ends]) / 2
    distance = np.abs((path - spans[:, 1]) / spans[:, 0]).max(axis=1)
    end = int((distance > 40).argmax()) if (distance > 40).any() else len(path)
    settings = "<br>".join(f"{heading(n)} {cell(trial[n], n)}" for n in results.swept[:8])
    figure.add_scatter(
        x=path[:end, 0],
        y=path[:end, 1],
        mode="lines+markers",
        line={"color": colour, "width": 1.5, "dash": DASHES[str(trial["verdict"])]},
        marker={"size": 5, "symbol": "circle"},
        name=name,
        legendgroup=name,
        hovertemplate=f"{settings}<br>%{{x:.4~g}}, %{{y:.4~g}}",
    )
    if not trial["overshoot_percent"] > 0:
        return
    which = results.parameters.index(trial["overshoot_parameter"])
    peak = path[np.abs(path[:, which] - trial["peak_value"]).argmin()].copy()
    peak[which] = trial["peak_value"]
    figure.add_scatter(
        x=peak[:1],
        y=peak[1:],
        mode="markers",
        marker={"symbol": "star", "size": 15, "color": colour, "line": {"width": 1, "color": "#ffffff"}},
        legendgroup=name,
        showlegend=False,
        name=name,
        hovertemplate=f"{trial['overshoot_parameter']} overshoots by {number(trial['overshoot_percent'], 3)} %, "
        f"to {number(trial['peak_value'], 4)}",
    )
