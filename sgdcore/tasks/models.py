"""Models that are linear in their parameters: features of the inputs times weights, plus a bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask

FloatArray = NDArray[np.float64]


class Model(Protocol):
    """y = features(x) . weight (+ bias)."""

    @property
    def bias(self) -> bool:
        """Whether the model has a bias, its last parameter."""

    def features(self, inputs: FloatArray) -> FloatArray:
        """(n, d) inputs -> (n, k) features."""


@dataclass(frozen=True)
class LinearModel:
    """torch.nn.Linear(d, 1): the inputs themselves are the features."""

    bias: bool = True

    def features(self, inputs: FloatArray) -> FloatArray:
        """The inputs, unchanged."""
        return inputs


@dataclass(frozen=True)
class PolynomialModel:
    """A polynomial in one input, as torch.nn.Linear(degree, 1) over x, x^2, ..., x^degree."""

    degree: int = 2
    bias: bool = True

    def __post_init__(self) -> None:
        """Refuse a polynomial without a variable."""
        if self.degree < 1:
            raise InvalidTask(f"a polynomial model needs degree >= 1, not {self.degree}")

    def features(self, inputs: FloatArray) -> FloatArray:
        """(n, 1) inputs -> (n, degree) powers."""
        if inputs.shape[1] != 1:
            raise InvalidTask(f"a polynomial model takes one feature, the data set has {inputs.shape[1]}")
        with np.errstate(over="ignore"):  # Quadratic refuses features that are not finite
            return np.power(inputs, np.arange(1, self.degree + 1))


def parameter_names(features: int, bias: bool) -> tuple[str, ...]:
    """``weight`` (or ``weight.0``, ``weight.1``, ...) and ``bias``."""
    weights = ("weight",) if features == 1 else tuple(f"weight.{i}" for i in range(features))
    return (*weights, "bias") if bias else weights


def torch_initialisation(features: int, bias: bool, seed: int, dtype: str) -> FloatArray:
    """The (P,) parameters of torch.nn.Linear(features, 1) after torch.manual_seed(seed), in the given dtype.

    torch's global random state is left as it was.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(features, 1, bias=bias, dtype=getattr(torch, dtype))
    parameters = torch.cat([p.detach().flatten() for p in layer.parameters()])
    return parameters.numpy().astype(np.float64)
