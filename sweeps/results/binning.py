"""Map axes: bin a parameter's values into cells and lay the cells out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeps.text.formatting import cell, meaning, number

MAX_CELLS = 200  # cells along an axis; more values are binned
MAX_MAP_CELLS = 20_000  # cells of a map
_MANY_LABELS = 40
_EVEN = 1.5  # maximum ratio of the largest to the smallest gap between evenly spaced values

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MapAxis:
    """The values of a parameter as N cells along an axis."""

    name: str
    kind: Literal["log", "linear", "listed"]  # listed: cells of equal width, each with its own label
    starts: FloatArray  # (N,) smallest value of each cell
    labels: FloatArray  # (N,) a representative value of each cell
    edges: FloatArray  # (N + 1,)

    @classmethod
    def of(cls, column: ArrayLike, name: str, cells: int = MAX_CELLS) -> MapAxis:
        """Build the axis of a column's distinct values; more than ``cells`` of them are binned."""
        values = np.unique(np.asarray(column, dtype=np.float64))
        bins = np.array_split(values, min(len(values), cells))
        starts = np.array([part[0] for part in bins])
        labels = np.array([part[len(part) // 2] for part in bins])
        kind = _kind_of_bins(labels) if len(values) > cells else _kind(labels)
        places = np.arange(len(labels), dtype=np.float64) if kind == "listed" else labels
        edges = _edges(np.log10(places) if kind == "log" else places)
        return cls(name, kind, starts, labels, 10**edges if kind == "log" else edges)

    @property
    def centres(self) -> FloatArray:
        """The (N,) centres of the cells, in axis coordinates."""
        return (self.edges[:-1] + self.edges[1:]) / 2

    def places(self, column: ArrayLike) -> NDArray[np.intp]:
        """Return the cell index of each value."""
        return np.searchsorted(self.starts, np.asarray(column, dtype=np.float64), side="right") - 1

    @property
    def positions(self) -> FloatArray:
        """The (N,) positions of the cells' values on the axis."""
        return self.centres if self.kind == "listed" else self.labels

    def layout(self) -> dict[str, object]:
        """Return the plotly layout of the axis."""
        ends = np.log10(self.edges[[0, -1]]) if self.kind == "log" else self.edges[[0, -1]]
        layout: dict[str, object] = {"type": "log" if self.kind == "log" else "linear", "range": ends.tolist()}
        if self.kind == "log":
            layout |= ticks(*ends)
        if self.kind == "listed":
            every = slice(None, None, -(-len(self.labels) // _MANY_LABELS))
            texts = [cell(meaning(v, self.name), self.name) for v in self.labels[every]]
            layout |= {"tickvals": np.arange(len(self.labels))[every].tolist(), "ticktext": texts}
        return layout


def pair(
    first: str, firsts: ArrayLike, second: str, seconds: ArrayLike, cells: int = MAX_MAP_CELLS
) -> tuple[MapAxis, MapAxis]:
    """Build the axes of two columns such that their product has at most ``cells`` cells."""
    most = [min(len(np.unique(values)), MAX_CELLS) for values in (firsts, seconds)]
    if most[0] * most[1] > cells:
        fewer = min(*most, math.isqrt(cells))
        most = [min(n, fewer if n == min(most) else cells // fewer) for n in most]
    return MapAxis.of(firsts, first, most[0]), MapAxis.of(seconds, second, most[1])


def ticks(low: float, high: float) -> dict[str, list[Any]]:
    """Return readable plotly ticks of a logarithmic axis from 10**low to 10**high."""
    spacing = max(1, round((high - low) / 6))
    digits = (1, 2, 5) if high - low < 3 else (1,)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1, spacing)
    found = [(digit, power) for power in decades for digit in digits if low <= power + np.log10(digit) <= high]
    if len(found) < 2:  # the axis spans less than an octave
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
    if np.isinf(values[-1]):
        return "listed"
    if len(values) > 2 and _evenly(values):
        return "linear"
    if len(values) > 2 and values[0] > 0 and _evenly(np.log10(values)):
        return "log"
    if len(values) <= _MANY_LABELS:
        return "listed"
    return "log" if values[0] > 0 and values[-1] > 100 * values[0] else "linear"


def _kind_of_bins(values: FloatArray) -> Literal["log", "linear"]:
    """Return the scale on which bins of equally many values are spaced more evenly."""
    if values[0] <= 0 or np.isinf(values[-1]):
        return "linear"
    spread = [np.std(np.diff(places)) / np.mean(np.diff(places)) for places in (values, np.log10(values))]
    return "log" if len(values) > 2 and spread[1] < spread[0] else "linear"


def _evenly(values: FloatArray) -> bool:
    gaps = np.diff(values)
    return bool(gaps.max() <= _EVEN * gaps.min())


def _edges(centres: FloatArray) -> FloatArray:
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middles = (centres[:-1] + centres[1:]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])
