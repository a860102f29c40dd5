"""The edge of stability: the lr up to which trials settle, where they diverge, and how far a trial is from it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.results.heatmap import Cells, Panel
from sweeps.results.results import Results
from sweeps.results.stability_map import stability_panels
from sweeps.text.formatting import meaning

_MAX_ROWS = 8  # values of the second axis in a table
_MAX_PANELS = 4

FloatArray = NDArray[np.float64]


def edge_of_stability(results: Results) -> pd.DataFrame:
    """Return the lr up to which trials settle, for values of the map's other axis; empty if lr is not a map axis.

    Each row describes one value, by the best trial of each cell: ``settles_up_to`` is the largest lr up to which all
    settle, ``breaks_at`` the smallest lr that does not settle (missing if all do), and ``largest_settling`` the largest
    lr that settles, since stability need not be monotone. ``predicted_edge`` is the lr at which the predicted radius
    first exceeds 1.
    """
    rows = []
    for panel, cells, name in lr_maps(results):
        for i in _some(cells.trial.shape[1]):
            value = meaning(cells.axes[1].labels[i], name) if name else None
            rows.append({"setting": panel.title, **({name: value} if name else {}), **edge_in_row(cells, i)})
    frame = pd.DataFrame(rows)
    if len(frame) and not frame["setting"].any():
        frame = frame.drop(columns="setting")
    return frame.dropna(axis="columns", how="all")


def lr_maps(results: Results) -> list[tuple[Panel, Cells, str]]:
    """Return the panels with lr as horizontal axis, their cells, and the other axis (empty if lr is the only one)."""
    if "lr" not in results.axes:
        return []
    found = [panel for panel in stability_panels(results)[:_MAX_PANELS] if panel.cells.axes[0].name == "lr"]
    if found:
        return [(panel, panel.cells, panel.cells.axes[1].name) for panel in found]
    cells = results.aggregate.cells[("lr",)]
    return [(Panel("", cells), cells.widened(), "")]


def _some(count: int) -> list[int]:
    """Return at most _MAX_ROWS indices spread evenly over ``count``, including both ends."""
    return sorted(set(np.linspace(0, count - 1, min(count, _MAX_ROWS)).round().astype(int).tolist()))


def edge_in_row(cells: Cells, row: int) -> dict[str, float]:
    """Return the edge of stability in one row of a map; keys as in :func:`edge_of_stability`."""
    run = cells.trials[:, row] > 0
    lr, settled = cells.axes[0].labels[run], cells.badness[run, row] == 0
    broken = np.flatnonzero(~settled)
    first = broken[0] if len(broken) else len(lr)
    return {
        "settles_up_to": lr[first - 1] if first else np.nan,
        "breaks_at": lr[first] if first < len(lr) else np.nan,
        "largest_settling": lr[settled].max() if settled.any() else np.nan,
        "predicted_edge": _crossing(lr, cells.radius[run, row]),
    }


def _crossing(lr: FloatArray, radius: FloatArray) -> float:
    """Return the lr at which the predicted radius first exceeds 1, interpolated linearly in the log of the radius."""
    with np.errstate(divide="ignore"):
        log = np.clip(np.log(radius), -50, 50)
    above = np.flatnonzero((log[:-1] < 0) & (log[1:] >= 0) & np.isfinite(radius[1:]))
    if not len(above):
        return np.nan
    i = above[0]
    return float(lr[i] + (lr[i + 1] - lr[i]) * log[i] / (log[i] - log[i + 1]))


def breaking_factor(results: Results, trial: int, lr: float) -> float | None:
    """Return the ratio of the next lr that does not settle in a trial's map row to the trial's lr, or None."""
    for _, cells, _ in lr_maps(results):
        at = np.argwhere(cells.trial == trial)
        if len(at):
            column, row = at[0]
            labels, broken = cells.axes[0].labels[column:], cells.badness[column:, row] % 3 > 0
            return float(labels[broken.argmax()] / lr) if broken.any() and lr > 0 else None
    return None
