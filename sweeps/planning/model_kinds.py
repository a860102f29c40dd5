"""The table of model kinds, which maps the sweep file's ``model.kind`` to models."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgdcore import LinearModel, MlpModel, ModuleModel, PolynomialModel
from sgdcore.tasks import Model
from sgdcore.tasks.networks import ACTIVATIONS
from sweeps.config import models as config_models


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


def module_folder(model: config_models.AnyModel) -> str | None:
    """Return the folder from which the sweep file's module is imported, or None for built-in models."""
    if not isinstance(model, config_models.ModuleModel):
        return None
    _add_working_directory()
    try:
        spec = importlib.util.find_spec(model.module.partition(":")[0].partition(".")[0])
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    folders = list((spec and spec.submodule_search_locations) or ())
    found = folders or ([spec.origin] if spec and spec.origin else [])
    return str(Path(found[0]).absolute().parent) if found else os.getcwd()


def _module(description: Any) -> ModuleModel:
    _add_working_directory()
    return ModuleModel(description.module, description.arguments)


def _add_working_directory() -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as python -m does, so that a module in the working directory can be imported


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
