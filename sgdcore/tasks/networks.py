"""Network models: a multi-layer perceptron, or any torch.nn.Module that a function returns."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sgdcore.errors import InvalidTask

if TYPE_CHECKING:
    import torch

    from sgdcore.tasks.models import Model

FloatArray = NDArray[np.float64]
Activation = Literal["relu", "tanh", "sigmoid", "gelu", "silu"]
MAX_PARAMETERS = 1_000_000  # names are stored for each
ACTIVATIONS = {"relu": "ReLU", "tanh": "Tanh", "sigmoid": "Sigmoid", "gelu": "GELU", "silu": "SiLU"}


class _Network:
    """The base of network models: the inputs are the features, and torch names the parameters."""

    linear = False
    bias = False
    user_code = False
    outputs: int

    def with_outputs(self, outputs: int) -> Model:
        """Return the model with another number of outputs."""
        raise NotImplementedError

    def features(self, inputs: FloatArray) -> FloatArray:
        """Return the inputs unchanged."""
        return inputs

    def parameter_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the module's trained tensors by their names."""
        from sgdcore.tasks.initialisation import initialised

        named = initialised(self, width, 0, "float32").named_parameters()
        shapes = {name: tuple(p.shape) for name, p in named if p.requires_grad}
        _check_size(sum(math.prod(shape) for shape in shapes.values()))
        return shapes

    def module(self, width: int) -> torch.nn.Module:
        """Return a fresh module."""
        raise NotImplementedError

    def initial_params(self, width: int, seed: int, dtype: str) -> FloatArray:
        """Return the module's first parameters, as torch draws them."""
        from sgdcore.tasks.initialisation import initial_params

        return initial_params(self, width, seed, dtype)


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with an activation between them, and where their parameters are among a model's.

    The weights of a layer are (units, inputs) in row-major order.
    """

    widths: tuple[int, ...]  # from the inputs to the output
    activations: tuple[str, ...]  # one per hidden layer
    weights: tuple[int, ...]  # by layer, the place of its first weight
    biases: tuple[int | None, ...]  # by layer, the place of its first bias; None without one


@dataclass(frozen=True)
class MlpModel(_Network):
    """A multi-layer perceptron: torch.nn.Sequential of Linear layers with an activation between them.

    Args:
        hidden: widths of the hidden layers.
        activation: ``relu``, ``tanh``, ``sigmoid``, ``gelu`` or ``silu``.
        outputs: set by :class:`sgdcore.Task`, like those of all models, to what its targets and loss need.
    """

    hidden: tuple[int, ...] = (32,)
    activation: Activation = "relu"
    outputs: int = 1

    def with_outputs(self, outputs: int) -> MlpModel:
        """Return the model with another number of outputs."""
        return replace(self, outputs=outputs)

    def __post_init__(self) -> None:
        """Check layer widths and the activation."""
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not self.hidden or min(self.hidden) < 1:
            raise InvalidTask(f"an mlp needs hidden layers of at least one unit, not {self.hidden}")
        if self.activation not in ACTIVATIONS:
            raise InvalidTask(f"activation must be one of {', '.join(ACTIVATIONS)}, not {self.activation!r}")

    def features(self, inputs: FloatArray) -> FloatArray:
        """Return the inputs unchanged; checks the size first, before a module is built that does not fit in memory."""
        widths = (inputs.shape[1], *self.hidden, self.outputs)
        _check_size(sum((before + 1) * after for before, after in pairwise(widths)))
        return inputs

    def module(self, width: int) -> torch.nn.Module:
        """Return a fresh module: Linear, activation, ..., Linear."""
        from torch import nn

        layers: list[nn.Module] = []
        for units in self.hidden:
            layers += [nn.Linear(width, units), getattr(nn, ACTIVATIONS[self.activation])()]
            width = units
        return nn.Sequential(*layers, nn.Linear(width, self.outputs))

    def perceptron(self, width: int) -> Perceptron:
        """Return the layers of the module."""
        widths = (width, *self.hidden, self.outputs)
        ends = tuple(accumulate((inputs + 1) * units for inputs, units in pairwise(widths)))
        return Perceptron(
            widths,
            (self.activation,) * len(self.hidden),
            weights=(0, *ends[:-1]),
            biases=tuple(end - units for end, units in zip(ends, widths[1:], strict=True)),
        )


@dataclass(frozen=True)
class ModuleModel(_Network):
    """Any torch.nn.Module from (B, features) to (B, outputs), or to (B,) for one output.

    Args:
        factory: a callable that returns a fresh module, or its import path: ``package.module:callable``.
        arguments: keyword arguments of the factory.
        outputs: those that the module must have.

    All parameters must take part in the output. Buffers must not change (no running statistics) and training must not
    draw random numbers (no dropout): otherwise a trial's result would depend on the trials it is batched with.
    """

    user_code = True

    factory: str | Callable[..., torch.nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    outputs: int = 1

    def with_outputs(self, outputs: int) -> ModuleModel:
        """Return the model that must have another number of outputs."""
        return replace(self, outputs=outputs)

    def module(self, width: int) -> torch.nn.Module:
        """Return the factory's module.

        Raises:
            InvalidTask: the factory cannot be imported, fails, or returns something else.
        """
        from torch import nn

        factory = self._factory()
        try:
            module = factory(**self.arguments)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {_first_line(error)}"
            raise InvalidTask(f"{self._name}: the factory raised {reason}") from error
        if not isinstance(module, nn.Module):
            raise InvalidTask(f"{self._name}: the factory must return a torch.nn.Module, not {type(module).__name__}")
        return module

    @property
    def source_digest(self) -> str:
        """SHA-256 of the factory's file, since different source can mean a different model; empty without a file."""
        try:
            file = inspect.getsourcefile(inspect.unwrap(self._factory()))
        except TypeError:
            return ""
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).exists() else ""

    @property
    def _name(self) -> str:
        if isinstance(self.factory, str):
            return f"module {self.factory!r}"
        return f"module {getattr(self.factory, '__qualname__', repr(self.factory))}"

    def _factory(self) -> Callable[..., Any]:
        if not isinstance(self.factory, str):
            return self.factory
        place, colon, name = self.factory.partition(":")
        if not (colon and place and name):
            raise InvalidTask(f"{self._name}: it must have the form package.module:callable")
        if place.partition(".")[0] in sys.stdlib_module_names:
            raise InvalidTask(f"{self._name}: Python's standard library has no networks; name your own module")
        try:
            found: Any = importlib.import_module(place)
            for part in name.split("."):
                found = getattr(found, part)
        except (Exception, SystemExit) as error:  # importing runs arbitrary user code
            raise InvalidTask(
                f"{self._name}: it cannot be imported: {type(error).__name__}: {_first_line(error)}"
                f"{_where_to_look(error, place)}"
            ) from error
        if not callable(found):
            raise InvalidTask(f"{self._name}: it must be a callable, not {type(found).__name__}")
        if not _may_make_modules(found):
            raise InvalidTask(f"{self._name}: it must be a subclass of torch.nn.Module or a function of your own")
        return found  # type: ignore[no-any-return, unused-ignore]


def _where_to_look(error: BaseException, place: str) -> str:
    """Return what to do if the module itself was not found, as from another folder; else nothing."""
    if not (isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}.")):
        return ""
    folder = f"the working directory ({os.getcwd()})"
    return (
        f"; it is neither in {folder} nor on PYTHONPATH nor installed: change to its folder, or add that to PYTHONPATH"
    )


def _may_make_modules(found: Any) -> bool:
    """Return whether it is a module class, or written in Python outside the standard library (os.system is neither).

    A module can import anything, so its name alone does not identify what is called.
    """
    from torch import nn

    while isinstance(found, functools.partial):
        found = found.func
    if isinstance(found, type):
        return issubclass(found, nn.Module)
    found = inspect.unwrap(found)
    found = getattr(found, "__func__", found)  # the function of a method
    if not isinstance(found, FunctionType):
        found = vars(type(found)).get("__call__")  # the class of a callable object
    return isinstance(found, FunctionType) and found.__module__.partition(".")[0] not in sys.stdlib_module_names


def _check_size(parameters: int) -> None:
    if parameters > MAX_PARAMETERS:
        raise InvalidTask(f"the network has {parameters:,} parameters; at most {MAX_PARAMETERS:,} are allowed")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
