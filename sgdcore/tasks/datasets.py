"""Data sets: arrays of inputs and targets, read or generated, with standardisation and a validation split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgdcore.errors import InvalidTask
from sgdcore.geometric import geometric

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A regression data set.

    Args:
        inputs: (n, d) float64, finite.
        targets: (n,) or, for K > 1 targets, (n, K) float64, finite.
        feature_names: d names; x0, x1, ... by default (x for a single feature).
        validation: a held-out data set with the same features and targets, or None.
        notes: what was left out, filled in or encoded when the data were read.
        weights: (n,) float64 sample weights, finite, >= 0 and not all 0; None: every sample counts as one.
        target_names: K names; y0, y1, ... by default (y for a single target).

    Raises:
        InvalidTask: empty, of the wrong shape, not finite, or with a validation set that has other features.
    """

    inputs: FloatArray
    targets: FloatArray
    feature_names: tuple[str, ...] = ()
    validation: Dataset | None = None
    notes: tuple[str, ...] = ()
    weights: FloatArray | None = None
    target_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reshape inputs to (n, d) and check shapes and values."""
        inputs = np.asarray(self.inputs, dtype=np.float64)
        inputs = inputs[:, np.newaxis] if inputs.ndim == 1 else inputs
        targets = np.asarray(self.targets, dtype=np.float64)
        targets = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
        if inputs.ndim != 2 or targets.ndim not in (1, 2) or 0 in targets.shape[1:] or len(inputs) != len(targets):
            shapes = f"{inputs.shape} and {targets.shape}"
            raise InvalidTask(f"inputs must be (n, d) and targets (n,) or (n, k), not {shapes}")
        if inputs.size == 0:
            raise InvalidTask(f"inputs need at least one sample and one feature, not the shape {inputs.shape}")
        if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
            raise InvalidTask("inputs and targets must be finite")
        width = inputs.shape[1]
        names = self.feature_names or tuple("x" if width == 1 else f"x{i}" for i in range(width))
        if len(names) != width:
            raise InvalidTask(f"feature_names must have {width} names, one per feature, not {len(names)}")
        count = 1 if targets.ndim == 1 else targets.shape[1]
        target_names = self.target_names or tuple("y" if count == 1 else f"y{i}" for i in range(count))
        if len(target_names) != count:
            raise InvalidTask(f"target_names must have {count} names, one per target, not {len(target_names)}")
        weights = None if self.weights is None else _checked_weights(self.weights, len(targets))
        if (held_out := self.validation) is not None:
            if held_out.inputs.shape[1] != width:
                raise InvalidTask(f"the validation set has {held_out.inputs.shape[1]} features, not {width}")
            if held_out.target_count != count:
                raise InvalidTask(f"the validation set has {held_out.target_count} targets, not {count}")
            if (held_out.weights is None) != (weights is None):
                raise InvalidTask("the training set and the validation set must both have weights, or neither")
        for name, value in (("inputs", inputs), ("targets", targets), ("weights", weights)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "feature_names", names)
        object.__setattr__(self, "target_names", target_names)

    def __len__(self) -> int:
        """Return the number of samples n."""
        return len(self.targets)

    @property
    def target_count(self) -> int:
        """The number of targets K."""
        return 1 if self.targets.ndim == 1 else self.targets.shape[1]

    @property
    def digest(self) -> str:
        """SHA-256 of the values and shapes, including weights and the validation set."""
        digest = hashlib.sha256()
        for part in (self, self.validation):
            if part is not None:
                digest.update(repr(part.inputs.shape).encode())
                digest.update(np.ascontiguousarray(part.inputs).tobytes())
                digest.update(repr(part.targets.shape).encode() if part.targets.ndim == 2 else b"")
                digest.update(np.ascontiguousarray(part.targets).tobytes())
                if part.weights is not None:
                    digest.update(b"weights" + np.ascontiguousarray(part.weights).tobytes())
        return digest.hexdigest()

    def split(self, fraction: float, seed: int = 0) -> Dataset:
        """Return a copy with round(fraction n) random samples as the validation set; both parts keep their order.

        Raises:
            InvalidTask: if either part would be empty.
        """
        return self._holding_out(held_out(len(self), fraction, seed))

    def fold(self, number: int, folds: int, seed: int = 0) -> Dataset:
        """Return a copy with one of the folds of a cross-validation as the validation set; both parts keep their order.

        The folds are those of scikit-learn's ``KFold(folds, shuffle=True, random_state=seed)``.

        Raises:
            InvalidTask: fewer samples than folds, or no such fold.
        """
        n = len(self)
        if not 2 <= folds <= n:
            raise InvalidTask(f"{folds} folds need at least 2 folds and as many samples, not {n} samples")
        if not 0 <= number < folds:
            raise InvalidTask(f"fold must be from 0 to {folds - 1}, not {number}")
        shuffled = np.arange(n)
        np.random.RandomState(seed).shuffle(shuffled)
        mask = np.zeros(n, dtype=np.bool_)
        mask[np.array_split(shuffled, folds)[number]] = True
        return self._holding_out(mask)

    def _holding_out(self, mask: NDArray[np.bool_]) -> Dataset:
        """Return a copy with these samples as the validation set."""

        def part(rows: NDArray[np.bool_], validation: Dataset | None) -> Dataset:
            weights = None if self.weights is None else self.weights[rows]
            inputs, targets = self.inputs[rows], self.targets[rows]
            return replace(self, inputs=inputs, targets=targets, weights=weights, validation=validation)

        return part(~mask, part(mask, None))

    def moments(self, *, targets: bool = False) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return shifts and scales of :meth:`standardized`: (d,) and (d,) for the features, () or (K,) for targets."""
        y_shift, y_scale = _moments(self.targets) if targets else (np.zeros(()), np.ones(()))
        return *_moments(self.inputs), y_shift, y_scale

    def standardized(self, *, targets: bool = False) -> Dataset:
        """Return a copy whose features, and if asked targets, have mean 0 and standard deviation 1 on the training set.

        A constant column is only shifted. The validation set is transformed with the training set's mean and deviation.
        """
        shift, scale, y_shift, y_scale = self.moments(targets=targets)

        def transform(part: Dataset, validation: Dataset | None) -> Dataset:
            return replace(
                part,
                inputs=(part.inputs - shift) / scale,
                targets=(part.targets - y_shift) / y_scale,
                validation=validation,
            )

        return transform(self, transform(self.validation, None) if self.validation is not None else None)


def held_out(n: int, fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    """Return which of n samples :meth:`Dataset.split` holds out for validation.

    Raises:
        InvalidTask: if either part would be empty.
    """
    number = round(fraction * n)
    if not 0 < number < n:
        raise InvalidTask(f"a validation fraction of {fraction} leaves one part of {n} samples empty")
    mask = np.zeros(n, dtype=np.bool_)
    mask[np.random.default_rng(seed).permutation(n)[:number]] = True
    return mask


def line(
    slope: float = 0.8,
    intercept: float = 1.2,
    x: ArrayLike = (1, 2, 3, 4, 5),
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Return samples of y = slope x + intercept at the given x, with Gaussian noise of standard deviation ``noise``."""
    points = np.asarray(x, dtype=np.float64)
    return Dataset(points, slope * points + intercept + _noise(len(points), noise, seed))


def linear(
    n: int = 100,
    d: int = 1,
    condition: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
    scales: FloatArray | None = None,
) -> Dataset:
    """Return n samples of d features whose covariance has the given condition number, with a random linear target.

    The features are X = U diag(s) with orthonormal U, scaled by sqrt(n), and s falls geometrically from 1 to
    condition^-1/2: the Hessian of the squared loss then has exactly this condition number (without a bias). ``scales``
    replaces s.
    """
    if n < d:
        raise InvalidTask(f"linear data needs n >= d, not n = {n} and d = {d}")
    if condition < 1:
        raise InvalidTask(f"condition must be at least 1, not {condition}")
    rng = np.random.default_rng(seed)
    orthonormal, _ = np.linalg.qr(rng.standard_normal((n, d)))
    scales = geometric(1.0, condition**-0.5, d) if scales is None else scales
    inputs = orthonormal * scales * np.sqrt(n)
    weights = rng.standard_normal(d)
    return Dataset(inputs, inputs @ weights + noise * rng.standard_normal(n))


def polynomial(
    coefficients: Sequence[float] = (0.0, 0.0, 1.0),
    n: int = 50,
    low: float = -1.0,
    high: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Return samples of y = c0 + c1 x + c2 x^2 + ... at n equally spaced x in [low, high]."""
    x = np.linspace(low, high, n)
    return Dataset(x, np.polynomial.polynomial.polyval(x, np.asarray(coefficients)) + _noise(n, noise, seed))


def sine(
    n: int = 50,
    low: float = -np.pi,
    high: float = np.pi,
    frequency: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Return samples of y = sin(frequency x) at n equally spaced x in [low, high]."""
    x = np.linspace(low, high, n)
    return Dataset(x, np.sin(frequency * x) + _noise(n, noise, seed))


def _checked_weights(given: FloatArray, n: int) -> FloatArray:
    """Return sample weights as float64.

    Raises:
        InvalidTask: weights of the wrong shape, not finite, negative, or all 0.
    """
    weights = np.asarray(given, dtype=np.float64)
    if weights.shape != (n,):
        raise InvalidTask(f"weights must have the shape ({n},), one per sample, not {weights.shape}")
    if not np.isfinite(weights).all():
        raise InvalidTask("weights must be finite")
    if weights.min() < 0:
        raise InvalidTask(f"weights must be >= 0; the least is {weights.min():g}")
    if not weights.any():
        raise InvalidTask("at least one weight must be > 0")
    return weights


def _noise(n: int, scale: float, seed: int) -> FloatArray:
    if scale == 0:
        return np.zeros(n)
    return scale * np.random.default_rng(seed).standard_normal(n)


def _moments(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    constant = np.ptp(values, axis=0) == 0  # computed mean and deviation would have rounding errors
    mean, scale = np.where(constant, values[0], values.mean(axis=0)), np.where(constant, 1.0, values.std(axis=0))
    return mean, np.where(scale > 0, scale, 1.0)
