"""Tables in a terminal: no word and no number is broken, however narrow it is."""

import io
import re

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from sweeps.cli import terminal

FRAME = pd.DataFrame(
    {
        "trial": [7, 1234],
        "lr": [0.0123456, 0.1],
        "verdict": ["converged", "diverging"],
        "name": ["日本 a b", "x"],
        "final_validation_loss": [1.5e-12, 1e5 + 0.5],
        "best_step": [1000, 20],
        "steps_to_tolerance": pd.array([31204, None], dtype="Int64"),
        "final.weight": [0.123456, -5.56952],
    }
)


def shown(width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    file = io.StringIO()
    monkeypatch.setattr(terminal, "out", Console(file=file, width=width, force_terminal=True, color_system=None))
    terminal.show_table(FRAME, "best trials")
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()


@pytest.mark.parametrize("width", [30, 50, 60, 80, 120])
def test_words_and_numbers_stay_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(width, monkeypatch)
    assert max(map(cell_len, lines)) <= width
    words = " ".join(lines).split()
    for whole in (
        "0.0123456",
        "1.5e-12",
        "31,204",
        "-5.56952",
        "converged",
        "tolerance",
        "validation",
        "step",
    ):
        assert whole in words, whole
    assert lines[0].split() == ["best", "trials"]
    assert words.count("1234") == words.count("7") == words.count("trial")


def test_elsewhere_a_row_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(terminal, "out", Console(file=file, width=30))
    terminal.show_table(FRAME)
    assert len(file.getvalue().splitlines()) == 1 + len(FRAME)
    assert "日本 a b" in file.getvalue()
