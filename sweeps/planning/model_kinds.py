"""The table of model kinds, which maps the sweep file's ``model.kind`` to models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sgdcore import LinearModel, MlpModel, ModuleModel, PolynomialModel
from sgdcore.tasks import Model
from sgdcore.tasks.networks import ACTIVATIONS


@dataclass(frozen=True)
class ModelKind:
    """The properties of a kind of model that are needed outside the engine.

    Args:
        build: converts the sweep file's ``model`` to the engine's model.
        export: returns what a logged model needs for predictions, as a JSON-serialisable mapping.
        is_linear: whether the model is linear in its parameters; its trials then have the same bits in any pack.
        packages: the packages besides numpy and pandas that predictions need.
    """

    build: Callable[[Any], Model]
    export: Callable[[Any], dict[str, Any]]
    is_linear: bool = False
    packages: tuple[str, ...] = ()


def _module(description: Any) -> ModuleModel:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as python -m does, so that a module in the working directory can be imported
    return ModuleModel(description.module, description.arguments)


MODEL_KINDS = {
    "linear": ModelKind(
        build=lambda given: LinearModel(given.bias),
        export=lambda model: {"bias": model.bias},
        is_linear=True,
    ),
    "polynomial": ModelKind(
        build=lambda given: PolynomialModel(given.degree, given.bias),
        export=lambda model: {"bias": model.bias, "degree": model.degree},
        is_linear=True,
    ),
    "mlp": ModelKind(
        build=lambda given: MlpModel(given.hidden, given.activation),
        export=lambda model: {"hidden": list(model.hidden), "activation": ACTIVATIONS[model.activation]},
        packages=("torch",),
    ),
    "module": ModelKind(
        build=_module,
        export=lambda model: {"module": model.factory, "arguments": dict(model.arguments)},
        packages=("torch",),
    ),
}
