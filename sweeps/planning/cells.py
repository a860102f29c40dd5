"""The cells of a column of a data file: as numbers or categories, with the problem of the first that cannot be used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.tasks.datasets import FloatArray
from sweeps.config.datasets import FileData
from sweeps.config.messages import shown
from sweeps.text.sanitize import visible

if TYPE_CHECKING:
    import pandas as pd

Mask = NDArray[np.bool_]
_MAX_SHOWN = 60  # characters of a cell
_MAX_CATEGORIES = 1_000  # of a column
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
DROP_OR_MEAN = "set task.dataset.missing to drop (the rows) or mean (of the training part)"
DROP = "set task.dataset.missing to drop (the rows); targets and texts have no mean"
_CATEGORIES = "set task.dataset.categories to one_hot"
_POINT = "write numbers with a decimal point"


@dataclass(frozen=True)
class Problem:
    """Why a column cannot be used, the row of the first such cell, and what to do."""

    text: str
    row: int | None = None
    remedies: tuple[str, ...] = ()


class NotNumbers(ValueError):
    """A column whose type is not converted to numbers."""


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a data file: a feature, or a target or the weights, which are not filled in or encoded."""

    name: str
    cells: pd.Series[Any]
    is_target: bool = False

    @cached_property
    def missing(self) -> Mask:
        """Which cells are empty or null."""
        return np.asarray(self.cells.isna(), dtype=np.bool_)

    @cached_property
    def is_text(self) -> bool:
        """Whether the cells are categories, or texts of which none is a number."""
        import pandas as pd

        if isinstance(self.cells.dtype, pd.CategoricalDtype):
            return True
        texts = pd.api.types.infer_dtype(self.cells, skipna=True) == "string"
        return texts and bool(np.isnan(self.numbers).all())

    @cached_property
    def numbers(self) -> FloatArray:
        """The cells as numbers; NaN where a cell is missing or not a number.

        Raises:
            NotNumbers: the cells have another type.
        """
        import pandas as pd

        cells, name = self.cells, shown(self.name)
        text = pd.api.types.is_object_dtype(cells) or pd.api.types.is_string_dtype(cells)
        if not (text or pd.api.types.is_numeric_dtype(cells)) or pd.api.types.is_complex_dtype(cells):
            raise NotNumbers(f"column {name} has {cells.dtype} values, not numbers")
        try:
            return pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError, OverflowError) as error:  # lists, numbers of hundreds of digits
            raise NotNumbers(f"column {name} has values that are not numbers: {visible(str(error), 100)}") from error

    def is_encoded(self, config: FileData) -> bool:
        """Return whether one-hot columns replace this column."""
        return config.categories == "one_hot" and not self.is_target and self.is_text

    def problem(self, config: FileData, train: Mask) -> Problem | None:
        """Return why the column cannot be used, if so; ``train`` are the rows of the training part."""
        try:
            if self.is_encoded(config):
                return self._category_problem(config)
            return self._number_problem(config, train)
        except NotNumbers as error:
            return Problem(str(error), remedies=self._as_categories())

    def _category_problem(self, config: FileData) -> Problem | None:
        if self.missing.any():
            return self._cell_problem(self.missing, (DROP,))
        if (number := self.cells.nunique()) > _MAX_CATEGORIES:
            return Problem(f"column {shown(self.name)}: {number:,} categories; at most {_MAX_CATEGORIES:,} are allowed")
        return None

    def _number_problem(self, config: FileData, train: Mask) -> Problem | None:
        unusable = ~np.isfinite(self.numbers)
        if config.missing == "mean" and not self.is_target:
            if not (train & ~self.missing).any() and self.missing.any():
                return Problem(f"column {shown(self.name)}: the training part has no values, and thus no mean")
            unusable &= ~self.missing
        if not unusable.any():
            return None
        remedies = self._as_categories()
        if (unusable & self.missing).any():
            remedies = (DROP if remedies or self.is_target or config.missing == "mean" else DROP_OR_MEAN, *remedies)
        return self._cell_problem(unusable, remedies)

    def _as_categories(self) -> tuple[str, ...]:
        """Return what to do about a feature of texts."""
        return (_CATEGORIES,) if self.is_text and not self.is_target else ()

    def _cell_problem(self, unusable: Mask, remedies: tuple[str, ...]) -> Problem:
        row, more = int(np.flatnonzero(unusable)[0]), np.count_nonzero(unusable) - 1
        cell = str(self.cells.iloc[row])
        what = "is missing" if self.missing[row] else f"is {visible(repr(cell), _MAX_SHOWN)}, not a finite number"
        rest = f" (and {more:,} more in this column)" if more else ""
        if _DECIMAL_COMMA.fullmatch(cell):
            remedies = (_POINT,)
        return Problem(f"column {shown(self.name)}: the value {what}{rest}", row, remedies)
