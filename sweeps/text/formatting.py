"""Formats for tables: headings, cells and Markdown."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

NOTHING = "–"
_HEADINGS = {
    "first_nonfinite_step": "first non-finite step",
    "overshoot_percent": "overshoot %",
    "overshoot_parameter": "parameter",
    "of_settling": "of settling",
    "of_log_loss": "of log10 loss",
    "breaks_at": "breaks at",
    "steps_to_tolerance": "steps to tolerance",
    "trial_before": "trial in A",
    "verdict_before": "verdict in A",
    "final_loss_before": "final loss in A",
    "only_first": "only in A",
    "only_this": "only in this sweep",
}
_PLAIN = ("trial", "trial_before", "seed", "fold")  # identifiers: no thousands separators
_EXACT = ("lr", "momentum", "weight_decay", "dampening", "nesterov")
_EXACT_PREFIXES = ("init.", "final.", "schedule.", "clip_grad_", *(f"{name}." for name in _EXACT))


def heading(name: Hashable) -> str:
    """Return a column's heading."""
    text = str(name)
    if text.startswith("schedule."):
        return text
    return _HEADINGS.get(text, text.replace("_", " "))


def number(value: float, digits: int = 4) -> str:
    """Format a number with ``digits`` significant digits, e.g. 31,204 or 1.2e-14."""
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{int(value):,}"
    text = f"{value:.{digits}g}"
    return re.sub(r"e([+-])0*(\d)", lambda m: f"e{m[1].replace('+', '')}{m[2]}", text)


def percent(part: float, whole: float) -> str:
    """Format a share in percent; a share between 0 and 1, or 99 and 100, is never rounded to 0 % or 100 %."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 1:
        return "under 1 %"
    if 99 < share < 100:
        return "over 99 %"
    return f"{share:.0f} %"


def cell(value: Any, column: Hashable = "") -> str:
    """Format one cell of a table."""
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and np.isnan(value)):
        return NOTHING
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if not isinstance(value, int | float | np.integer | np.floating):
        return str(value)
    if column in _PLAIN:
        return str(value)
    if column in ("share", "stable_share", "clipped_share", "of_settling", "of_log_loss"):
        return f"{100 * value:.1f} %"
    if np.isinf(value) and str(column).startswith("clip_"):
        return "off"
    exact = column in _EXACT or str(column).startswith(_EXACT_PREFIXES)
    return number(float(value), 6 if exact else 4)


def meaning(value: float, column: Hashable) -> bool | int | float:
    """Convert an axis value to the type that it stands for: nesterov to bool, seed, fold and batch size to int."""
    return (
        bool(value)
        if column == "nesterov"
        else int(value)
        if column in ("seed", "fold", "batch_size")
        else float(value)
    )


def formatted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with headings and cells formatted as text."""
    columns = {heading(name): [cell(value, name) for value in frame[name]] for name in frame}
    return pd.DataFrame(columns, index=frame.index, dtype="str")


def markdown(frame: pd.DataFrame) -> str:
    """Return a table as Markdown, with numeric columns aligned to the right."""
    shown = formatted(frame)
    right = [is_numeric(frame[name]) for name in frame]
    header = [escaped(str(name)) for name in shown]
    rows = [[escaped(value) for value in row] for row in shown.itertuples(index=False)]
    widths = [max(3, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
    rule = ["-" * (width - 1) + (":" if at_right else "-") for width, at_right in zip(widths, right, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [
            text.rjust(width) if at_right else text.ljust(width)
            for text, width, at_right in zip(cells, widths, right, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(header), line(rule), *map(line, rows)])


def is_numeric(column: pd.Series[Any]) -> bool:
    """Return whether a column is numeric and not boolean."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def escaped(text: str) -> str:
    """Escape text so that Markdown shows it literally, on one line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|#!~]|(?<!\w)_|_(?!\w)|^=|^[-+](?=[-+\s]|$))", r"\\\1", " ".join(text.split()))
    return re.sub(r"^(\d{1,9})([.)])(?=\s|$)", r"\1\\\2", text)  # would start a numbered list
