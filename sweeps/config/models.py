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
    bias: Flag = True
    init: Literal["torch", "zeros"] = "torch"


class PolynomialModel(Model):
    """A polynomial in one input."""

    kind: Literal["polynomial"]
    degree: Degree = 2
    bias: Flag = True
    init: Literal["torch", "zeros"] = "torch"


class MlpModel(Model):
    """A multi-layer perceptron: Linear layers of these widths with activations between, initialised by torch."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (32,)
    activation: Literal["relu", "tanh", "sigmoid", "gelu", "silu"] = "relu"
    init: Literal["torch"] = "torch"


class ModuleModel(Model):
    """A custom torch.nn.Module: ``module`` (package.module:callable) is called with ``arguments`` and returns one."""

    kind: Literal["module"]
    module: ModulePath
    arguments: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    init: Literal["torch"] = "torch"


AnyModel = Annotated[LinearModel | PolynomialModel | MlpModel | ModuleModel, Field(discriminator="kind")]
