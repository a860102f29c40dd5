"""The stability map on a terminal: every cell where pandas says, in colours, in letters, at any width."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sgdcore.verdict import VERDICTS
from sweeps.cli.terminal_map import LETTERS, show_map
from sweeps.planning.prepared import PreparedSweep
from sweeps.report.colors import COLOURS
from sweeps.results.results import Results, load_results
from sweeps.results.stability_map import stability_panels
from sweeps.store.store import SweepFiles

AXES = {
    "lr": {"min": 0.005, "max": 0.1, "count": 20},
    "momentum": {"min": 0, "max": 0.9, "count": 10},
    "init.weight": {"value": 0},
    "init.bias": {"value": 0},
}


@pytest.fixture
def loaded(make_prepared: Callable[..., PreparedSweep], stored: Callable[[PreparedSweep], SweepFiles]) -> Results:
    return load_results(stored(make_prepared(parameters=AXES, training={"epochs": 60}, execution={})))


def drawn(loaded: Results, width: int, **terminal: object) -> tuple[list[str], str, str]:
    """The map's lines, the one with lr below them, and the legend."""
    file = io.StringIO()
    show_map(stability_panels(loaded), Console(file=file, width=width, **terminal))  # type: ignore[arg-type]
    lines = file.getvalue().splitlines()
    below = next(i for i, line in enumerate(lines) if "lr" in line)
    return lines[:below], lines[below], " ".join(lines[below + 1 :])


def verdicts(loaded: Results) -> pd.DataFrame:
    """Rows from the highest momentum down, a column a value of lr."""
    table = loaded.trials.assign(verdict=loaded.trials["verdict"].astype(object))
    return table.pivot(index="momentum", columns="lr", values="verdict").sort_index(ascending=False)


def test_letters_are_the_verdicts(loaded: Results) -> None:
    lines, ruler, legend = drawn(loaded, 35)
    margin = len("momentum 0 ")
    assert len(set(LETTERS.values())) == len(VERDICTS)
    assert [line[margin:] for line in lines] == [
        "".join(LETTERS[v] for v in row) for row in verdicts(loaded).to_numpy()
    ]
    assert lines[0].startswith("       0.9 ")
    assert lines[-1].startswith("momentum 0 ")
    assert ruler.split() == ["0.005", "lr", "0.1"]
    assert all(verdict in legend for verdict in np.unique(verdicts(loaded)))


def test_half_blocks_have_the_verdicts_colours(loaded: Results) -> None:
    lines, *_ = drawn(loaded, 35, force_terminal=True, color_system="truecolor", no_color=False)
    rows = verdicts(loaded).to_numpy()
    assert len(lines) == 10, "twice as high, for two rows are a line"
    for line, row in zip(lines, rows, strict=True):
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)", line)
        shown = []
        for *channels, blocks in cells:
            upper, lower = ("#{:02X}{:02X}{:02X}".format(*map(int, part)) for part in (channels[:3], channels[3:]))
            assert upper == lower
            shown += [upper] * len(blocks)
        assert shown == [COLOURS[verdict] for verdict in row]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("system", [None, "standard", "truecolor"])
def test_fits_the_width(loaded: Results, width: int, system: str | None) -> None:
    lines, ruler, _ = drawn(loaded, width, force_terminal=True, color_system=system, no_color=False)
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in (*lines, ruler)]
    assert max(map(len, plain)) <= max(width, 20)
    assert max(map(len, plain)) > min(width, 100) / 3


def test_groups_of_cells_show_what_most_of_them_are(loaded: Results) -> None:
    lines, *_ = drawn(loaded, 22)
    rows = verdicts(loaded).to_numpy()
    width = len(lines[0]) - len("momentum 0 ")
    starts = [*np.linspace(0, 20, width + 1).astype(int)]
    for line, row in zip(lines, rows, strict=True):
        for letter, first, last in zip(line[-width:], starts[:-1], starts[1:], strict=True):
            counts = pd.Series(row[first:last]).value_counts()
            assert counts[{v: k for k, v in LETTERS.items()}[letter]] == counts.max()


def test_show_draws_it(cli: Callable[..., object], loaded: Results) -> None:
    shown = cli("show", loaded.files.sweep_id).stdout  # type: ignore[attr-defined]
    assert shown.count("\nmomentum 0 ") == 1
    assert "The edge of stability: at momentum 0 " in shown
