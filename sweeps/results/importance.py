"""Parameter importance: the main effect of each hyperparameter and the share of variance it explains."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.results.heatmap import Cells
from sweeps.results.results import Results

MAX_LEVELS = 24  # levels per parameter; more values are grouped, so that a group is not a single trial
_LEAST_FILLED = 0.2  # minimum share of the combinations of up to three values per axis
REST = "interactions and the rest"

FloatArray = NDArray[np.float64]


def effects(results: Results) -> pd.DataFrame:
    """Return the share of variance that each parameter explains by itself.

    The table is empty if fewer than two parameters are swept, or if too few combinations of the axes were run to
    separate their effects.

    ``of_settling`` is eta squared of a one-way analysis of variance (the variance between the parameter's values over
    the total) of whether a trial settles; ``of_log_loss`` is the same for log10 of the final loss of settled trials, or
    for the loss itself if it can be negative. The remainder to 1 is due to interactions and, with several seeds,
    chance. In a full grid the shares of settling add up; those of the loss need not, because the settled trials are not
    a full grid.
    """
    combinations = math.prod(min(len(results.values[name]), 3) for name in results.axes)
    if len(results.axes) < 2 or results.stored < _LEAST_FILLED * combinations:
        return pd.DataFrame()
    cells = {name: results.aggregate.cells[(name,)] for name in results.axes}
    frame = pd.DataFrame(
        {
            "parameter": results.axes,
            "values": [len(results.values[name]) for name in results.axes],
            "of_settling": [_share_of_settling(part) for part in cells.values()],
            "of_log_loss": [_share_of_loss(part) for part in cells.values()],
        }
    )
    frame = frame.sort_values(["of_settling", "of_log_loss"], ascending=False, ignore_index=True)
    shares = frame[["of_settling", "of_log_loss"]]
    rest = (1 - shares.sum()).clip(lower=0).where(shares.notna().any())
    frame.loc[len(frame)] = [REST, None, *rest]
    return frame.astype({"values": "Int64"})


def main_effect(results: Results, name: str) -> pd.DataFrame:
    """Return, per value of a parameter, the trials, the share that settles, and mean and deviation of log10 loss.

    Mean and standard deviation are over settled trials. More than MAX_LEVELS values are grouped, and each group is
    listed under its middle value.
    """
    cells = results.aggregate.cells[(name,)]
    groups = _groups(len(cells.axes[0].labels))
    trials, settled, measured, mean, squares = _grouped(cells)
    middles = [(first + last - 1) // 2 for first, last in pairwise(groups)]
    frame = pd.DataFrame(
        {
            name: cells.axes[0].labels[middles],
            "trials": trials,
            "settles": np.divide(settled, trials, out=np.full(len(trials), np.nan), where=trials > 0),
            "mean_log_loss": np.where(measured > 0, mean, np.nan),
            "deviation": np.sqrt(np.divide(squares, measured - 1, out=np.zeros(len(mean)), where=measured > 1)),
        }
    )
    return frame[frame["trials"] > 0].reset_index(drop=True)


def _groups(cells: int) -> NDArray[np.intp]:
    """Return the start index of each group of neighbouring cells, and the end."""
    return np.linspace(0, cells, min(cells, MAX_LEVELS) + 1).round().astype(np.intp)


def _grouped(cells: Cells) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return trials, settled, measured, mean and squares of groups of neighbouring cells."""
    starts = _groups(len(cells.mean))[:-1]
    trials, settled, measured = (
        np.add.reduceat(part, starts).astype(float) for part in (cells.trials, cells.settled, cells.measured)
    )
    total = np.add.reduceat(cells.mean * cells.measured, starts)
    mean = np.divide(total, measured, out=np.zeros(len(total)), where=measured > 0)
    sizes = np.diff(_groups(len(cells.mean)))
    apart = cells.mean - np.repeat(mean, sizes)
    squares = np.add.reduceat(cells.squares + cells.measured * apart**2, starts)
    return trials, settled, measured, mean, squares


def _share_of_settling(cells: Cells) -> float:
    trials, settled, *_ = _grouped(cells)
    overall = settled.sum() / trials.sum()
    whole = trials.sum() * overall * (1 - overall)
    share = np.divide(settled, trials, out=np.zeros(len(trials)), where=trials > 0)
    return float((trials * (share - overall) ** 2).sum() / whole) if whole > 0 else np.nan


def _share_of_loss(cells: Cells) -> float:
    _, _, measured, mean, squares = _grouped(cells)
    if measured.sum() < 2:
        return np.nan
    overall = (measured * mean).sum() / measured.sum()
    between = (measured * (mean - overall) ** 2).sum()
    return float(between / (between + squares.sum())) if between + squares.sum() > 0 else np.nan
