"""Losses: their names and options, their value for the prediction 0, and the least value that they can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask

FloatArray = NDArray[np.float64]
LossName = Literal["mse", "mae", "huber", "log_cosh", "quantile", "poisson_nll", "gaussian_nll"]
LOSSES = ("mse", "mae", "huber", "log_cosh", "quantile", "poisson_nll", "gaussian_nll")
SIGNED = ("poisson_nll", "gaussian_nll")  # losses that can be negative
VARIANCE_EPS = 1e-6  # the least variance of gaussian_nll, the default of torch.nn.GaussianNLLLoss


@dataclass(frozen=True)
class Loss:
    """A loss with its options, the number of targets, and whether samples have weights.

    Raises:
        InvalidTask: an unknown loss, or an option out of range.
    """

    name: LossName
    huber_delta: float = 1.0
    quantile: float = 0.5
    targets: int = 1
    is_weighted: bool = False

    def __post_init__(self) -> None:
        """Check the name and the options."""
        if self.name not in LOSSES:
            raise InvalidTask(f"loss must be {', '.join(LOSSES[:-1])} or {LOSSES[-1]}, not {self.name!r}")
        if not 0 < self.huber_delta < np.inf:
            raise InvalidTask(f"huber_delta must be > 0 and finite, not {self.huber_delta}")
        if not 0 < self.quantile < 1:
            raise InvalidTask(f"quantile must be > 0 and < 1, not {self.quantile}")

    @property
    def outputs(self) -> int:
        """The model's outputs: one per target; for gaussian_nll all means, then as many variances before softplus."""
        return 2 * self.targets if self.name == "gaussian_nll" else self.targets

    def check_targets(self, targets: FloatArray) -> None:
        """Check that the loss is defined for these targets.

        Raises:
            InvalidTask: negative targets of poisson_nll.
        """
        if self.name == "poisson_nll" and targets.min() < 0:
            raise InvalidTask(f"loss poisson_nll needs targets >= 0, such as counts; the least is {targets.min():g}")

    def of_zero(self, targets: FloatArray) -> FloatArray:
        """Return the losses of the output 0, by target."""
        size: FloatArray = np.abs(targets)
        with np.errstate(over="ignore"):
            match self.name:
                case "mse":
                    return size**2
                case "mae":
                    return size
                case "huber":
                    outside = self.huber_delta * (size - self.huber_delta / 2)
                    return np.where(size < self.huber_delta, size**2 / 2, outside)
                case "log_cosh":
                    return np.asarray(size + np.log1p(np.exp(-2 * size)) - np.log(2))
                case "quantile":
                    return np.maximum(self.quantile * targets, (self.quantile - 1) * targets)
                case "poisson_nll":
                    return np.ones(targets.shape)
                case _:
                    variance = np.log(2)  # softplus(0)
                    return np.asarray((np.log(variance) + targets**2 / variance) / 2)

    def least(self, targets: FloatArray) -> FloatArray:
        """Return the least losses that any output has, by target: 0 but for losses that can be negative."""
        match self.name:
            case "poisson_nll":  # at the output log(target)
                return targets - targets * np.log(np.where(targets > 0, targets, 1))
            case "gaussian_nll":
                return np.full(targets.shape, np.log(VARIANCE_EPS) / 2)
            case _:
                return np.zeros(targets.shape)
