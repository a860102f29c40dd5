"""The models of a sweep file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
)

from sweeps.config.base import Model
from sweeps.config.types import (
    Degree,
    Flag,
    ModulePath,
    Width,
)


class LinearModel(Model):
    """A linear model (torch.nn.Linear); ``init`` applies to parameters without an init.* axis."""

    kind: Literal["linear"]
    """Linear in the features (torch.nn.Linear)."""
    bias: Flag = True
    """Whether the model has an intercept."""
    init: Literal["torch", "zeros"] = "torch"
    """The start of parameters without an init.* axis: drawn as by torch, or zeros."""


class PolynomialModel(Model):
    """A polynomial in one input."""

    kind: Literal["polynomial"]
    """A polynomial of one feature."""
    degree: Degree = 2
    """The highest power."""
    bias: Flag = True
    """Whether the model has an intercept."""
    init: Literal["torch", "zeros"] = "torch"
    """The start of parameters without an init.* axis: drawn as by torch, or zeros."""


class MlpModel(Model):
    """A multi-layer perceptron: Linear layers of these widths with activations between, initialised by torch."""

    kind: Literal["mlp"]
    """A multi-layer perceptron."""
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (32,)
    """The widths of the hidden layers."""
    activation: Literal["relu", "tanh", "sigmoid", "gelu", "silu"] = "relu"
    """The function between layers."""
    init: Literal["torch"] = "torch"
    """The start of parameters: drawn as by torch."""


class ModuleModel(Model):
    """A custom torch.nn.Module: ``module`` (package.module:callable) is called with ``arguments`` and returns one."""

    kind: Literal["module"]
    """A torch.nn.Module of your own."""
    module: ModulePath
    """The callable that returns the module, as package.module:callable."""
    arguments: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """The keyword arguments of the callable."""
    init: Literal["torch"] = "torch"
    """The start of parameters: as the module draws them."""


AnyModel = Annotated[LinearModel | PolynomialModel | MlpModel | ModuleModel, Field(discriminator="kind")]
