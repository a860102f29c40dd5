"""The loader of tasks and data sets, which are generated, bundled, or read from a CSV or Parquet file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sgdcore import Dataset, InvalidTask, Task
from sgdcore.blas_threads import one_thread
from sgdcore.tasks import datasets
from sweeps.config import datasets as datasets_config
from sweeps.config.models import PolynomialModel
from sweeps.config.schema import TaskConfig
from sweeps.errors import DataError
from sweeps.planning.data_columns import read_columns
from sweeps.planning.data_file import check_size, read_data_file
from sweeps.planning.model_kinds import MODEL_KINDS


def load_task(description: TaskConfig, fold: int = 0) -> Task:
    """Return the task that a sweep file describes; with a cross-validation, that of one fold.

    Raises:
        DataError: the data file cannot be read, has missing or non-numeric cells or too many values, or the model does
            not fit the data.
    """
    model, data = description.model, description.dataset
    degree = model.degree if isinstance(model, PolynomialModel) else 1
    check_size(getattr(data, "n", 1), getattr(data, "d", 1) * degree)
    try:
        task = Task(
            load_dataset(data, fold),
            MODEL_KINDS[model.kind].build(model),
            description.loss,
            description.huber_delta,
            description.quantile,
        )
    except InvalidTask as error:
        raise DataError(f"task: {error}") from error
    check_size(task.samples, task.dataset.inputs.shape[1] * degree)
    return task


def load_dataset(description: object, fold: int = 0) -> Dataset:
    """Return the data set, split as described and standardised on its training part."""
    assert isinstance(description, datasets_config.DataConfig)
    # Overflows need no warning: Dataset rejects values that are not finite.
    with one_thread(), np.errstate(over="ignore", invalid="ignore"):
        data = load_raw(description, fold)
        if description.standardize != "none":
            data = data.standardized(targets=description.standardize == "all")
    return data


def load_raw(description: object, fold: int = 0) -> Dataset:
    """Return the data set in its original units, split as described."""
    assert isinstance(description, datasets_config.DataConfig)
    with one_thread(), np.errstate(over="ignore", invalid="ignore"):
        data = _make(description)
        if isinstance(description.validation, datasets_config.FoldsConfig):
            return data.fold(fold, description.validation.folds, description.split_seed)
        return data.split(description.validation, description.split_seed) if description.validation else data


def _make(d: object) -> Dataset:
    match d:
        case datasets_config.LineData():
            return datasets.line(d.slope, d.intercept, d.x, d.noise, d.seed)
        case datasets_config.LinearData():
            scales = np.geomspace(1.0, d.condition**-0.5, d.d) if d.has_processor_powers else None
            return datasets.linear(d.n, d.d, d.condition, d.noise, d.seed, scales)
        case datasets_config.PolynomialData():
            return datasets.polynomial(d.coefficients, d.n, d.low, d.high, d.noise, d.seed)
        case datasets_config.SineData():
            return datasets.sine(d.n, d.low, d.high, d.frequency, d.noise, d.seed)
        case datasets_config.DiabetesData():
            return _diabetes()
        case datasets_config.FileData():
            return read_columns(read_data_file(Path(d.path), d.kind), d)
    raise TypeError(f"not a data set's description: {d!r}")


def _diabetes() -> Dataset:
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    return Dataset(bunch.data, bunch.target, tuple(bunch.feature_names))
