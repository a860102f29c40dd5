"""operations_of(): a module's traced graph as a list of known operations on (B, k) values."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from sgdcore.kernels.module_torch.graph import graph_of

Numbers = tuple[Any, ...]

_MODULES = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.SiLU: "silu"}
_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((torch.relu, torch.relu_, functional.relu, functional.relu_), "relu"),
    **dict.fromkeys((torch.tanh, torch.tanh_, functional.tanh), "tanh"),
    **dict.fromkeys((torch.sigmoid, torch.sigmoid_, functional.sigmoid), "sigmoid"),
    functional.silu: "silu",
}
_IN_PLACE = {torch.relu_, torch.tanh_, torch.sigmoid_, functional.relu_, "relu_", "tanh_", "sigmoid_"}
_METHODS = {name: name.rstrip("_") for name in ("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_")}
_ARITHMETIC: dict[Any, str] = {
    **dict.fromkeys((operator.add, torch.add, "add"), "add"),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), "mul"),
}
_RESHAPES = {"squeeze", "unsqueeze", "view", "reshape", "flatten", "contiguous"}  # of an output of one column


class Unknown(Exception):
    """The reason why a module's graph cannot be read."""


@dataclass(frozen=True)
class Operation:
    """An operation on values (B, k), each the result of an earlier operation, named by its index.

    Kinds: input; linear (weight, bias); layer_norm (weight, bias; eps); gelu (approximate), leaky_relu (slope), relu,
    tanh, sigmoid, silu; add, mul; cat; shift and scale (a number); reshape: an output of one column in another shape.
    """

    kind: str
    title: str  # as in error messages: its name in the graph, and what it is
    width: int  # k of its result
    inputs: tuple[int, ...] = ()
    tensors: tuple[torch.Tensor | None, ...] = ()
    numbers: Numbers = ()


def operations_of(module: nn.Module, width: int) -> list[Operation]:
    """Return a module's operations in order; the last one's result is the output.

    Raises:
        Untraceable: the module cannot be traced.
        Unknown: the graph has an operation of another kind.
    """
    if any(_hooks(part) for part in module.modules()):
        raise Unknown("it has hooks")
    reader = _Reader(module, width)
    for node in graph_of(module).nodes:
        reader.read(node)
    return reader.operations


class _Reader:
    def __init__(self, module: nn.Module, width: int) -> None:
        self._module, self._width = module, width
        self.operations: list[Operation] = []
        self._values: dict[Any, int] = {}  # the index of the operation that a node's value comes from
        self._users: dict[int, set[fx.Node]] = {}
        self._sizes: set[Any] = set()  # the nodes that hold the number of samples,
        self._shapes: set[Any] = set()  # and a shape
        self._attributes: dict[Any, Any] = {}

    def read(self, node: fx.Node) -> None:
        """Add the graph's next node.

        Raises:
            Unknown: it is not of a known kind.
        """
        if node.op == "placeholder":
            if self.operations:
                raise Unknown(f"its forward takes another argument, {node.target}")
            self._add(node, Operation("input", node.name, self._width))
        elif node.op == "get_attr":
            self._attributes[node] = operator.attrgetter(str(node.target))(self._module)
        elif node.op == "output":
            if self._values.get(node.args[0], -1) != len(self.operations) - 1:
                raise Unknown("its output is not that of its last operation")
        elif not self._is_size(node):
            self._operation(node)

    def _operation(self, node: fx.Node) -> None:
        kind: Any = self._module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        name = type(kind).__name__ if node.op == "call_module" else getattr(kind, "__name__", str(kind))
        title = f"node {node.name} ({name})"
        source = self._values.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if source is not None and self._is_without_effect(node, kind, self.operations[source]):
            self._values[node] = source
            return
        if source is not None and self.operations[source].width == 1 and self._is_reshape(node, kind):
            self._add(node, Operation("reshape", title, 1, (source,)))
            return
        found = self._parts(node, kind, title) or self._unary(node, kind, title, source)
        if found is None:
            raise Unknown(f"{title} is not a Linear layer or a known activation")
        if any(self.operations[index].kind == "reshape" for index in found.inputs):
            raise Unknown(f"{title} comes after the output was given another shape")
        in_place = kind in _IN_PLACE or getattr(kind, "inplace", False) or node.kwargs.get("inplace", False)
        if in_place and isinstance(node.args[0], fx.Node) and len(node.args[0].users) > 1:
            raise Unknown(f"{title} changes a value that is used elsewhere")
        self._add(node, found)

    def _add(self, node: fx.Node, found: Operation) -> None:
        self._values[node] = len(self.operations)
        self.operations.append(found)

    def _unary(self, node: fx.Node, kind: Any, title: str, source: int | None) -> Operation | None:
        """Return a layer or an activation."""
        if source is None:
            return None
        width = self.operations[source].width
        numbers: Numbers = ()
        tensors = self._linear(node, kind)
        if tensors is not None:
            weight = tensors[0]
            if weight is None or weight.ndim != 2:
                raise Unknown("the weights of a Linear layer are computed, or not trained")
            if weight.shape[1] != width:
                raise Unknown(f"{title} takes {weight.shape[1]} inputs, not {width}")
            return Operation("linear", title, weight.shape[0], (source,), tensors)
        if type(kind) is nn.LayerNorm and tuple(kind.normalized_shape) == (width,):
            return Operation("layer_norm", title, width, (source,), (kind.weight, kind.bias), (kind.eps,))
        if node.op == "call_module":
            activation = _MODULES.get(type(kind))
            if type(kind) is nn.GELU:
                activation, numbers = "gelu", (kind.approximate,)
            if type(kind) is nn.LeakyReLU:
                activation, numbers = "leaky_relu", (kind.negative_slope,)
        else:
            activation = _METHODS.get(kind) if node.op == "call_method" else _FUNCTIONS.get(kind)
            if kind is functional.gelu and len(node.args) == 1:
                activation, numbers = "gelu", (node.kwargs.get("approximate", "none"),)
        return Operation(activation, title, width, (source,), numbers=numbers) if activation else None

    def _parts(self, node: fx.Node, kind: Any, title: str) -> Operation | None:
        """Return a sum, product or concatenation."""
        if kind in (torch.cat, torch.concat):
            parts = node.args[0]
            across = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
            if across not in (1, -1) or not isinstance(parts, list | tuple):
                return None
            indices = [self._values.get(part, -1) for part in parts]
            if min(indices) < 0:
                return None
            return Operation("cat", title, sum(self.operations[i].width for i in indices), tuple(indices))
        arithmetic = _ARITHMETIC.get(kind)
        if arithmetic is None or len(node.args) != 2 or node.kwargs:
            return None
        one, other = node.args
        if isinstance(one, int | float):
            one, other = other, one
        if not isinstance(one, fx.Node) or one not in self._values:
            return None
        source = self._values[one]
        width = self.operations[source].width
        if isinstance(other, int | float) and not isinstance(other, bool):
            return Operation({"add": "shift", "mul": "scale"}[arithmetic], title, width, (source,), numbers=(other,))
        if other not in self._values or self.operations[self._values[other]].width != width:
            return None
        return Operation(arithmetic, title, width, (source, self._values[other]))

    def _linear(self, node: fx.Node, kind: Any) -> tuple[torch.Tensor | None, torch.Tensor | None] | None:
        """Return the weight and the bias of a Linear layer."""
        if type(kind) is nn.Linear:
            return kind.weight, kind.bias
        if kind is not functional.linear:
            return None
        given: dict[str, Any] = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | dict(node.kwargs)
        bias = given.get("bias")
        if bias is not None and bias not in self._attributes:
            raise Unknown("the bias of a Linear layer is computed")
        return self._attributes.get(given["weight"]), None if bias is None else self._attributes[bias]

    def _is_without_effect(self, node: fx.Node, kind: Any, source: Operation) -> bool:
        """Return whether the node returns its input."""
        if type(kind) is nn.Identity or (type(kind) is nn.Dropout and (kind.p == 0 or not kind.training)):
            return True
        if kind is functional.dropout:
            given: dict[str, Any] = dict(zip(("input", "p", "training"), node.args, strict=False)) | dict(node.kwargs)
            return bool(given.get("p", 0.5) == 0 or given.get("training", True) is False)
        if source.kind == "reshape":
            return False
        if type(kind) is nn.Flatten:
            return (kind.start_dim, kind.end_dim) == (1, -1)
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
        return columns in (-1, source.width) if rows in self._sizes else (rows, columns) == (-1, source.width)

    def _is_reshape(self, node: fx.Node, kind: Any) -> bool:
        """Return whether the node gives a column (B, 1) another shape."""
        if kind is operator.getitem:
            return node.args[1] in ((slice(None), 0), (slice(None), -1), (..., 0), (..., -1))
        name = kind if node.op == "call_method" else getattr(kind, "__name__", "")
        known = name in _RESHAPES and (node.op == "call_method" or getattr(torch, name, None) is kind)
        return type(kind) is nn.Flatten or known

    def _is_size(self, node: fx.Node) -> bool:
        """Return whether the node asks for a shape or the number of samples, and note it."""
        source: Any = node.args[0] if node.args else None
        if source in self._values and node.op == "call_method" and node.target == "size":
            if node.args[1:] == (0,) or dict(node.kwargs) == {"dim": 0}:
                self._sizes.add(node)
                return True
            self._shapes.add(node)
            return len(node.args) == 1 and not node.kwargs
        if source in self._values and node.target is getattr and node.args[1] == "shape":
            self._shapes.add(node)
            return True
        if node.target is operator.getitem and source in self._shapes and node.args[1] == 0:
            self._sizes.add(node)
            return True
        return False


def _hooks(part: nn.Module) -> bool:
    of_module = (value for name, value in vars(part).items() if name.endswith("hooks") and "state_dict" not in name)
    return any(of_module) or any(getattr(p, "_backward_hooks", None) for p in part.parameters(recurse=False))
