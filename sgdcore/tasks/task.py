"""Task: a data set, a model and a loss, and for squared loss the exact minimum of what SGD descends."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask
from sgdcore.tasks.datasets import Dataset
from sgdcore.tasks.models import LinearModel, Model, parameter_names

FloatArray = NDArray[np.float64]
Loss = Literal["mse"]


@dataclass(frozen=True, eq=False)
class Task:
    """What a trial learns.

    Args:
        dataset: inputs and targets, with a validation set or without.
        model: linear by default.
        loss: ``mse``, the mean of squared errors over the batch, as torch.nn.functional.mse_loss.

    Raises:
        InvalidTask: a loss that is not known, or a model that does not fit the data.
    """

    dataset: Dataset
    model: Model = field(default_factory=LinearModel)
    loss: Loss = "mse"

    def __post_init__(self) -> None:
        """Refuse losses that are not known and models that do not fit."""
        if self.loss != "mse":
            raise InvalidTask(f"loss must be mse, not {self.loss!r}")
        self.model.features(self.dataset.inputs[:1])

    @cached_property
    def features(self) -> FloatArray:
        """(n, k) features of the training set."""
        return self.model.features(self.dataset.inputs)

    @property
    def samples(self) -> int:
        """Number of training samples n."""
        return len(self.dataset)

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the P parameters, weights first, bias last."""
        return parameter_names(self.features.shape[1], self.model.bias)

    def quadratic(self, dtype: str = "float64") -> Quadratic:
        """The training loss as a quadratic form, of the data rounded to ``dtype`` as the trials see it."""
        return Quadratic.of(self.features, self.dataset.targets, self.model.bias, dtype)

    def validation_quadratic(self, dtype: str = "float64") -> Quadratic | None:
        """The validation loss as a quadratic form, or None without a validation set."""
        held_out = self.dataset.validation
        if held_out is None:
            return None
        return Quadratic.of(self.model.features(held_out.inputs), held_out.targets, self.model.bias, dtype)


@dataclass(frozen=True, eq=False)
class Quadratic:
    """L(p) = minimum + |factor (p - minimiser)|^2, exact for squared loss and a model linear in p.

    With A = [features, 1] / sqrt(n) and z = targets / sqrt(n): L(p) = |A p - z|^2. A = Q R (Householder), so
    factor is R; minimiser is the least-squares solution of least norm, by the singular value decomposition, which
    also holds where A has not full rank. Written about its minimum, the loss does not cancel near it.
    """

    factor: FloatArray  # (r, P), r = min(n, P)
    minimiser: FloatArray  # (P,)
    minimum: float
    left: FloatArray  # U^T z, (r,)
    singular_values: FloatArray  # (r,)
    right: FloatArray  # V^T, (r, P)

    @classmethod
    def of(cls, features: FloatArray, targets: FloatArray, bias: bool, dtype: str) -> Quadratic:
        """The loss of these samples, rounded to dtype, evaluated in float64.

        Raises:
            InvalidTask: samples that are not finite in dtype.
        """
        n = len(targets)
        with np.errstate(over="ignore"):
            design = features.astype(dtype).astype(np.float64)
            z = targets.astype(dtype).astype(np.float64) / np.sqrt(n)
        if not (np.isfinite(design).all() and np.isfinite(z).all()):
            raise InvalidTask(f"features and targets must be finite in {dtype}")
        if bias:
            design = np.column_stack([design, np.ones(n)])
        design = design / np.sqrt(n)
        u, s, vt = np.linalg.svd(design, full_matrices=False)
        left = u.T @ z
        kept = s > np.finfo(np.float64).eps * max(design.shape) * (s[0] if len(s) else 0.0)
        minimiser = vt.T @ np.where(kept, left / np.where(kept, s, 1.0), 0.0)
        residual = design @ minimiser - z
        return cls(
            factor=np.ascontiguousarray(np.linalg.qr(design, mode="r")),
            minimiser=minimiser,
            minimum=float(residual @ residual),
            left=left,
            singular_values=np.where(kept, s, 0.0),
            right=vt,
        )

    def value(self, params: FloatArray) -> FloatArray:
        """(..., P) parameters -> (...) losses."""
        reached = (np.asarray(params, dtype=np.float64) - self.minimiser) @ self.factor.T
        return np.asarray(self.minimum + np.square(reached).sum(axis=-1))

    def ridge_minimiser(self, weight_decay: FloatArray) -> FloatArray:
        """(W,) weight decays -> (W, P) minimisers of L(p) + weight_decay/2 |p|^2, of least norm.

        From the singular values: p = V diag(s / (s^2 + weight_decay/2)) U^T z.
        """
        s = self.singular_values
        penalised = s**2 + np.asarray(weight_decay)[:, np.newaxis] / 2
        gains = np.divide(s * self.left, penalised, out=np.zeros_like(penalised), where=penalised > 0)
        return np.asarray(gains @ self.right)

    def nearest_minimisers(self, weight_decay: FloatArray, start: FloatArray) -> FloatArray:
        """(T,) weight decays, (T, P) starts -> (T, P): the minimiser of each trial's objective nearest to its start.

        Without weight decay and where the data leave directions undetermined, gradient descent never moves along
        these, so the minimiser that it can reach keeps the start's component there.
        """
        decays, which = np.unique(weight_decay, return_inverse=True)
        targets = self.ridge_minimiser(decays)[which]
        row_space = self.right[self.singular_values > 0]
        free = start - (start @ row_space.T) @ row_space
        if len(row_space) == start.shape[1]:
            return targets
        return np.where((weight_decay == 0)[:, np.newaxis], targets + free, targets)

    def objective_minimum(self, weight_decay: FloatArray) -> FloatArray:
        """(W,) weight decays -> (W,) least values of L(p) + weight_decay/2 |p|^2."""
        weight_decay = np.asarray(weight_decay, dtype=np.float64)
        best = self.ridge_minimiser(weight_decay)
        return np.asarray(self.value(best) + weight_decay / 2 * np.square(best).sum(axis=-1))
