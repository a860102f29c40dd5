"""The stability map on a terminal: coloured half blocks, or one letter per cell if the terminal has no colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from sgdcore.verdict import VERDICTS
from sweeps.cli.terminal import VERDICT_STYLES
from sweeps.report.colors import COLOURS
from sweeps.results.binning import MapAxis
from sweeps.results.heatmap import Cells, Panel
from sweeps.text.formatting import cell, heading, meaning

LETTERS = {"converged": ".", "converging": "~", "stalled": "-", "diverging": "+", "diverged": "x"}
_WIDEST = 100  # characters
_HIGHEST = {True: 22, False: 12}  # lines of a single map, and of each map if there are several
_MOST_STRETCHED = 6  # characters of a cell
_EMPTY = -1

Grid = NDArray[np.intp]


def show_map(panels: Sequence[Panel], console: Console) -> None:
    """Draw the maps below each other, up to the console's width, with a legend of colours or letters."""
    colours = _colours(console)
    highest = _HIGHEST[len(panels) == 1]
    seen: set[int] = set()
    for panel in panels:
        across, up = panel.cells.axes
        labels = _labels(up)
        margin = max(map(len, labels)) + 1
        width = max(8, min(_WIDEST, console.width - margin - 1))
        grid = _grouped(panel.cells, width, highest * (2 if colours else 1))
        grid = _stretched(grid, width, 2 if colours and 2 * grid.shape[1] <= highest else 1)
        seen |= set(np.unique(grid).tolist()) - {_EMPTY}
        if panel.title:
            _say(console, Text(panel.title, style="bold"))
        lines = list(_blocks(grid, colours) if colours else _letters(grid))
        for i, line in enumerate(lines):
            label = labels[1] if i == 0 else labels[0] if i == len(lines) - 1 else ""
            _say(console, Text(f"{label:>{margin - 1}} ") + line)
        _say(console, Text(" " * margin + _ruler(across, grid.shape[0])))
    console.print(_legend([verdict for i, verdict in enumerate(VERDICTS) if i in seen], colours), soft_wrap=False)


def _grouped(cells: Cells, columns: int, rows: int) -> Grid:
    """Return the most common verdict of each group of neighbouring cells; ties go to the worst."""
    votes = np.eye(len(VERDICTS), dtype=np.int64)[cells.verdict] * (cells.verdict >= 0)[..., np.newaxis]
    for axis, most in ((0, columns), (1, rows)):
        count = votes.shape[axis]
        starts = np.linspace(0, count, min(count, most) + 1).astype(np.intp)[:-1]
        votes = np.add.reduceat(votes, starts, axis=axis)
    winner = len(VERDICTS) - 1 - votes[..., ::-1].argmax(axis=-1)
    return np.where(votes.any(axis=-1), winner, _EMPTY)


def _stretched(grid: Grid, width: int, up: int) -> Grid:
    """Enlarge a small map by whole characters."""
    across = max(1, min(_MOST_STRETCHED, width // grid.shape[0]))
    return grid.repeat(across, axis=0).repeat(up, axis=1)


def _colours(console: Console) -> list[Color]:
    """Return the verdicts' colours: named ones if the console has only 16, an empty list if it has none."""
    if console.color_system is None or console.no_color:
        return []
    few = console.color_system in ("standard", "windows")
    return [Color.parse(VERDICT_STYLES[verdict] if few else COLOURS[verdict]) for verdict in VERDICTS]


def _blocks(grid: Grid, colours: list[Color]) -> Iterator[Text]:
    """Yield lines of half blocks from top to bottom: the foreground is the upper row, the background the lower."""
    colour: dict[int, Color | None] = {_EMPTY: None, **dict(enumerate(colours))}
    rows = grid.T[::-1]
    if len(rows) % 2:
        rows = np.vstack([rows, np.full_like(rows[:1], _EMPTY)])
    for upper, lower in zip(rows[::2].tolist(), rows[1::2].tolist(), strict=True):
        line = Text()
        for (above, below), run in groupby(zip(upper, lower, strict=True)):
            count = len(list(run))
            if above == _EMPTY:
                line.append(("▄" if below != _EMPTY else " ") * count, Style(color=colour[below]))
            else:
                line.append("▀" * count, Style(color=colour[above], bgcolor=colour[below]))
        yield line


def _letters(grid: Grid) -> Iterator[Text]:
    signs = [*(LETTERS[verdict] for verdict in VERDICTS), " "]
    for row in grid.T[::-1].tolist():
        yield Text("".join(signs[place] for place in row))


def _labels(up: MapAxis) -> tuple[str, str]:
    """Return the labels of the lowest and the highest line."""
    if not up.name:
        return "", ""
    low, high = (cell(meaning(value, up.name), up.name) for value in up.labels[[0, -1]])
    return f"{heading(up.name)} {low}", high


def _ruler(across: MapAxis, width: int) -> str:
    low, high = (cell(meaning(value, across.name), across.name) for value in across.labels[[0, -1]])
    name = f"{heading(across.name)}{' (log)' if across.kind == 'log' else ''}"
    room = width - len(low) - len(high)
    return f"{low}{name:^{room}}{high}" if room > len(name) + 1 else f"{name} {low} to {high}"


def _legend(verdicts: Sequence[str], colours: list[Color]) -> Text:
    legend = Text()
    for verdict in verdicts:
        colour = Style(color=colours[VERDICTS.index(verdict)]) if colours else Style()
        sign = Text("██" if colours else LETTERS[verdict], colour)
        legend += sign + Text(f"\N{NO-BREAK SPACE}{verdict}   ")
    legend.rstrip()
    return legend


def _say(console: Console, line: Text) -> None:
    line.rstrip()
    console.print(line, no_wrap=True, overflow="crop", crop=False, soft_wrap=True)
