"""The loader of tasks and data sets, which are generated, bundled, or read from a CSV or Parquet file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sgdcore import Dataset, InvalidTask, Task
from sgdcore.blas_threads import one_thread
from sgdcore.tasks import datasets
from sweeps.config import datasets as datasets_config
from sweeps.config.models import PolynomialModel
from sweeps.config.schema import TaskConfig
from sweeps.errors import DataError
from sweeps.planning.model_kinds import MODEL_KINDS
from sweeps.text.sanitize import visible

if TYPE_CHECKING:
    import pandas as pd

_MAX_NUMBERS = 20_000_000  # inputs of a data set; each trial of a pack reads all of them
_MAX_BYTES = 1_000_000_000  # of a data file; the table in memory is several times as large
_MAX_LISTED = 20  # columns in a message
_MAX_SHOWN = 60  # characters of a cell or a column name
_MAX_REASON = 300


def load_task(description: TaskConfig) -> Task:
    """Return the task that a sweep file describes.

    Raises:
        DataError: the data file cannot be read, has missing or non-numeric cells or too many values, or the model does
            not fit the data.
    """
    model, data = description.model, description.dataset
    degree = model.degree if isinstance(model, PolynomialModel) else 1
    _check_size(getattr(data, "n", 1), getattr(data, "d", 1) * degree)
    try:
        task = Task(load_dataset(data), MODEL_KINDS[model.kind].build(model), description.loss, description.huber_delta)
    except InvalidTask as error:
        raise DataError(f"task: {error}") from error
    _check_size(task.samples, task.dataset.inputs.shape[1] * degree)
    return task


def load_dataset(description: object) -> Dataset:
    """Return the data set, standardised and split as described."""
    assert isinstance(description, datasets_config.DataConfig)
    # Overflows need no warning: Dataset rejects values that are not finite.
    with one_thread(), np.errstate(over="ignore", invalid="ignore"):
        data = load_raw(description)
        if description.standardize != "none":
            data = data.standardized(targets=description.standardize == "all")
    return data


def load_raw(description: object) -> Dataset:
    """Return the data set in its original units, split as described."""
    assert isinstance(description, datasets_config.DataConfig)
    with one_thread(), np.errstate(over="ignore", invalid="ignore"):
        data = _make(description)
        return data.split(description.validation, description.split_seed) if description.validation else data


def _check_size(samples: int, features: int) -> None:
    if samples * features > _MAX_NUMBERS:
        raise DataError(
            f"task: {samples:,} samples x {features:,} features; at most {_MAX_NUMBERS:,} numbers are allowed"
        )


def _make(d: object) -> Dataset:
    match d:
        case datasets_config.LineData():
            return datasets.line(d.slope, d.intercept, d.x, d.noise, d.seed)
        case datasets_config.LinearData():
            return datasets.linear(d.n, d.d, d.condition, d.noise, d.seed)
        case datasets_config.PolynomialData():
            return datasets.polynomial(d.coefficients, d.n, d.low, d.high, d.noise, d.seed)
        case datasets_config.SineData():
            return datasets.sine(d.n, d.low, d.high, d.frequency, d.noise, d.seed)
        case datasets_config.DiabetesData():
            return _diabetes()
        case datasets_config.FileData():
            return _read(d)
    raise TypeError(f"not a data set's description: {d!r}")


def _diabetes() -> Dataset:
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    return Dataset(bunch.data, bunch.target, tuple(bunch.feature_names))


def _read(d: datasets_config.FileData) -> Dataset:
    path = Path(d.path)
    table = _table(path, d.kind)
    wanted = [*(d.features or [c for c in table.columns if c != d.target]), d.target]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        columns = ", ".join(visible(str(c), _MAX_SHOWN) for c in table.columns[:_MAX_LISTED])
        raise DataError(f"{path}: no column {missing[0]!r}; its columns are {columns}")
    _check_size(len(table), len(wanted))
    values = np.column_stack([_numbers(table[column], str(column), path, d.kind) for column in wanted])
    return Dataset(values[:, :-1], values[:, -1], tuple(map(str, wanted[:-1])))


def _table(path: Path, kind: str) -> pd.DataFrame:
    import pandas as pd

    try:
        if path.exists() and not path.is_file():
            raise OSError("not a regular file")  # a pipe or a device can be endless
        _check_file(path, kind)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # raised for rows that are longer than the header
            if kind == "csv":
                # low_memory=False gives each column one type; compression=None prevents decompression bombs.
                return pd.read_csv(path, index_col=False, low_memory=False, compression=None)
            return pd.read_parquet(path)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file (task.dataset.path)") from error
    except Exception as error:
        reason = visible(" ".join(str(error).split()), _MAX_REASON)
        raise DataError(f"{path}: cannot be read as {kind}: {reason}") from error


def _check_file(path: Path, kind: str) -> None:
    """Check a file's size before it is read; a small Parquet file can hold many values, but its footer counts them."""
    import pyarrow.parquet as pq

    if (size := path.stat().st_size) > _MAX_BYTES:
        raise DataError(f"{path}: {size:,} bytes; at most {_MAX_BYTES:,} are allowed")
    if kind == "parquet":
        footer = pq.read_metadata(path)
        if (numbers := footer.num_rows * footer.num_columns) > 2 * _MAX_NUMBERS:
            raise DataError(
                f"{path}: {footer.num_rows:,} rows x {footer.num_columns:,} columns, {numbers:,} values; "
                f"at most {2 * _MAX_NUMBERS:,} are allowed"
            )


def _numbers(column: pd.Series, name: str, path: Path, kind: str) -> np.ndarray:
    import pandas as pd

    text = pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)
    if not (text or pd.api.types.is_numeric_dtype(column)) or pd.api.types.is_complex_dtype(column):
        raise DataError(f"{path}: column {name!r} has {column.dtype} values, not numbers")
    try:
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:  # lists, numbers of hundreds of digits
        raise DataError(f"{path}: column {name!r} has values that are not numbers: {error}") from error
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        row = int(bad[0])
        cell = column.iloc[row]
        missing = pd.api.types.is_scalar(cell) and pd.isna(cell)
        what = "is missing" if missing else f"is {visible(repr(str(cell)), _MAX_SHOWN)}, not a finite number"
        place = f"line {row + 2}" if kind == "csv" else f"row {row}"
        more = f" (and {len(bad) - 1} more in this column)" if len(bad) > 1 else ""
        raise DataError(f"{path}: {place}, column {name!r}: the value {what}{more}")
    return numbers
