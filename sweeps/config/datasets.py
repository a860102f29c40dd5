"""The data sets of a sweep file."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
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
    Folds,
    Fraction,
    NotNegative,
    Number,
    Seed,
    Size,
    Text,
)

MAX_DATA_BYTES = 1_000_000_000  # of a data file; the table in memory is several times as large


class FoldsConfig(Model):
    """Cross-validation: every setting is trained once per fold, which is its validation set."""

    folds: Folds
    """The number of folds."""


Validation = Annotated[
    Annotated[FoldsConfig, Tag("folds")] | Annotated[Fraction, Tag("share")],
    Discriminator(lambda given: "folds" if isinstance(given, dict | FoldsConfig) else "share"),
]


class DataConfig(Model):
    """The options that all data sets share; ``validation`` is the share of samples that is held out."""

    standardize: Literal["none", "features", "all"] = "none"
    """Which columns to shift and scale to mean 0 and standard deviation 1 over the training part: none, the features,
    or all, which adds the target.
    """
    validation: Validation = 0.0
    """The share of samples to hold out for validation, or the number of folds of a cross-validation."""
    split_seed: Seed = 0
    """The seed that draws the validation part, or the folds."""

    @property
    def folds(self) -> int:
        """The number of folds of a cross-validation, 0 without one."""
        return self.validation.folds if isinstance(self.validation, FoldsConfig) else 0


class LineData(DataConfig):
    """A line, y = slope x + intercept."""

    kind: Literal["line"]
    """A line with the given slope and intercept."""
    slope: Number = 0.8
    """The slope."""
    intercept: Number = 1.2
    """The value at x = 0."""
    x: Annotated[tuple[Number, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    """The inputs, one per sample."""
    noise: NotNegative = 0.0
    """The standard deviation of Gaussian noise on the targets."""
    seed: Seed = 0
    """The seed of the noise."""


class LinearData(DataConfig):
    """A random linear data set with ``n`` samples, ``d`` features and a given condition number."""

    kind: Literal["linear"]
    """Random features with a random linear target."""
    n: Size = 100
    """The number of samples."""
    d: Features = 1
    """The number of features."""
    condition: AtLeastOne = 1.0
    """The condition number of the features' covariance."""
    noise: NotNegative = 0.0
    """The standard deviation of Gaussian noise on the targets."""
    seed: Seed = 0
    """The seed of features, target and noise."""

    _has_processor_powers: bool = PrivateAttr(default=False)

    @property
    def has_processor_powers(self) -> bool:
        """Whether the scales are those of numpy.geomspace on this processor, as in sweeps of earlier versions."""
        return self._has_processor_powers

    @property
    def depends_on_processor(self) -> bool:
        """Whether the scales of numpy.geomspace differ, on this processor, from those of the C library."""
        import numpy as np

        from sgdcore.geometric import geometric

        ends = 1.0, self.condition**-0.5, self.d
        return not np.array_equal(geometric(*ends), np.geomspace(*ends))

    def with_processor_powers(self) -> LinearData:
        """Return a copy with the scales of numpy.geomspace on this processor."""
        copy = self.model_copy()
        copy._has_processor_powers = True
        return copy


class PolynomialData(DataConfig):
    """A polynomial, y = c0 + c1 x + c2 x^2 + ..., sampled between ``low`` and ``high``."""

    kind: Literal["polynomial"]
    """A polynomial of one input."""
    coefficients: Annotated[tuple[Number, ...], Field(min_length=1)] = (0, 0, 1)
    """The coefficients c0, c1, c2, ..."""
    n: Size = 50
    """The number of samples, equally spaced."""
    low: Number = -1.0
    """The least input."""
    high: Number = 1.0
    """The greatest input."""
    noise: NotNegative = 0.0
    """The standard deviation of Gaussian noise on the targets."""
    seed: Seed = 0
    """The seed of the noise."""


class SineData(DataConfig):
    """A sine, y = sin(frequency x), sampled between ``low`` and ``high``."""

    kind: Literal["sine"]
    """A sine of one input."""
    n: Size = 50
    """The number of samples, equally spaced."""
    low: Number = -math.pi
    """The least input."""
    high: Number = math.pi
    """The greatest input."""
    frequency: Number = 1.0
    """The factor of x in sin(frequency x)."""
    noise: NotNegative = 0.0
    """The standard deviation of Gaussian noise on the targets."""
    seed: Seed = 0
    """The seed of the noise."""


Target = Annotated[
    Annotated[tuple[Text, ...], Field(min_length=1), Tag("list")] | Annotated[Text, Tag("text")],
    Discriminator(lambda given: "list" if isinstance(given, list | tuple) else "text"),
]


class FileData(DataConfig):
    """A table in a CSV or Parquet file; by default all columns except targets and weights are features."""

    kind: Literal["csv", "parquet"]
    """The format of the file."""
    path: FilePath
    """The file, relative to the sweep file's folder."""
    target: Target
    """The column to predict, or a list of columns; the loss is the mean over them."""
    features: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """The columns to predict from. By default all but targets, weights and an index without a name."""
    weights: Text | None = None
    """The column of sample weights w >= 0: the loss of a batch is the mean of w times each sample's loss, not divided
    by the sum of w. By default all samples count as one.
    """
    missing: Literal["error", "drop", "mean"] = "error"
    """How to treat missing values: refuse them, drop the rows that have one in a column that is used, or fill in the
    mean of the training part (features only).
    """
    categories: Literal["error", "one_hot"] = "error"
    """How to treat features that are text: refuse them, or replace each by 0/1 columns named COLUMN_VALUE, placed
    after the other features (pandas.get_dummies).
    """

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns to predict."""
        return (self.target,) if isinstance(self.target, str) else self.target

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        role = "the target" if len(self.targets) == 1 else "a target"
        for key, names in (("features", self.features or ()), ("target", self.targets)):
            for name in names:
                if names.count(name) > 1:
                    raise PydanticCustomError(CUSTOM, f"{key} lists {{name}} more than once", {"name": shown(name)})
        for name in self.features or ():
            if name in self.targets:
                raise PydanticCustomError(CUSTOM, f"{{name}} is {role} and cannot be a feature", {"name": shown(name)})
        if self.weights in self.targets:
            raise PydanticCustomError(
                CUSTOM, f"{{name}} is {role} and cannot hold the weights", {"name": shown(self.weights)}
            )
        if self.weights in (self.features or ()):
            raise PydanticCustomError(
                CUSTOM, "{name} holds the weights and cannot be a feature", {"name": shown(self.weights)}
            )
        return self


class DiabetesData(DataConfig):
    """The unscaled diabetes data that scikit-learn bundles, 442 samples x 10 features."""

    kind: Literal["diabetes"]
    """scikit-learn's diabetes data."""


AnyDataset = Annotated[
    LineData | LinearData | PolynomialData | SineData | FileData | DiabetesData, Field(discriminator="kind")
]
