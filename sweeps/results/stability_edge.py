"""The edge of stability: up to which lr trials settle, where they break, and what that means for the choice of lr."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.results.heatmap import Cells
from sweeps.results.results import Results
from sweeps.results.stability_map import Panel
from sweeps.text.formatting import cell, heading, meaning, number

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
    for panel, cells, name in _found(results):
        for i in _some(cells.trial.shape[1]):
            value = meaning(cells.axes[1].labels[i], name) if name else None
            rows.append({"setting": panel.title, **({name: value} if name else {}), **_edge(cells, i)})
    frame = pd.DataFrame(rows)
    if len(frame) and not frame["setting"].any():
        frame = frame.drop(columns="setting")
    return frame.dropna(axis="columns", how="all")


def edge_sentence(results: Results) -> str | None:
    """Where the edge is, at the least value of the axis beside lr and at the best trial's, or else at the largest.

    None where lr is no axis, or nothing settled.
    """
    best = results.shown(results.tally.best_settled)
    found = _found(results)
    if not found or not len(best):
        return None
    panel, cells, name = next((part for part in found if best["trial"].iloc[0] in part[1].trial), found[0])
    rows = [0]
    if name:
        used = int(cells.axes[1].places([float(best[name].iloc[0])])[0])
        rows += [used or cells.trial.shape[1] - 1]
    told = []
    for i in dict.fromkeys(rows):
        where = f"at {heading(name)} {cell(meaning(cells.axes[1].labels[i], name), name)} " if name else ""
        told.append(f"{where}{_words(_edge(cells, i))}")
    title = f" ({panel.title})" if panel.title else ""
    of_the_best = ", the best of each setting's trials" if (cells.trials > 1).any() else ""
    return f"The edge of stability{title}{of_the_best}: {'; '.join(told)}."


def advice(results: Results) -> str | None:
    """What to use: the best trial's settings, how soon it arrives, and how far from the edge it is.

    None where it did not converge.
    """
    best = results.shown(results.tally.best_settled)
    axes = [name for name in results.swept if name != "seed"]
    if not len(best) or not axes or best["verdict"].iloc[0] != "converged":
        return None
    row = best.iloc[0]
    told = f"Use {', '.join(f'{heading(name)} {cell(row[name], name)}' for name in axes[:6])}"
    if pd.notna(row["steps_to_tolerance"]):
        told += f": within tolerance after {row['steps_to_tolerance']:,} steps"
    factor = _margin(results, int(row["trial"]), float(row["lr"]))
    if factor is not None:
        told += f"; at {number(factor, 2)} times that lr it breaks"
    return f"{told}."


def _found(results: Results) -> list[tuple[Panel, Cells, str]]:
    """Panels with lr across, their cells, and the name of the other axis; it is empty where lr is the only axis."""
    if "lr" not in results.axes:
        return []
    found = [panel for panel in results.panels[:_MAX_PANELS] if panel.cells.axes[0].name == "lr"]
    if found:
        return [(panel, panel.cells, panel.cells.axes[1].name) for panel in found]
    cells = results.tally.cells[("lr",)]
    return [(Panel("", cells), cells.widened(), "")]


def _some(count: int) -> list[int]:
    """Places evenly spread over so many, both ends among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, _MAX_ROWS)).round().astype(int).tolist()))


def _edge(cells: Cells, row: int) -> dict[str, float]:
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


def _words(edge: dict[str, float]) -> str:
    if np.isnan(edge["breaks_at"]):
        return "every lr settles"
    if np.isnan(edge["largest_settling"]):
        return "no lr settles"
    if np.isnan(edge["settles_up_to"]):
        return f"already the least lr breaks, others settle up to {number(edge['largest_settling'])}"
    told = f"trials settle up to lr {number(edge['settles_up_to'])} and break at {number(edge['breaks_at'])}"
    if edge["largest_settling"] > edge["breaks_at"]:
        told += f", though some settle again up to {number(edge['largest_settling'])}"
    return told


def _margin(results: Results, trial: int, lr: float) -> float | None:
    """The factor from a trial's lr to the next at which its row of the map breaks."""
    for _, cells, _ in _found(results):
        at = np.argwhere(cells.trial == trial)
        if len(at):
            column, row = at[0]
            labels, broken = cells.axes[0].labels[column:], cells.badness[column:, row] % 3 > 0
            return float(labels[broken.argmax()] / lr) if broken.any() and lr > 0 else None
    return None
