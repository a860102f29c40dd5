"""Task: a data set, a model and a loss, and for squared loss the exact minimum of the objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask
from sgdcore.tasks.datasets import Dataset
from sgdcore.tasks.models import LinearModel, Model, element_names

FloatArray = NDArray[np.float64]
Loss = Literal["mse", "mae", "huber"]
LOSSES = ("mse", "mae", "huber")
_FEW = 8  # directions: up to this many, one minimiser per trial is cheaper than grouping equal weight decays


@dataclass(frozen=True, eq=False)
class Task:
    """The task that a trial learns: a data set, a model and a loss.

    Args:
        dataset: inputs and targets, with or without a validation set.
        model: linear by default.
        loss: the mean over the batch of squared errors (``mse``, torch.nn.functional.mse_loss), absolute errors
            (``mae``, l1_loss), or squared below and linear above ``huber_delta`` (``huber``, huber_loss).
        huber_delta: the error at which the Huber loss changes from squared to linear, > 0.

    Raises:
        InvalidTask: an unknown loss, or a model that does not fit the data.
    """

    dataset: Dataset
    model: Model = field(default_factory=LinearModel)
    loss: Loss = "mse"
    huber_delta: float = 1.0

    def __post_init__(self) -> None:
        """Check that the loss is known and the model fits the data."""
        if self.loss not in LOSSES:
            raise InvalidTask(f"loss must be {', '.join(LOSSES[:-1])} or {LOSSES[-1]}, not {self.loss!r}")
        if not 0 < self.huber_delta < np.inf:
            raise InvalidTask(f"huber_delta must be > 0 and finite, not {self.huber_delta}")
        self.model.features(self.dataset.inputs[:1])

    @property
    def is_quadratic(self) -> bool:
        """Whether the loss is a quadratic form of the parameters, whose minimum is known exactly."""
        return self.model.linear and self.loss == "mse"

    @cached_property
    def features(self) -> FloatArray:
        """The (n, k) features of the training set."""
        return self.model.features(self.dataset.inputs)

    @cached_property
    def loss_scale(self) -> float:
        """The training loss of the prediction 0, the scale of the task's losses; 1 if it is 0."""
        size = np.abs(self.dataset.targets)
        with np.errstate(over="ignore"):
            if self.loss == "mae":
                losses = size
            elif self.loss == "mse":
                losses = size**2
            else:
                losses = np.where(
                    size < self.huber_delta, size**2 / 2, self.huber_delta * (size - self.huber_delta / 2)
                )
            scale = float(losses.mean())
        return scale if 0 < scale < np.inf else 1.0

    @property
    def samples(self) -> int:
        """The number of training samples n."""
        return len(self.dataset)

    @cached_property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the P parameters, in torch's order: 0.weight.3.1 is row 3, column 1 of the tensor 0.weight."""
        return tuple(name for tensor, shape in self.parameter_shapes.items() for name in element_names(tensor, shape))

    @cached_property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the trained tensors by name, in torch's order."""
        return self.model.parameter_shapes(self.features.shape[1])

    def initial_params(self, seeds: NDArray[np.int64], dtype: str) -> FloatArray:
        """Return (T, P) parameters for (T,) seeds, as torch initialises the model after torch.manual_seed(seed)."""
        width = self.features.shape[1]
        distinct, which = np.unique(seeds, return_inverse=True)
        drawn = [self.model.initial_params(width, int(seed), dtype) for seed in distinct]
        return np.array(drawn).reshape(len(drawn), len(self.parameter_names))[which]

    def quadratic(self, dtype: str = "float64") -> Quadratic:
        """Return the training loss as a quadratic form, for data rounded to ``dtype`` as the trials see them."""
        return Quadratic.of(self.features, self.dataset.targets, self.model.bias, dtype)

    def validation_quadratic(self, dtype: str = "float64") -> Quadratic | None:
        """Return the validation loss as a quadratic form, or None without a validation set."""
        held_out = self.dataset.validation
        if held_out is None:
            return None
        return Quadratic.of(self.model.features(held_out.inputs), held_out.targets, self.model.bias, dtype)


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The quadratic form L(p) = minimum + |factor p - centre|^2, exact for squared loss and a model linear in p.

    With A = [features, 1] / sqrt(n) and z = targets / sqrt(n): L(p) = |A p - z|^2. A = U S V^T (singular values,
    without those that are zero to rounding, so that r is A's rank), S V^T = Q R (Householder): factor is R, centre is
    Q^T U^T z, and minimum is the squared part of z outside the range of U. In this form the loss does not cancel near
    its minimum, and it stays exact however far away the minimiser lies (1e12 for data of condition 1e12).

    The last bits of the form, and with it those of losses, depend on the linear algebra library's code for the
    processor; trials' parameters do not.
    """

    factor: FloatArray  # (r, P), upper triangular
    centre: FloatArray  # (r,)
    minimum: float
    left: FloatArray  # U^T z, (r,)
    singular_values: FloatArray  # (r,), > 0
    right: FloatArray  # V^T, (r, P)

    @classmethod
    def of(cls, features: FloatArray, targets: FloatArray, bias: bool, dtype: str) -> Quadratic:
        """Return the loss of these samples, rounded to dtype and evaluated in float64.

        Raises:
            InvalidTask: samples that are not finite in dtype.
        """
        n = len(targets)
        design = rounded(features, dtype).astype(np.float64)
        z = rounded(targets, dtype).astype(np.float64) / np.sqrt(n)
        if bias:
            design = np.column_stack([design, np.ones(n)])
        return cls._of_rows(design / np.sqrt(n), z, 0.0)

    def with_decay(self, decay: FloatArray) -> Quadratic:
        """Return L(p) + 1/2 sum_j decay_j p_j^2 as a quadratic form, for (P,) weight decays."""
        penalty = np.diag(np.sqrt(decay / 2))
        design = np.vstack([self.factor, penalty])
        return self._of_rows(design, np.concatenate([self.centre, np.zeros(len(penalty))]), self.minimum)

    @classmethod
    def _of_rows(cls, design: FloatArray, z: FloatArray, constant: float) -> Quadratic:
        """Return constant + |design p - z|^2."""
        u, s, vt = np.linalg.svd(design, full_matrices=False)
        rank = int(np.count_nonzero(s > np.finfo(np.float64).eps * max(design.shape) * s[0]))
        u, s, vt = u[:, :rank], s[:rank], vt[:rank]
        left = u.T @ z
        q, r = np.linalg.qr(s[:, np.newaxis] * vt)
        outside = z - u @ left
        return cls(
            factor=np.ascontiguousarray(r),
            centre=q.T @ left,
            minimum=constant + float(outside @ outside),
            left=left,
            singular_values=s,
            right=vt,
        )

    def value(self, params: FloatArray) -> FloatArray:
        """Return the (...) losses of (..., P) parameters."""
        residual = np.asarray(params, dtype=np.float64) @ self.factor.T - self.centre
        return np.asarray(self.minimum + np.square(residual).sum(axis=-1))

    def ridge_minimiser(self, weight_decay: FloatArray) -> FloatArray:
        """Return the (W, P) minimisers of L(p) + weight_decay/2 |p|^2 of least norm, for (W,) weight decays.

        From the singular values: p = V diag(s / (s^2 + weight_decay/2)) U^T z.
        """
        half = np.asarray(weight_decay, dtype=np.float64) / 2
        by_parameter = np.zeros((self.right.shape[1], len(half)))
        # One direction at a time: no row's bits depend on the other rows, as they could in a BLAS product.
        for s, left, right in zip(self.singular_values, self.left, self.right, strict=True):
            by_parameter += right[:, np.newaxis] * (s * left / (s**2 + half))
        return np.ascontiguousarray(by_parameter.T)

    def nearest_minimisers(self, weight_decay: FloatArray, start: FloatArray) -> FloatArray:
        """Return the (T, P) minimisers nearest to each trial's start, for (T,) weight decays and (T, P) starts.

        Along directions that the data leave undetermined, gradient descent without weight decay never moves, so the
        minimiser that it can reach keeps the start's component there.
        """
        if len(self.right) <= _FEW:
            targets = self.ridge_minimiser(weight_decay)
        else:
            decays, which = np.unique(weight_decay, return_inverse=True)
            targets = self.ridge_minimiser(decays)[which]
        if len(self.right) == start.shape[1]:
            return targets
        # einsum's sums for one row do not depend on the other rows, as those of a BLAS product could.
        free = start - np.einsum("tr,rp->tp", np.einsum("tp,rp->tr", start, self.right), self.right)
        return np.where((weight_decay == 0)[:, np.newaxis], targets + free, targets)

    def objective_minimum(self, weight_decay: FloatArray) -> FloatArray:
        """Return the (W,) least values of L(p) + weight_decay/2 |p|^2 for (W,) weight decays."""
        half = np.asarray(weight_decay, dtype=np.float64) / 2
        least = np.full(len(half), self.minimum)
        for s, left in zip(self.singular_values, self.left, strict=True):
            least += left**2 * (half / (s**2 + half))
        return least


def rounded(values: FloatArray, dtype: str) -> NDArray[Any]:
    """Return features or targets in dtype, contiguous.

    Raises:
        InvalidTask: they are not finite in dtype.
    """
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values, dtype=dtype)
    if not np.isfinite(result).all():
        raise InvalidTask(f"features and targets must be finite in {dtype}")
    return result
