"""The text of a CSV file: its header, and the lines on which its records start."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import islice

_FIELD = rb'(?:"(?:[^"]++|"")*+"[^,\r\n]*+|[^,\r\n]*+)'
_RECORD = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+(?:\r\n|\r|\n|\Z)")
_QUOTED = re.compile(rb'(?<![^,])"(?:[^"]++|"")*+"')
_OPENED = re.compile(rb'(?<![^,])"')
_BREAK = re.compile(rb"\r\n|\r|\n")
_SEPARATORS = ";\t| "


def header(content: bytes) -> list[str]:
    """Return the names in the header as they are written; pandas would rename repeated and empty ones."""
    import pandas as pd

    first = pd.read_csv(
        io.BytesIO(content), header=None, nrows=1, dtype=str, index_col=False, keep_default_na=False, compression=None
    )
    return [str(name) for name in first.iloc[0]]


def other_separator(names: list[str]) -> str | None:
    """Return the character that separates the names of a header without commas."""
    return next((c for c in _SEPARATORS if c in names[0].strip()), None) if len(names) == 1 else None


def line_of(content: bytes, row: int) -> int:
    """Return the line, from 1, on which a row of the table starts; row -1 is the header."""
    return next(islice(_records(content), row + 1, None))[0]


def open_quote(content: bytes) -> int | None:
    """Return the line of the first record with a quote that is not closed."""
    return next((line for line, text in _records(content) if _OPENED.search(_QUOTED.sub(b"", text))), None)


def wide_row(content: bytes, width: int) -> tuple[int, int] | None:
    """Return the line and the number of values of the first row that has more than ``width``."""
    sizes = ((line, 1 + _QUOTED.sub(b"", text).count(b",")) for line, text in _records(content))
    return next(((line, size) for line, size in sizes if size > width), None)


def _records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the first line and the text of each record, split as pandas splits them: without blank lines."""
    line = 1
    for match in _RECORD.finditer(content):
        if match.group().strip(b" \t\r\n"):
            yield line, match.group()
        line += len(_BREAK.findall(match.group()))
