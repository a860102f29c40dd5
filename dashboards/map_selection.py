"""Cells of the stability map in addresses, given by the values of their axes, as in ?lr=0.01&momentum=0.9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sgdcore.verdict import VERDICTS
from sweeps.results.binning import MapAxis
from sweeps.results.heatmap import Panel
from sweeps.text.formatting import cell as shown
from sweeps.text.formatting import heading, meaning

_RING = 9  # radius in pixels


@dataclass(frozen=True)
class Cell:
    """A cell in one of a map's panels."""

    place: int  # index of the panel
    panel: Panel
    column: int
    row: int

    @property
    def values(self) -> dict[str, str]:
        """The cell's axis values as written in an address."""
        return {axis.name: _written(axis, place) for axis, place in self._places}

    @property
    def title(self) -> str:
        """The cell's axis values as text."""
        return " · ".join(
            f"{heading(axis.name)} {shown(meaning(axis.labels[place], axis.name), axis.name)}"
            for axis, place in self._places
        )

    @property
    def counts(self) -> dict[str, int]:
        """The cell's trials by verdict."""
        return dict(zip(VERDICTS, self.panel.cells.counts[self.column, self.row].tolist(), strict=True))

    @property
    def best(self) -> int:
        """The number of the cell's best trial; -1 if none was run."""
        return int(self.panel.cells.trial[self.column, self.row])

    def ring(self) -> list[dict[str, object]]:
        """Return the marker of the cell: a ring of fixed size in pixels, visible on every colour."""
        across, up = self.panel.cells.axes
        number = "" if self.place == 0 else str(self.place + 1)
        return [
            {
                "type": "circle",
                "xref": f"x{number}",
                "yref": f"y{number}",
                "xsizemode": "pixel",
                "ysizemode": "pixel",
                "xanchor": float(across.positions[self.column]),
                "yanchor": float(up.positions[self.row]),
                **{name: side * _RING for name, side in (("x0", -1), ("x1", 1), ("y0", -1), ("y1", 1))},
                "line": {"color": colour, "width": width},
            }
            for colour, width in (("#ffffff", 6), ("#111827", 2.5))
        ]

    @property
    def _places(self) -> list[tuple[MapAxis, int]]:
        across, up = self.panel.cells.axes
        return [(across, self.column), (up, self.row), *self.panel.beside]


def named(panels: Sequence[Panel], values: Mapping[str, str]) -> Cell | None:
    """Return the cell that an address names, or None."""
    for place, panel in enumerate(panels):
        across, up = panel.cells.axes
        found = [_place(axis, values.get(axis.name)) for axis in (across, up)]
        matches = [_place(axis, values.get(axis.name)) == at for axis, at in panel.beside]
        if found[0] is not None and found[1] is not None and all(matches):
            return Cell(place, panel, found[0], found[1])
    return None


def clicked(panels: Sequence[Panel], place: int, x: float, y: float) -> Cell:
    """Return the cell at a point of a panel."""
    across, up = panels[place].cells.axes
    column, row = (int(np.abs(axis.positions - at).argmin()) for axis, at in ((across, x), (up, y)))
    return Cell(place, panels[place], column, row)


def _written(axis: MapAxis, place: int) -> str:
    value = meaning(axis.labels[place], axis.name)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _place(axis: MapAxis, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        value = {"true": 1.0, "false": 0.0}[text] if text in ("true", "false") else float(text)
    except ValueError:
        return None
    place = (
        int(axis.places([value + 1e-9 * abs(value)])[0]) if value == value else -1
    )  # a value typed by hand can be rounded
    return place if place >= 0 else None
