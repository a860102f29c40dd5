"""recognise(): whether a module is a perceptron, by its operations.

They must be one chain: Linear layers with a known activation between them. What was read is then tried against the
module itself, outputs and gradients: not everything that a module does shows in its graph.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from sgdcore.errors import InvalidTask
from sgdcore.kernels.module_torch.functional import evaluating
from sgdcore.kernels.module_torch.graph import Untraceable
from sgdcore.kernels.module_torch.operations import Operation, Unknown, operations_of
from sgdcore.tasks.initialisation import initialised, undrawn
from sgdcore.tasks.models import Model
from sgdcore.tasks.networks import Perceptron

_ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": functional.silu}
_TRIED = 5  # samples


class _Unrecognised(Exception):
    """The reason why a module is not a perceptron."""


def recognise(model: Model, width: int) -> Perceptron | str:
    """Return the perceptron that the model's module is with ``width`` features, or the reason why it is none."""
    try:
        module = initialised(model, width, 0, "float32")
    except InvalidTask as error:
        return str(error)
    try:
        found = _read(module, width)
        _try(module, found)
        with evaluating(module):
            if _read(module, width) != found:
                return "it does something else in evaluation than in training"
        _try(module, found, evaluates=True)
    except (_Unrecognised, Unknown, Untraceable) as reason:
        return str(reason)
    return found


def _read(module: nn.Module, width: int) -> Perceptron:
    chain = _Chain(module, width)
    for index, operation in enumerate(operations_of(module, width)[1:], 1):
        chain.add(operation, index)
    return chain.perceptron()


class _Chain:
    """The layers that are read, operation by operation, and the parameters that they use."""

    def __init__(self, module: nn.Module, width: int) -> None:
        self._widths = [width]
        self._places: dict[int, tuple[str, int]] = {}  # of the trained tensors: name, and first parameter
        place = 0
        for name, p in module.named_parameters():
            if p.requires_grad:
                self._places[id(p)] = name, place
                place += p.numel()
        self._used: set[int] = set()
        self._weights: list[int] = []
        self._biases: list[int | None] = []
        self._activations: list[str] = []

    def add(self, operation: Operation, index: int) -> None:
        """Add the module's next operation.

        Raises:
            _Unrecognised: it does not continue a perceptron.
        """
        if operation.kind not in ("linear", "reshape", *_ACTIVATIONS):
            raise _Unrecognised(f"{operation.title} is not a Linear layer or a known activation")
        if operation.inputs != (index - 1,):
            raise _Unrecognised(f"{operation.title} does not take the result of the node before it")
        if operation.kind in _ACTIVATIONS:
            if len(self._activations) != len(self._weights) - 1:
                raise _Unrecognised(f"{operation.title} does not follow a Linear layer")
            self._activations.append(operation.kind)
        elif operation.kind == "linear":
            if len(self._activations) < len(self._weights):
                raise _Unrecognised(f"there is no activation before {operation.title}")
            weight, bias = operation.tensors
            assert weight is not None
            self._weights.append(self._take(weight))
            self._biases.append(None if bias is None else self._take(bias))
            self._widths.append(operation.width)

    def perceptron(self) -> Perceptron:
        """Return what was read."""
        if len(self._weights) < 2:
            raise _Unrecognised("it has no hidden layer")
        if len(self._activations) == len(self._weights):
            raise _Unrecognised("there is an activation after its last layer")
        if self._widths[-1] != 1:
            raise _Unrecognised(f"its last layer has {self._widths[-1]} outputs")
        unused = [name for key, (name, _) in self._places.items() if key not in self._used]
        if unused:
            raise _Unrecognised(f"its parameter {unused[0]} is not in a Linear layer")
        return Perceptron(tuple(self._widths), tuple(self._activations), tuple(self._weights), tuple(self._biases))

    def _take(self, tensor: torch.Tensor) -> int:
        name, place = self._places.get(id(tensor), ("", -1))
        if place < 0:
            raise _Unrecognised("the weights of a Linear layer are computed, or not trained")
        if id(tensor) in self._used:
            raise _Unrecognised(f"its parameter {name} is used twice")
        self._used.add(id(tensor))
        return place


def _try(module: nn.Module, found: Perceptron, *, evaluates: bool = False) -> None:
    """Compare the module's outputs and gradients with the perceptron's on some samples.

    Raises:
        _Unrecognised: they differ, or there are none.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    features = torch.randn(_TRIED, found.widths[0], generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    expected = _computed(found, torch.cat([p.reshape(-1) for p in trained]), features)
    try:
        if evaluates:
            with evaluating(module), undrawn():
                outputs = module(features).reshape(-1)
        else:
            with undrawn():
                outputs = module(features).reshape(-1)
    except Exception as error:  # the user's module can raise anything
        raise _Unrecognised(f"it fails on a batch of {_TRIED}") from error
    if not _same(outputs, expected):
        raise _Unrecognised("it does not compute what its graph says")
    if evaluates:
        return
    try:
        pairs = zip(
            torch.autograd.grad(outputs.square().sum(), trained),
            torch.autograd.grad(expected.square().sum(), trained),
            strict=True,
        )
    except RuntimeError as error:
        raise _Unrecognised("its gradients cannot be computed") from error
    if not all(_same(ours, theirs) for ours, theirs in pairs):
        raise _Unrecognised("its gradients are not those of its graph")


def _computed(found: Perceptron, flat: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    values = features
    for layer, (weight, bias) in enumerate(zip(found.weights, found.biases, strict=True)):
        inputs, units = found.widths[layer : layer + 2]
        matrix = flat[weight : weight + units * inputs].view(units, inputs)
        values = functional.linear(values, matrix, None if bias is None else flat[bias : bias + units])
        if layer < len(found.activations):
            values = _ACTIVATIONS[found.activations[layer]](values)
    return values.reshape(-1)


def _same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
