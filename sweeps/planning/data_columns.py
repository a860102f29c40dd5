"""The columns of a data file that a sweep uses, as a data set: missing values are filled in, categories encoded."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sgdcore import Dataset
from sgdcore.tasks.datasets import FloatArray, held_out
from sweeps.config.datasets import FileData
from sweeps.config.messages import listed, shown
from sweeps.errors import DataError
from sweeps.planning.cells import DROP, DROP_OR_MEAN, Column, Mask
from sweeps.planning.data_file import DataFile, check_size

_MAX_LISTED = 20  # columns in a message
_UNNAMED = re.compile(r"\s*|Unnamed: \d+(\.\d+)*|__index_level_\d+__")  # also as pandas names them
_CHOOSE = "list the columns to use in task.dataset.features"


def read_columns(file: DataFile, config: FileData) -> Dataset:
    """Return the features, targets and weights of a data file, before the validation part is held out.

    Raises:
        DataError: a column is absent or has no name, or some of its cells cannot be used.
    """
    features, notes = _features(file, config)
    others = [*config.targets, *([config.weights] if config.weights is not None else [])]
    table = file.table[[*features, *others]]
    check_size(*table.shape)
    rows = np.arange(len(table))
    if config.missing == "drop" and len(table):
        rows = np.flatnonzero(table.notna().all(axis=1))
        if not len(rows):
            raise DataError(f"{file.path}: every row has a missing value, and task.dataset.missing is drop; {_CHOOSE}")
        if dropped := len(table) - len(rows):
            notes.append(f"dropped {dropped:,} of {len(table):,} rows, which have missing values")
    cells = table.iloc[rows]
    columns = [Column(str(name), cells[name], name in others) for name in table.columns]
    train = np.ones(len(rows), dtype=np.bool_)
    if config.missing == "mean" and config.folds:
        raise DataError(f"{file.path}: task.dataset.missing is mean, which would use every fold; use drop")
    if config.missing == "mean" and isinstance(config.validation, float) and config.validation:
        train = ~held_out(len(rows), config.validation, config.split_seed)
    _check_cells(file, config, columns, rows, train)
    inputs, targets = columns[: len(features)], columns[len(features) :]
    weights = targets.pop().numbers if config.weights is not None else None
    if weights is not None and (negative := np.flatnonzero(weights < 0)).size:
        place = f"{file.path}: {file.place(int(rows[negative[0]]))}, column {shown(config.weights)}"
        raise DataError(f"{place}: the weight is {weights[negative[0]]:g}; weights must be >= 0")
    names, values = _matrix(file, config, inputs, train, notes)
    return Dataset(
        values,
        np.column_stack([target.numbers for target in targets]),
        names,
        notes=tuple(notes),
        weights=weights,
        target_names=config.targets,
    )


def is_unnamed(name: object) -> bool:
    """Return whether a column has no name, also if pandas has given it one."""
    return _UNNAMED.fullmatch(str(name)) is not None


def _features(file: DataFile, config: FileData) -> tuple[list[str], list[str]]:
    """Return the features, and a note for each index that is left out."""
    columns = list(file.table.columns)
    others = (*config.targets, *([config.weights] if config.weights is not None else []))
    features = list(config.features or [name for name in columns if name not in others])
    absent = [name for name in (*features, *others) if name not in columns]
    if absent:
        raise DataError(f"{file.path}: no column {shown(absent[0])}; its columns are {listed([*map(str, columns)])}")
    if config.features:
        return features, []
    unnamed = [name for name in features if is_unnamed(name)]
    for name in unnamed:
        if not _is_index(file, name):
            place = columns.index(name) + 1
            raise DataError(f"{file.path}: column {place} has no name; name it in the file, or {_CHOOSE}")
    notes = [f"left out column {columns.index(name) + 1}, a table's index: it has no name" for name in unnamed]
    return [name for name in features if name not in unnamed], notes


def _is_index(file: DataFile, name: str) -> bool:
    """Return whether an unnamed column is a table's index: in front, with distinct whole numbers or texts."""
    import pandas as pd

    columns, cells = list(file.table.columns), file.table[name]
    if name.startswith("__index_level_"):
        return True
    in_front = all(map(is_unnamed, columns[: columns.index(name)]))
    labels = pd.api.types.infer_dtype(cells, skipna=False) in ("integer", "string")
    return in_front and labels and bool(cells.is_unique)


def _check_cells(file: DataFile, config: FileData, columns: list[Column], rows: NDArray[np.int64], train: Mask) -> None:
    """Check all cells; report every column that cannot be used in one line, and what to do."""
    found = [problem for column in columns if (problem := column.problem(config, train))]
    if not found:
        return
    texts = [
        problem.text if problem.row is None else f"{file.place(int(rows[problem.row]))}, {problem.text}"
        for problem in islice(found, _MAX_LISTED)
    ]
    more = [f"and {len(found) - _MAX_LISTED:,} more columns"] if len(found) > _MAX_LISTED else []
    remedies = dict.fromkeys(remedy for problem in found for remedy in problem.remedies)
    if DROP in remedies:
        remedies.pop(DROP_OR_MEAN, None)  # which would leave the others
    choose = [] if config.features else [f"or {_CHOOSE}"]
    raise DataError(f"{file.path}: {'; '.join([*texts, *more, *remedies, *choose])}")


def _matrix(
    file: DataFile, config: FileData, inputs: list[Column], train: Mask, notes: list[str]
) -> tuple[tuple[str, ...], FloatArray]:
    """Return the features' names and values in the order of pandas.get_dummies: one-hot columns follow the others."""
    import pandas as pd

    names, values, encoded = [], [], []
    for column in inputs:
        if column.is_encoded(config):
            encoded.append(column)
        else:
            names.append(column.name)
            values.append(_filled(column, train, notes))
    check_size(len(train), len(names) + sum(column.cells.nunique() for column in encoded))
    for column in encoded:
        cells = column.cells
        if isinstance(cells.dtype, pd.CategoricalDtype):
            cells = cells.cat.remove_unused_categories()  # which would be columns of zeros
        dummies = pd.get_dummies(cells, prefix=column.name, dtype=float)
        notes.append(f"column {shown(column.name)} became {len(dummies.columns):,} one-hot columns")
        names += map(str, dummies.columns)
        values += list(dummies.to_numpy().T)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(
            f"{file.path}: task.dataset.categories: a second column would be named {shown(twice)}; rename it"
        )
    return tuple(names), np.column_stack(values) if values else np.empty((len(train), 0))


def _filled(column: Column, train: Mask, notes: list[str]) -> FloatArray:
    """Return a column's numbers, with the mean of the training part where a cell is missing."""
    if not (missing := np.count_nonzero(column.missing)):
        return column.numbers
    mean = float(column.numbers[train & ~column.missing].mean())
    notes.append(f"filled in {missing:,} missing values of column {shown(column.name)} with its training mean {mean:g}")
    return np.where(column.missing, mean, column.numbers)
