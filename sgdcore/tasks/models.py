"""Models that are linear in their parameters: features of the inputs times weights, plus a bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask
from sgdcore.torch_random import linear_params

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]


class Model(Protocol):
    """A model: it computes features of the inputs and passes them to a torch module."""

    @property
    def outputs(self) -> int:
        """The number of outputs of the module."""

    def with_outputs(self, outputs: int) -> Model:
        """Return the model with another number of outputs."""

    @property
    def linear(self) -> bool:
        """Whether y = features(x) . weight (+ bias)."""

    @property
    def bias(self) -> bool:
        """Whether a linear model has biases, its last parameters, one per output."""

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
        """Return a fresh module from (B, width) to (B, outputs) or, for one output, (B,), as torch initialises it."""

    def initial_params(self, width: int, seed: int, dtype: str) -> FloatArray:
        """Return the (P,) parameters of that module in this dtype, made after torch.manual_seed(seed)."""


class _Linear:
    """The base of models linear in their parameters: torch.nn.Linear over their features."""

    linear = True
    user_code = False
    bias: bool
    outputs: int

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of ``weight`` and ``bias``."""
        return {"weight": (self.outputs, width)} | ({"bias": (self.outputs,)} if self.bias else {})

    def module(self, width: int) -> torch.nn.Module:
        """Return a fresh layer."""
        import torch

        return torch.nn.Linear(width, self.outputs, bias=self.bias)

    def initial_params(self, width: int, seed: int, dtype: str) -> FloatArray:
        """Return the layer's first parameters, drawn without torch."""
        return linear_params(width, self.outputs, self.bias, seed, dtype)


@dataclass(frozen=True)
class LinearModel(_Linear):
    """torch.nn.Linear(d, outputs): the inputs themselves are the features."""

    bias: bool = True
    outputs: int = 1

    def with_outputs(self, outputs: int) -> LinearModel:
        """Return the model with another number of outputs."""
        return replace(self, outputs=outputs)

    def features(self, inputs: FloatArray) -> FloatArray:
        """Return the inputs unchanged."""
        return inputs


@dataclass(frozen=True)
class PolynomialModel(_Linear):
    """A polynomial in one input, as torch.nn.Linear(degree, outputs) over x, x^2, ..., x^degree."""

    degree: int = 2
    bias: bool = True
    outputs: int = 1

    def __post_init__(self) -> None:
        """Check the degree."""
        if not isinstance(self.degree, int) or self.degree < 1:
            raise InvalidTask(f"a polynomial model needs a whole degree >= 1, not {self.degree}")

    def with_outputs(self, outputs: int) -> PolynomialModel:
        """Return the model with another number of outputs."""
        return replace(self, outputs=outputs)

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
