"""The edge of stability: up to which lr trials settle, where they break, and what that means for the choice of lr."""

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
    """Up to which lr trials settle, for values of the axis beside it; empty where lr is not an axis of the map.

    A row a value, the best trials of its cells: ``settles_up_to`` is the largest lr below which all settle,
    ``breaks_at`` the least that does not (missing where all do), ``largest_settling`` the largest of all that do:
    stability need not be monotone; ``predicted_edge`` where the predicted radius first passes 1.
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
    """Panels with lr across, their cells, and the name of the other axis; it is empty where lr is the only axis."""
    if "lr" not in results.axes:
        return []
    found = [panel for panel in stability_panels(results)[:_MAX_PANELS] if panel.cells.axes[0].name == "lr"]
    if found:
        return [(panel, panel.cells, panel.cells.axes[1].name) for panel in found]
    cells = results.aggregate.cells[("lr",)]
    return [(Panel("", cells), cells.widened(), "")]


def _some(count: int) -> list[int]:
    """Places evenly spread over so many, both ends among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, _MAX_ROWS)).round().astype(int).tolist()))


def edge_in_row(cells: Cells, row: int) -> dict[str, float]:
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
    """Where the predicted radius first passes 1, between two values of lr in proportion to its logarithm."""
    with np.errstate(divide="ignore"):
        log = np.clip(np.log(radius), -50, 50)
    above = np.flatnonzero((log[:-1] < 0) & (log[1:] >= 0) & np.isfinite(radius[1:]))
    if not len(above):
        return np.nan
    i = above[0]
    return float(lr[i] + (lr[i + 1] - lr[i]) * log[i] / (log[i] - log[i + 1]))


def breaking_factor(results: Results, trial: int, lr: float) -> float | None:
    """The factor from a trial's lr to the next at which its row of the map breaks."""
    for _, cells, _ in lr_maps(results):
        at = np.argwhere(cells.trial == trial)
        if len(at):
            column, row = at[0]
            labels, broken = cells.axes[0].labels[column:], cells.badness[column:, row] % 3 > 0
            return float(labels[broken.argmax()] / lr) if broken.any() and lr > 0 else None
    return None
