"""Task: a data set, a model and a loss, and for squared loss the exact minimum of the objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask
from sgdcore.tasks.datasets import Dataset
from sgdcore.tasks.losses import Loss, LossName
from sgdcore.tasks.models import LinearModel, Model, element_names

FloatArray = NDArray[np.float64]
_FEW = 8  # directions: up to this many, one minimiser per trial is cheaper than grouping equal weight decays


@dataclass(frozen=True, eq=False)
class Task:
    """The task that a trial learns: a data set, a model and a loss.

    Args:
        dataset: inputs and targets, with or without sample weights and a validation set.
        model: linear by default; its outputs become those that the targets and the loss need.
        loss: the mean over the batch and the targets of squared errors (``mse``, torch.nn.functional.mse_loss),
            absolute errors (``mae``, l1_loss), errors squared below and linear above ``huber_delta`` (``huber``,
            huber_loss), log cosh of the errors (``log_cosh``), the pinball loss of a ``quantile``, with e = target -
            output max(quantile e, (quantile - 1) e), ``poisson_nll`` (poisson_nll_loss: the output is the log of the
            expected count), or ``gaussian_nll`` (gaussian_nll_loss: a second output per target is the variance before
            softplus; all means come first). With sample weights w, the mean of w times these; w is not normalised.
        huber_delta: the error at which the Huber loss changes from squared to linear, > 0.
        quantile: the quantile that the pinball loss estimates, > 0 and < 1.

    Raises:
        InvalidTask: an unknown loss, targets that the loss does not allow, or a model that does not fit the data.
    """

    dataset: Dataset
    model: Model = field(default_factory=LinearModel)
    loss: LossName = "mse"
    huber_delta: float = 1.0
    quantile: float = 0.5

    def __post_init__(self) -> None:
        """Check that the loss fits the targets and the model fits the data; give the model its outputs."""
        for part in (self.dataset, self.dataset.validation):
            if part is not None:
                self.criterion.check_targets(part.targets)
        if self.model.outputs != self.criterion.outputs:
            object.__setattr__(self, "model", self.model.with_outputs(self.criterion.outputs))
        self.model.features(self.dataset.inputs[:1])

    @cached_property
    def criterion(self) -> Loss:
        """The loss with its options, for these targets and weights."""
        targets, weighted = self.dataset.target_count, self.dataset.weights is not None
        return Loss(self.loss, self.huber_delta, self.quantile, targets, weighted)

    @property
    def is_quadratic(self) -> bool:
        """Whether the loss is a quadratic form of the parameters, whose minimum is known exactly."""
        return self.model.linear and self.loss == "mse"

    @property
    def has_linear_kernel(self) -> bool:
        """Whether kernels for linear models train it, which return the same bits for a trial in any pack."""
        return self.is_quadratic and self.criterion == Loss("mse", self.huber_delta, self.quantile)

    @cached_property
    def features(self) -> FloatArray:
        """The (n, k) features of the training set."""
        return self.model.features(self.dataset.inputs)

    @cached_property
    def loss_scale(self) -> float:
        """The training loss of the output 0 above the least possible one, the scale of losses; 1 if it is 0."""
        with np.errstate(over="ignore"):
            scale = self._mean(self.criterion.of_zero(self.dataset.targets)) - self.loss_floor
        return scale if 0 < scale < np.inf else 1.0

    @cached_property
    def loss_floor(self) -> float:
        """A lower bound of the training loss: 0 but for losses that can be negative."""
        return self._mean(self.criterion.least(self.dataset.targets))

    def _mean(self, losses: FloatArray) -> float:
        weights = self.dataset.weights
        return float((losses if weights is None else losses * by_row(weights, losses)).mean())

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
        return Quadratic.of(self.features, self.dataset, self.model.bias, dtype)

    def validation_quadratic(self, dtype: str = "float64") -> Quadratic | None:
        """Return the validation loss as a quadratic form, or None without a validation set."""
        held_out = self.dataset.validation
        if held_out is None:
            return None
        return Quadratic.of(self.model.features(held_out.inputs), held_out, self.model.bias, dtype)


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

    factor: FloatArray  # (r, P), upper triangular; with several targets, such blocks
    centre: FloatArray  # (r,)
    minimum: float
    left: FloatArray  # U^T z, (r,)
    singular_values: FloatArray  # (r,), > 0
    right: FloatArray  # V^T, (r, P)

    @classmethod
    def of(cls, features: FloatArray, dataset: Dataset, bias: bool, dtype: str) -> Quadratic:
        """Return the loss of a data set with these features, rounded to dtype and evaluated in float64.

        With sample weights, rows of A and z have their square roots as factors. Several targets are problems with the
        same A side by side, and the loss is the mean of theirs.

        Raises:
            InvalidTask: samples that are not finite in dtype.
        """
        n = len(dataset)
        design = rounded(features, dtype).astype(np.float64)
        z = rounded(dataset.targets, dtype).astype(np.float64) / np.sqrt(n)
        if bias:
            design = np.column_stack([design, np.ones(n)])
        design = design / np.sqrt(n)
        if dataset.weights is not None:
            roots = np.sqrt(rounded(dataset.weights, dtype).astype(np.float64))
            design, z = design * roots[:, np.newaxis], z * by_row(roots, z)
        if z.ndim == 1:
            return cls._of_rows(design, z, 0.0)
        return cls._side_by_side([cls._of_rows(design, column, 0.0) for column in z.T], features.shape[1])

    @classmethod
    def _side_by_side(cls, forms: list[Quadratic], features: int) -> Quadratic:
        """Return the mean of forms with parameters of their own; all weights come first, as in torch.nn.Linear."""
        outputs, each = len(forms), forms[0].factor.shape[1]
        ranks = [len(form.centre) for form in forms]
        factor, right = np.zeros((2, sum(ranks), outputs * each))
        for k, form in enumerate(forms):
            rows = slice(sum(ranks[:k]), sum(ranks[: k + 1]))
            own = parameters_of_output(k, outputs, features, bias=each > features)
            factor[rows, own], right[rows, own] = form.factor / np.sqrt(outputs), form.right
        return cls(
            factor=factor,
            centre=np.concatenate([form.centre for form in forms]) / np.sqrt(outputs),
            minimum=float(np.mean([form.minimum for form in forms])),
            left=np.concatenate([form.left for form in forms]) / np.sqrt(outputs),
            singular_values=np.concatenate([form.singular_values for form in forms]) / np.sqrt(outputs),
            right=right,
        )

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


def parameters_of_output(output: int, outputs: int, features: int, *, bias: bool) -> NDArray[np.intp]:
    """Return the indices of the parameters of one output of torch.nn.Linear(features, outputs)."""
    own = np.arange(output * features, (output + 1) * features)
    return np.append(own, outputs * features + output) if bias else own


def by_row(values: FloatArray, other: FloatArray) -> FloatArray:
    """Return (n,) values in a shape that multiplies the rows of (n,) or (n, K) others."""
    return values.reshape(-1, *[1] * (other.ndim - 1))


def goals(dataset: Dataset, dtype: str) -> NDArray[Any]:
    """Return what losses compare outputs with, in dtype: (n,) or (n, K) targets; a last column holds sample weights.

    Raises:
        InvalidTask: they are not finite in dtype.
    """
    if dataset.weights is None:
        return rounded(dataset.targets, dtype)
    return rounded(np.column_stack([dataset.targets, dataset.weights]), dtype)


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
