"""Effects: what each hyperparameter alone does to the outcome, and how much of the variance that explains."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.results.heatmap import Cells
from sweeps.results.results import Results

MAX_LEVELS = 24  # of a parameter; more values are grouped, so that single trials are no groups of their own
_LEAST_FILLED = 0.2  # of the combinations of up to three values of each axis
REST = "interactions and the rest"

FloatArray = NDArray[np.float64]


def effects(results: Results) -> pd.DataFrame:
    """How much of the variance each parameter explains by itself; empty where fewer than two are swept.

    It is empty also where so few of the axes' combinations were run that their effects cannot be told apart.

    ``of_settling`` is eta squared, the share of the variance between the parameter's values of a one-way analysis, of
    whether a trial settles, and ``of_log_loss`` that of log10 of the final loss of those that settle. What is left to 1
    are interactions and, where several seeds were run, chance. In products of axes the shares of settling add up;
    those of the loss need not, since settled trials are no product.
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
    """By value of a parameter: trials, the share that settles, and of those the mean and deviation of log10 loss.

    More than MAX_LEVELS values are grouped; a group stands under its middle value.
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
    """Where the groups of some cells in a row begin, and the end."""
    return np.linspace(0, cells, min(cells, MAX_LEVELS) + 1).round().astype(np.intp)


def _grouped(cells: Cells) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Trials, settled and measured ones, mean and squares of groups of neighbouring cells."""
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
