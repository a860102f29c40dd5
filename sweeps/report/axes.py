"""Axes of the maps: which two parameters are widest, and how a parameter's values become cells."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweeps.report.results import Results
from sweeps.report.text import cell, number

MAX_CELLS = 300  # along an axis; more values are binned
_FULL = 0.9  # the share of its combinations that a pair of axes must have run to count as crossed
_MANY_LABELS = 40
_EVEN = 1.5  # largest over smallest gap of values that count as evenly spaced

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MapAxis:
    """A parameter's values as cells in a row."""

    name: str
    kind: Literal["log", "linear", "listed"]  # listed: cells of equal width, each with its label
    starts: FloatArray  # (N,) least value of each cell
    labels: FloatArray  # (N,) a value that stands for the cell
    edges: FloatArray  # (N + 1,)

    @classmethod
    def of(cls, column: pd.Series[Any], name: str) -> MapAxis:
        """The cells of a column's distinct values."""
        values = np.unique(column.to_numpy(dtype=np.float64))
        bins = np.array_split(values, min(len(values), MAX_CELLS))
        starts = np.array([part[0] for part in bins])
        labels = np.array([part[len(part) // 2] for part in bins])
        kind = _kind(labels)
        places = np.arange(len(labels), dtype=np.float64) if kind == "listed" else labels
        edges = _edges(np.log10(places) if kind == "log" else places)
        return cls(name, kind, starts, labels, 10**edges if kind == "log" else edges)

    @property
    def centres(self) -> FloatArray:
        """(N,) middle of each cell, as the axis counts."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    def places(self, column: pd.Series[Any]) -> NDArray[np.intp]:
        """The cell of each value."""
        return np.searchsorted(self.starts, column.to_numpy(dtype=np.float64), side="right") - 1

    def layout(self) -> dict[str, object]:
        """What plotly needs to draw the axis."""
        ends = np.log10(self.edges[[0, -1]]) if self.kind == "log" else self.edges[[0, -1]]
        layout: dict[str, object] = {"type": "log" if self.kind == "log" else "linear", "range": ends.tolist()}
        if self.kind == "log":
            layout |= ticks(*ends)
        if self.kind == "listed":
            every = slice(None, None, -(-len(self.labels) // _MANY_LABELS))
            booleans = self.name == "nesterov"
            texts = [cell(bool(v) if booleans else float(v), self.name) for v in self.labels[every]]
            layout |= {"tickvals": np.arange(len(self.labels))[every].tolist(), "ticktext": texts}
        return layout


def widest_pair(results: Results) -> tuple[MapAxis, MapAxis] | None:
    """The two widest axes that were crossed with each other, the wider first.

    Of mappings in a list, two axes may have few values in common; such a pair makes an empty map, so it comes last.
    """
    names = [name for name in results.axes if name != "seed"]
    if len(names) < 2:
        return None
    codes = {name: pd.factorize(results.trials[name])[0] for name in names}
    widths = {name: int(codes[name].max()) + 1 for name in names}

    def crossed(pair: tuple[str, str]) -> float:
        first, second = pair
        met = len(np.unique(codes[first].astype(np.int64) * widths[second] + codes[second]))
        return met / (widths[first] * widths[second])

    pairs = list(combinations(names, 2))  # in order of width
    shares = [crossed(pair) for pair in pairs]
    full = [pair for pair, share in zip(pairs, shares, strict=True) if share >= _FULL]
    across, up = full[0] if full else pairs[int(np.argmax(shares))]
    return MapAxis.of(results.trials[across], across), MapAxis.of(results.trials[up], up)


def ticks(low: float, high: float) -> dict[str, list[Any]]:
    """Ticks of a logarithmic axis from 10**low to 10**high: few enough to be read, each with its whole number."""
    spacing = max(1, round((high - low) / 6))
    digits = (1, 2, 5) if high - low < 3 else (1,)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1, spacing)
    found = [(digit, power) for power in decades for digit in digits if low <= power + np.log10(digit) <= high]
    if len(found) < 2:  # less than an octave
        values = np.linspace(low, high, 4)[1:-1]
        return {"tickvals": (10**values).tolist(), "ticktext": [number(value, 3) for value in 10**values]}
    return {
        "tickvals": [float(f"{digit}e{power}") for digit, power in found],
        "ticktext": [_tick(digit, power) for digit, power in found],
    }


def _tick(digit: int, power: int) -> str:
    if -4 < power < 5:
        return number(float(f"{digit}e{power}"))
    return f"{digit}e{power}" if digit > 1 else f"10<sup>{power}</sup>"


def _kind(values: FloatArray) -> Literal["log", "linear", "listed"]:
    if len(values) > 2 and _evenly(values):
        return "linear"
    if len(values) > 2 and values[0] > 0 and _evenly(np.log10(values)):
        return "log"
    if len(values) <= _MANY_LABELS:
        return "listed"
    return "log" if values[0] > 0 and values[-1] > 100 * values[0] else "linear"


def _evenly(values: FloatArray) -> bool:
    gaps = np.diff(values)
    return bool(gaps.max() <= _EVEN * gaps.min())


def _edges(centres: FloatArray) -> FloatArray:
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middles = (centres[:-1] + centres[1:]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])
