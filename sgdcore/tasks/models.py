"""Models that are linear in their parameters: features of the inputs times weights, plus a bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask
from sgdcore.torch_random import linear_params

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]


class Model(Protocol):
    """A model: it computes features of the inputs and passes them to a torch module with one output."""

    @property
    def linear(self) -> bool:
        """Whether y = features(x) . weight (+ bias)."""

    @property
    def bias(self) -> bool:
        """Whether a linear model has a bias, its last parameter."""

    @property
    def user_code(self) -> bool:
        """Whether making the module runs code that is not torch's or ours."""

    def features(self, inputs: FloatArray) -> FloatArray:
        """Return the (n, k) features of (n, d) inputs."""

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the trained tensors for k = ``width`` features, by name and in torch's order."""

    def __hash__(self) -> int:
        """Hash the model: equal models share compiled code."""

    def module(self, width: int) -> torch.nn.Module:
        """Return a fresh module from (B, width) to (B, 1) or (B,), initialised as torch does by default."""

    def initial_params(self, width: int, seed: int, dtype: str) -> FloatArray:
        """Return the (P,) parameters of that module in this dtype, made after torch.manual_seed(seed)."""


class _Linear:
    """The base of models linear in their parameters: torch.nn.Linear over their features."""

    linear = True
    user_code = False
    bias: bool

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of ``weight`` and ``bias``."""
        return {"weight": (1, width)} | ({"bias": (1,)} if self.bias else {})

    def module(self, width: int) -> torch.nn.Module:
        """Return a fresh layer."""
        import torch

        return torch.nn.Linear(width, 1, bias=self.bias)

    def initial_params(self, width: int, seed: int, dtype: str) -> FloatArray:
        """Return the layer's first parameters, drawn without torch."""
        return linear_params(width, self.bias, seed, dtype)


@dataclass(frozen=True)
class LinearModel(_Linear):
    """torch.nn.Linear(d, 1): the inputs themselves are the features."""

    bias: bool = True

    def features(self, inputs: FloatArray) -> FloatArray:
        """Return the inputs unchanged."""
        return inputs


@dataclass(frozen=True)
class PolynomialModel(_Linear):
    """A polynomial in one input, as torch.nn.Linear(degree, 1) over x, x^2, ..., x^degree."""

    degree: int = 2
    bias: bool = True

    def __post_init__(self) -> None:
        """Check the degree."""
        if not isinstance(self.degree, int) or self.degree < 1:
            raise InvalidTask(f"a polynomial model needs a whole degree >= 1, not {self.degree}")

    def features(self, inputs: FloatArray) -> FloatArray:
        """Return the (n, degree) powers of (n, 1) inputs, by repeated multiplication.

        numpy's power is not correctly rounded everywhere: its bits depend on the processor.
        """
        if inputs.shape[1] != 1:
            raise InvalidTask(f"a polynomial model takes one feature, but the data set has {inputs.shape[1]}")
        with np.errstate(over="ignore"):  # Task rejects features that are not finite
            return np.multiply.accumulate(np.repeat(inputs, self.degree, axis=1), axis=1)


def element_names(tensor: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of a parameter tensor's elements: its own name and their indices along axes longer than one."""
    axes = [size for size in shape if size > 1]
    return tuple(".".join([tensor, *map(str, index)]) for index in np.ndindex(*axes))
