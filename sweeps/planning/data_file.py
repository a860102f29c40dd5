"""Data files: tables read from CSV and Parquet, within bounds, with places for messages."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sweeps.config.datasets import MAX_DATA_BYTES
from sweeps.config.messages import shown
from sweeps.errors import DataError
from sweeps.planning import csv_text
from sweeps.text.regular_file import read_regular
from sweeps.text.sanitize import visible

if TYPE_CHECKING:
    import pandas as pd

MAX_NUMBERS = 20_000_000  # inputs of a data set; each trial of a pack reads all of them
_MAX_REASON = 300


@dataclass(frozen=True, eq=False)
class DataFile:
    """A table and the file that it was read from."""

    path: Path
    kind: Literal["csv", "parquet"]
    table: pd.DataFrame
    content: bytes

    def place(self, row: int) -> str:
        """Return where a row stands in the file."""
        return f"line {csv_text.line_of(self.content, row)}" if self.kind == "csv" else f"row {row}"


def check_size(samples: int, features: int) -> None:
    """Check the number of inputs of a data set.

    Raises:
        DataError: there are too many.
    """
    if samples * features > MAX_NUMBERS:
        raise DataError(
            f"task: {samples:,} samples x {features:,} features; at most {MAX_NUMBERS:,} numbers are allowed"
        )


def read_data_file(path: Path, kind: Literal["csv", "parquet"]) -> DataFile:
    """Read a CSV or Parquet file.

    Raises:
        DataError: it cannot be read, is too large, or repeats the name of a column.
    """
    try:
        content = read_regular(path, MAX_DATA_BYTES)
        return DataFile(path, kind, _csv(path, content) if kind == "csv" else _parquet(path, content), content)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file (task.dataset.path)") from error
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = visible(" ".join(reason.split()), _MAX_REASON)
        raise DataError(f"{path}: cannot be read as {kind}: {reason}") from error


def _csv(path: Path, content: bytes) -> pd.DataFrame:
    import pandas as pd

    names: list[str] = []
    try:
        names = csv_text.header(content)
        _check_header(path, names)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # raised for rows that are longer than the header
            # low_memory=False gives each column one type; compression=None prevents decompression bombs.
            return pd.read_csv(io.BytesIO(content), index_col=False, low_memory=False, compression=None)
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:  # their line numbers do not count all lines
        if line := csv_text.open_quote(content):
            raise DataError(f"{path}: cannot be read as csv: line {line} opens a quote that is not closed") from error
        if names and (wide := csv_text.wide_row(content, len(names))):
            problem = f"line {wide[0]} has {wide[1]:,} values, but the header has {len(names):,} names"
            raise DataError(f"{path}: cannot be read as csv: {problem}") from error
        raise


def _check_header(path: Path, names: list[str]) -> None:
    if separator := csv_text.other_separator(names):
        raise DataError(
            f"{path}: the header {shown(names[0])} has no commas, but {separator!r}; save the file with commas between "
            "columns and points in numbers, in pandas: "
            f"read_csv(path, sep={separator!r}, decimal=',').to_csv(path, index=False)"
        )
    _check_names(path, names)


def _parquet(path: Path, content: bytes) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.parquet as pq

    footer = pq.read_metadata(io.BytesIO(content))  # a small file can hold many values, but its footer counts them
    if (numbers := footer.num_rows * footer.num_columns) > 2 * MAX_NUMBERS:
        raise DataError(
            f"{path}: {footer.num_rows:,} rows x {footer.num_columns:,} columns, {numbers:,} values; "
            f"at most {2 * MAX_NUMBERS:,} are allowed"
        )
    _check_names(path, footer.schema.to_arrow_schema().names)
    return pd.read_parquet(io.BytesIO(content))


def _check_names(path: Path, names: list[str]) -> None:
    """Check that no two names differ only in the spaces around them: one of them could be a copy of the target."""
    first: dict[str, int] = {}
    for number, name in enumerate(map(str.strip, names), start=1):
        if name and name in first:
            raise DataError(
                f"{path}: columns {first[name]} and {number} are both named {shown(name)}; "
                "give every column a name of its own, or remove one of them"
            )
        first.setdefault(name, number)
