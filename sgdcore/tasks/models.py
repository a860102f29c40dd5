"""Models that are linear in their parameters: features of the inputs times weights, plus a bias."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask

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

    def features(self, inputs: FloatArray) -> FloatArray:
        """Return the (n, k) features of (n, d) inputs."""

    def parameter_names(self, width: int) -> tuple[str, ...]:
        """Return the names of the P parameters for k = ``width`` features, in torch's order."""

    def __hash__(self) -> int:
        """Hash the model: equal models share compiled code."""

    def module(self, width: int) -> torch.nn.Module:
        """Return a fresh module from (B, width) to (B, 1) or (B,), initialised from torch's global random state."""


class _Linear:
    """The base of models linear in their parameters: torch.nn.Linear over their features."""

    linear = True
    bias: bool

    def parameter_names(self, width: int) -> tuple[str, ...]:
        """Return ``weight`` (or ``weight.0``, ``weight.1``, ...) and ``bias``."""
        return (*element_names("weight", (1, width)), *(["bias"] if self.bias else []))

    def module(self, width: int) -> torch.nn.Module:
        """Return a fresh layer."""
        import torch

        return torch.nn.Linear(width, 1, bias=self.bias)


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
        """Return the (n, degree) powers of (n, 1) inputs."""
        if inputs.shape[1] != 1:
            raise InvalidTask(f"a polynomial model takes one feature, but the data set has {inputs.shape[1]}")
        with np.errstate(over="ignore"):  # Task rejects features that are not finite
            return np.power(inputs, np.arange(1, self.degree + 1))


def element_names(tensor: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of a parameter tensor's elements: its own name and their indices along axes longer than one."""
    axes = [size for size in shape if size > 1]
    return tuple(".".join([tensor, *map(str, index)]) for index in np.ndindex(*axes))


def initialised(model: Model, width: int, seed: int, dtype: str) -> torch.nn.Module:
    """Return the model's module as torch initialises it in this dtype after torch.manual_seed(seed).

    torch's global random state and default dtype are restored afterwards.
    """
    import torch

    with torch.random.fork_rng(devices=[]), _default_dtype(getattr(torch, dtype)):
        torch.manual_seed(seed)
        return model.module(width).to(getattr(torch, dtype))


def initial_params(model: Model, width: int, seed: int, dtype: str) -> FloatArray:
    """Return the (P,) parameters of :func:`initialised`."""
    import torch

    parameters = [p.detach().flatten() for p in initialised(model, width, seed, dtype).parameters() if p.requires_grad]
    return torch.cat(parameters).numpy().astype(np.float64)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
