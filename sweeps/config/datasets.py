"""The data sets of a sweep file."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sweeps.config.base import Model
from sweeps.config.messages import shown
from sweeps.config.types import (
    CUSTOM,
    AtLeastOne,
    Features,
    FilePath,
    Fraction,
    NotNegative,
    Number,
    Seed,
    Size,
    Text,
)

MAX_DATA_BYTES = 1_000_000_000  # of a data file; the table in memory is several times as large


class DataConfig(Model):
    """The options that all data sets share; ``validation`` is the share of samples that is held out."""

    standardize: Literal["none", "features", "all"] = "none"
    validation: Fraction = 0.0
    split_seed: Seed = 0


class LineData(DataConfig):
    """A line, y = slope x + intercept."""

    kind: Literal["line"]
    slope: Number = 0.8
    intercept: Number = 1.2
    x: Annotated[tuple[Number, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    noise: NotNegative = 0.0
    seed: Seed = 0


class LinearData(DataConfig):
    """A random linear data set with ``n`` samples, ``d`` features and a given condition number."""

    kind: Literal["linear"]
    n: Size = 100
    d: Features = 1
    condition: AtLeastOne = 1.0
    noise: NotNegative = 0.0
    seed: Seed = 0


class PolynomialData(DataConfig):
    """A polynomial, y = c0 + c1 x + c2 x^2 + ..., sampled between ``low`` and ``high``."""

    kind: Literal["polynomial"]
    coefficients: Annotated[tuple[Number, ...], Field(min_length=1)] = (0, 0, 1)
    n: Size = 50
    low: Number = -1.0
    high: Number = 1.0
    noise: NotNegative = 0.0
    seed: Seed = 0


class SineData(DataConfig):
    """A sine, y = sin(frequency x), sampled between ``low`` and ``high``."""

    kind: Literal["sine"]
    n: Size = 50
    low: Number = -math.pi
    high: Number = math.pi
    frequency: Number = 1.0
    noise: NotNegative = 0.0
    seed: Seed = 0


class FileData(DataConfig):
    """A table in a CSV or Parquet file; by default all columns except the target are features."""

    kind: Literal["csv", "parquet"]
    path: FilePath
    target: Text
    features: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    missing: Literal["error", "drop", "mean"] = "error"
    categories: Literal["error", "one_hot"] = "error"

    @model_validator(mode="after")
    def _check_features(self) -> Self:
        for name in dict.fromkeys(self.features or ()):
            if name == self.target:
                raise PydanticCustomError(CUSTOM, "{name} is the target and cannot be a feature", {"name": shown(name)})
            if (self.features or ()).count(name) > 1:
                raise PydanticCustomError(CUSTOM, "features lists {name} more than once", {"name": shown(name)})
        return self


class DiabetesData(DataConfig):
    """The unscaled diabetes data that scikit-learn bundles, 442 samples x 10 features."""

    kind: Literal["diabetes"]


AnyDataset = Annotated[
    LineData | LinearData | PolynomialData | SineData | FileData | DiabetesData, Field(discriminator="kind")
]
