"""Models of a sweep file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

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

if TYPE_CHECKING:
    pass


class LinearModel(Model):
    """torch.nn.Linear; ``init`` says where parameters start that no init.* axis sets."""

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
    """A multi-layer perceptron: Linear layers of these widths with an activation between, torch's initialisation."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (32,)
    activation: Literal["relu", "tanh", "sigmoid", "gelu", "silu"] = "relu"
    init: Literal["torch"] = "torch"


class ModuleModel(Model):
    """Any torch.nn.Module: ``module`` is package.module:callable, called with ``arguments``, returning a fresh one."""

    kind: Literal["module"]
    module: ModulePath
    arguments: dict[str, Any] = {}
    init: Literal["torch"] = "torch"
