"""Data sets from the sweep file's description: made from a formula, bundled, or read from a CSV or Parquet file."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sgdcore import Dataset, InvalidTask, LinearModel, MlpModel, ModuleModel, PolynomialModel, Task
from sgdcore.tasks import Model, datasets
from sweeps import config
from sweeps.blas import one_thread
from sweeps.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def load_task(description: config.TaskConfig) -> Task:
    """The task that a sweep file describes.

    Raises:
        DataError: a file that cannot be read or holds missing or non-numeric cells, or a model that does not fit.
    """
    try:
        return Task(
            load_dataset(description.dataset),
            _model(description.model),
            description.loss,
            description.huber_delta,
        )
    except InvalidTask as error:
        raise DataError(f"task: {error}") from error


def load_dataset(description: object) -> Dataset:
    """The data set, standardised and split as described."""
    assert isinstance(description, config._Data)
    with one_thread():
        data = _make(description)
        if description.validation:
            data = data.split(description.validation, description.split_seed)
        if description.standardize != "none":
            data = data.standardized(targets=description.standardize == "all")
    return data


def _model(d: object) -> Model:
    match d:
        case config.LinearModel():
            return LinearModel(d.bias)
        case config.PolynomialModel():
            return PolynomialModel(d.degree, d.bias)
        case config.MlpModel():
            return MlpModel(d.hidden, d.activation)
        case config.ModuleModel():
            if os.getcwd() not in sys.path:
                sys.path.append(os.getcwd())  # as python -m does: the user's file lies beside the sweep's
            return ModuleModel(d.module, d.arguments)
    raise TypeError(f"not a model's description: {d!r}")


def _make(d: object) -> Dataset:
    match d:
        case config.LineData():
            return datasets.line(d.slope, d.intercept, d.x, d.noise, d.seed)
        case config.LinearData():
            return datasets.linear(d.n, d.d, d.condition, d.noise, d.seed)
        case config.PolynomialData():
            return datasets.polynomial(d.coefficients, d.n, d.low, d.high, d.noise, d.seed)
        case config.SineData():
            return datasets.sine(d.n, d.low, d.high, d.frequency, d.noise, d.seed)
        case config.DiabetesData():
            return _diabetes()
        case config.FileData():
            return _read(d)
    raise TypeError(f"not a data set's description: {d!r}")


def _diabetes() -> Dataset:
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    return Dataset(bunch.data, bunch.target, tuple(bunch.feature_names))


def _read(d: config.FileData) -> Dataset:
    import pandas as pd

    path = Path(d.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row that is longer than the header
            table: pd.DataFrame = pd.read_csv(path, index_col=False) if d.kind == "csv" else pd.read_parquet(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file (task.dataset.path)") from error
    except (
        OSError,
        ValueError,
        pd.errors.ParserWarning,
    ) as error:  # pandas' and pyarrow's parse errors are ValueErrors
        raise DataError(f"{path}: cannot be read as {d.kind}: {' '.join(str(error).split())}") from error
    wanted = [*(d.features or [c for c in table.columns if c != d.target]), d.target]
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        columns = ", ".join(map(str, table.columns[:20]))
        raise DataError(f"{path}: there is no column {missing[0]!r}; its columns: {columns}")
    values = np.column_stack([_numbers(table[column], str(column), path, d.kind) for column in wanted])
    return Dataset(values[:, :-1], values[:, -1], tuple(map(str, wanted[:-1])))


def _numbers(column: pd.Series, name: str, path: Path, kind: str) -> np.ndarray:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column):
        raise DataError(f"{path}: column {name!r} holds {column.dtype} values, not numbers")
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        row = int(bad[0])
        cell = column.iloc[row]
        what = "is missing" if pd.isna(cell) else f"is {str(cell)!r}, not a finite number"
        place = f"line {row + 2}" if kind == "csv" else f"row {row}"
        more = f" (and {len(bad) - 1} more in this column)" if len(bad) > 1 else ""
        raise DataError(f"{path}: {place}, column {name!r}: the value {what}{more}")
    return numbers
