"""recognise(): read from a module's traced graph whether it is a perceptron.

The graph must be one chain: Linear layers with a known activation between them, and operations without effect. What was
read is then tried against the module itself, outputs and gradients: hooks and the like do not show in the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from sgdcore.errors import InvalidTask
from sgdcore.kernels.module_torch.functional import evaluating
from sgdcore.kernels.module_torch.graph import Untraceable, graph_of
from sgdcore.tasks.initialisation import initialised, undrawn
from sgdcore.tasks.models import Model
from sgdcore.tasks.networks import Perceptron

_MODULES = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.SiLU: "silu"}
_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((torch.relu, torch.relu_, functional.relu, functional.relu_), "relu"),
    **dict.fromkeys((torch.tanh, torch.tanh_, functional.tanh), "tanh"),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, functional.sigmoid), "sigmoid"),
    functional.silu: "silu",
}
_METHODS = {name: name.rstrip("_") for name in ("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_")}
_COMPUTED = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": functional.silu}
_RESHAPES = {"squeeze", "unsqueeze", "view", "reshape", "flatten", "contiguous"}  # of an output of one column
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
    except _Unrecognised as reason:
        return str(reason)
    return found


def _read(module: nn.Module, width: int) -> Perceptron:
    if any(_hooks(part) for part in module.modules()):
        raise _Unrecognised("it has hooks")
    try:
        graph = graph_of(module)
    except Untraceable as error:
        raise _Unrecognised(str(error)) from error
    chain = _Chain(module, width)
    for node in graph.nodes:
        chain.add(node)
    return chain.perceptron()


class _Chain:
    """The layers that are read, node by node, and the parameters that they use."""

    def __init__(self, module: nn.Module, width: int) -> None:
        self._module, self._widths = module, [width]
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
        self._last: fx.Node | None = None  # the node with the values of the chain so far
        self._sizes: set[fx.Node] = set()  # the nodes that hold the number of samples,
        self._shapes: set[fx.Node] = set()  # and the shape
        self._attributes: dict[fx.Node, Any] = {}
        self._is_reshaped = False

    def add(self, node: fx.Node) -> None:
        """Add the graph's next node.

        Raises:
            _Unrecognised: it does not continue a perceptron.
        """
        if node.op == "placeholder":
            if self._last is not None:
                raise _Unrecognised(f"its forward takes another argument, {node.target}")
            self._last = node
        elif node.op == "output":
            if node.args[0] is not self._last:
                raise _Unrecognised("its output is not that of its last layer")
        elif node.op == "get_attr":
            self._attributes[node] = operator.attrgetter(str(node.target))(self._module)
        elif not self._is_size(node):
            self._extend(node)
            self._last = node

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

    def _extend(self, node: fx.Node) -> None:
        kind: Any = self._module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        name = kind.__class__.__name__ if node.op == "call_module" else getattr(kind, "__name__", str(kind))
        if self._is_without_effect(node, kind):
            return
        layer = self._layer(node, kind)
        activation = self._activation(node, kind)
        if layer is None and activation is None:
            raise _Unrecognised(f"node {node.name} ({name}) is not a Linear layer or a known activation")
        if not node.args or node.args[0] is not self._last:
            raise _Unrecognised(f"node {node.name} ({name}) does not take the result of the node before it")
        if self._is_reshaped:
            raise _Unrecognised(f"node {node.name} ({name}) comes after the output was given another shape")
        if layer is not None:
            self._add_layer(node, *layer)
            return
        assert activation is not None
        if len(self._activations) != len(self._weights) - 1:
            raise _Unrecognised(f"node {node.name} ({name}) does not follow a Linear layer")
        self._activations.append(activation)

    def _add_layer(self, node: fx.Node, weight: Any, bias: Any) -> None:
        if len(self._activations) < len(self._weights):
            raise _Unrecognised(f"there is no activation before node {node.name} (linear)")
        if weight.ndim != 2 or weight.shape[1] != self._widths[-1]:
            raise _Unrecognised(f"node {node.name} (linear) takes {weight.shape[-1]} inputs, not {self._widths[-1]}")
        self._weights.append(self._take(weight))
        self._biases.append(None if bias is None else self._take(bias))
        self._widths.append(weight.shape[0])

    def _take(self, tensor: Any) -> int:
        name, place = self._places.get(id(tensor), ("", -1))
        if place < 0:
            raise _Unrecognised("the weights of a Linear layer are computed, or not trained")
        if id(tensor) in self._used:
            raise _Unrecognised(f"its parameter {name} is used twice")
        self._used.add(id(tensor))
        return place

    def _layer(self, node: fx.Node, kind: Any) -> tuple[Any, Any] | None:
        """Return the weight and the bias of a Linear layer."""
        if type(kind) is nn.Linear:
            return kind.weight, kind.bias
        if kind is not functional.linear:
            return None
        given: dict[str, Any] = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | dict(node.kwargs)
        bias = given.get("bias")
        return self._attributes.get(given["weight"]), None if bias is None else self._attributes.get(bias)

    def _activation(self, node: fx.Node, kind: Any) -> str | None:
        if node.op == "call_module":
            return _MODULES.get(type(kind))
        return _METHODS.get(kind) if node.op == "call_method" else _FUNCTIONS.get(kind)

    def _is_without_effect(self, node: fx.Node, kind: Any) -> bool:
        """Return whether the node returns its input, at most in another shape after the last layer."""
        if not node.args or node.args[0] is not self._last:
            return False
        if type(kind) is nn.Identity or (type(kind) is nn.Dropout and (kind.p == 0 or not kind.training)):
            return True
        if kind is functional.dropout:
            given: dict[str, Any] = dict(zip(("input", "p", "training"), node.args, strict=False)) | dict(node.kwargs)
            return bool(given.get("p", 0.5) == 0 or given.get("training", True) is False)
        if type(kind) is nn.Flatten and (kind.start_dim, kind.end_dim) == (1, -1):
            return True
        if self._keeps_rows(node, kind):
            return True
        name = kind if node.op == "call_method" else getattr(kind, "__name__", "")
        reshapes = type(kind) is nn.Flatten or (
            name in _RESHAPES and (node.op == "call_method" or getattr(torch, name, None) is kind)
        )
        if self._widths[-1] == 1 and self._weights and (reshapes or self._is_column(node, kind)):
            self._is_reshaped = True
            return True
        return False

    def _keeps_rows(self, node: fx.Node, kind: Any) -> bool:
        """Return whether the node gives (B, k) values the shape (B, k)."""
        rest = tuple(node.args[1:])
        if kind in (torch.flatten, "flatten"):
            start = rest[0] if rest else node.kwargs.get("start_dim")
            return bool(start == 1 and len(rest) < 2 and "end_dim" not in node.kwargs)
        if kind not in ("view", "reshape", torch.reshape) or node.kwargs:
            return False
        shape = tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
        if len(shape) != 2:
            return False
        rows, columns = shape
        if rows in self._sizes:
            return columns in (-1, self._widths[-1])
        return (rows, columns) == (-1, self._widths[-1])

    def _is_column(self, node: fx.Node, kind: Any) -> bool:
        """Return whether the node is outputs[:, 0] or outputs[..., 0]."""
        place = node.args[1] if kind is operator.getitem else None
        return place in ((slice(None), 0), (slice(None), -1), (..., 0), (..., -1))

    def _is_size(self, node: fx.Node) -> bool:
        """Return whether the node asks for a shape or the number of samples, and note it."""
        source = node.args[0] if node.args else None
        if source is self._last and node.target == "size" and node.op == "call_method":
            (self._sizes if node.args[1:] == (0,) or node.kwargs == {"dim": 0} else self._shapes).add(node)
            return not node.args[2:] and (len(node.args) == 1 or node in self._sizes)
        if source is self._last and node.target is getattr and node.args[1] == "shape":
            self._shapes.add(node)
            return True
        if node.target is operator.getitem and source in self._shapes and node.args[1] == 0:
            self._sizes.add(node)
            return True
        return False


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
    activations: list[Callable[[torch.Tensor], torch.Tensor]] = [_COMPUTED[name] for name in found.activations]
    for layer, (weight, bias) in enumerate(zip(found.weights, found.biases, strict=True)):
        inputs, units = found.widths[layer : layer + 2]
        matrix = flat[weight : weight + units * inputs].view(units, inputs)
        values = functional.linear(values, matrix, None if bias is None else flat[bias : bias + units])
        if layer < len(activations):
            values = activations[layer](values)
    return values.reshape(-1)


def _same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def _hooks(part: nn.Module) -> bool:
    of_module = (value for name, value in vars(part).items() if name.endswith("hooks") and "state_dict" not in name)
    return any(of_module) or any(getattr(p, "_backward_hooks", None) for p in part.parameters(recurse=False))
