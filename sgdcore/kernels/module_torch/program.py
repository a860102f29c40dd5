"""Program: a module of known operations for a pack of trials: forward and backward, into memory allocated once.

Values are (T, B, k), parameters views of (T, P) rows. Operations write their results and gradients in place; products
are batched over the trials. Nothing is allocated in a step but what torch's own functions need inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sgdcore.kernels.module_torch.operations import Operation

aten = torch.ops.aten
Run = Callable[[], object]

# By kind: the forward function with a buffer for its result; the derivative's with (dy, x or y, numbers, buffer).
_FORWARD: dict[str, Callable[..., Any]] = {
    "relu": lambda x, y: torch.clamp_min(x, 0, out=y),
    "tanh": lambda x, y: torch.tanh(x, out=y),
    "sigmoid": lambda x, y: torch.sigmoid(x, out=y),
    "silu": lambda x, y: aten.silu.out(x, out=y),
    "gelu": lambda x, y, form: aten.gelu.out(x, approximate=form, out=y),
    "leaky_relu": lambda x, y, slope: aten.leaky_relu.out(x, slope, out=y),
    "shift": lambda x, y, number: torch.add(x, number, out=y),
    "scale": lambda x, y, number: torch.mul(x, number, out=y),
}
_BACKWARD: dict[str, Callable[..., Any]] = {
    "relu": lambda dy, y, dx: aten.threshold_backward.grad_input(dy, y, 0, grad_input=dx),
    "tanh": lambda dy, y, dx: aten.tanh_backward.grad_input(dy, y, grad_input=dx),
    "sigmoid": lambda dy, y, dx: aten.sigmoid_backward.grad_input(dy, y, grad_input=dx),
    "silu": lambda dy, x, dx: aten.silu_backward.grad_input(dy, x, grad_input=dx),
    "gelu": lambda dy, x, dx, form: aten.gelu_backward.grad_input(dy, x, approximate=form, grad_input=dx),
    "leaky_relu": lambda dy, x, dx, slope: aten.leaky_relu_backward.grad_input(dy, x, slope, False, grad_input=dx),
    "shift": lambda dy, x, dx, number: dx if dx is dy else dx.copy_(dy),
    "scale": lambda dy, x, dx, number: torch.mul(dy, number, out=dx),
}
_OF_RESULTS = ("relu", "tanh", "sigmoid")  # kinds whose derivative is computed from the result,
_OF_INPUTS = ("silu", "gelu", "leaky_relu")  # and from the input


class Program:
    """The buffers and the steps of a pack of T trials for batches of one shape.

    Args:
        operations: a module's; the last one has one column.
        places: the place of each trained tensor's first element among a trial's parameters, by id().
        params: (T, P), read at every call.
        samples: (B, k) or (T, B, k) like the features of the batches.
        differentiates: whether gradients are wanted.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        places: dict[int, int],
        params: torch.Tensor,
        samples: torch.Tensor,
        *,
        differentiates: bool,
    ) -> None:
        """Allocate the buffers."""
        self._operations, self._places, self._params = operations, places, params
        self.features = torch.empty_like(samples)
        shared = self.features if samples.ndim == 3 else self.features.expand(len(params), *samples.shape)
        self._shape = shared.shape[:2]
        self._uses = Counter(index for operation in operations for index in operation.inputs)
        self._values, self._scratches = [shared], dict[int, torch.Tensor]()
        for operation in operations[1:]:
            self._values.append(self._room(operation))
        self._norms: dict[int, tuple[torch.Tensor, ...]] = {}
        self._forward = [run for index in range(1, len(operations)) for run in self._forwards(index)]
        self._backward: list[Run] = []
        if differentiates:
            self._gradients = torch.zeros_like(params)
            self._slopes = self._rooms_for_slopes()
            self._written = {len(operations) - 1}  # values whose slopes hold a part of their sum
            self._backward = [run for index in range(len(operations) - 1, 0, -1) for run in self._backwards(index)]

    def outputs(self) -> torch.Tensor:
        """Return (T, B) outputs for ``features``, which the next call overwrites."""
        for run in self._forward:
            run()
        return self._values[-1].view(self._shape)

    def slopes(self) -> torch.Tensor:
        """Return the (T, B) buffer for the derivatives by the outputs."""
        return self._slopes[-1].view(self._shape)

    def gradients(self) -> torch.Tensor:
        """Return the (T, P) gradients for the derivatives in ``slopes``; the next call overwrites them."""
        for run in self._backward:
            run()
        return self._gradients

    def _new(self, width: int) -> torch.Tensor:
        return self._params.new_empty((*self._shape, width))

    def _scratch(self, width: int) -> torch.Tensor:
        """Return a buffer whose content lasts no longer than an operation."""
        if width not in self._scratches:
            self._scratches[width] = self._new(width)
        return self._scratches[width]

    def _room(self, operation: Operation) -> torch.Tensor:
        """Return the buffer of an operation's result: its input's, if nothing else needs that."""
        source = operation.inputs[0]
        from_kept = source == 0 or self._operations[source].kind in _OF_RESULTS
        in_place = operation.kind == "reshape" or (operation.kind in _FORWARD and operation.kind not in _OF_INPUTS)
        if in_place and self._uses[source] == 1 and not from_kept:
            return self._values[source]
        return self._new(operation.width)

    def _rooms_for_slopes(self) -> list[torch.Tensor]:
        """Return a buffer for the derivative by each value, used twice where one operation takes the value.

        An activation's derivative overwrites that by its result; a normalisation's overwrites its input.
        """
        slopes = [self._params] * len(self._operations)  # the input's is not used
        for index in range(len(slopes) - 1, 0, -1):
            own = self._operations[index]
            takers = [taker for taker, operation in enumerate(self._operations) if index in operation.inputs]
            by = self._operations[takers[0]].kind if len(takers) == 1 and self._uses[index] == 1 else ""
            if by in (*_FORWARD, "reshape"):
                slopes[index] = slopes[takers[0]]
            elif by == "layer_norm" and own.kind == "linear":
                slopes[index] = self._values[index]
            else:
                slopes[index] = self._new(own.width)
        return slopes

    def _parameter(self, tensor: torch.Tensor | None, of: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Return a trained tensor's view (T, *shape) of (T, P) rows; None if it is not trained."""
        place = self._places.get(id(tensor))
        if tensor is None or place is None:
            return None
        return of[:, place : place + tensor.numel()].view(len(of), *shape)

    def _tensor(self, tensor: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Return (T, *shape) values of a tensor, trained or not."""
        if tensor is None:
            return None
        found = self._parameter(tensor, self._params, shape)
        return tensor.detach().view(shape).expand(len(self._params), *shape) if found is None else found

    def _forwards(self, index: int) -> list[Run]:
        operation, y = self._operations[index], self._values[index]
        kind, sources = operation.kind, [self._values[i] for i in operation.inputs]
        x = sources[0]
        if kind == "linear":
            return self._linear(operation, x, y)
        if kind == "layer_norm":
            return self._layer_norm(index, x, y)
        if kind == "reshape":
            return [] if x is y else [lambda: y.copy_(x)]
        if kind == "add":
            return [lambda: torch.add(x, sources[1], out=y)]
        if kind == "mul":
            return [lambda: torch.mul(x, sources[1], out=y)]
        if kind == "cat":
            return [lambda: torch.cat(sources, 2, out=y)]
        function, numbers = _FORWARD[kind], operation.numbers
        return [lambda: function(x, y, *numbers)]

    def _backwards(self, index: int) -> list[Run]:
        operation, dy = self._operations[index], self._slopes[index]
        kind, inputs = operation.kind, operation.inputs
        if index not in self._written:
            return []  # the output does not depend on it
        if kind == "linear":
            return self._linear_backward(operation, dy)
        if kind == "layer_norm":
            return self._layer_norm_backward(index, dy)
        if kind == "cat":
            parts = torch.split(dy, [self._operations[i].width for i in inputs], 2)
            return [run for i, part in zip(inputs, parts, strict=True) for run in self._copied(i, part)]
        if kind in ("add", "reshape"):
            return [run for i in inputs for run in self._copied(i, dy)]
        if kind == "mul":
            x, y = (self._values[i] for i in inputs)
            by_x = self._pass_on(inputs[0], lambda to: torch.mul(dy, y, out=to))
            return [*by_x, *self._pass_on(inputs[1], lambda to: torch.mul(dy, x, out=to))]
        kept = self._values[index if kind in _OF_RESULTS else inputs[0]]
        function, numbers = _BACKWARD[kind], operation.numbers
        return self._pass_on(inputs[0], lambda to: function(dy, kept, to, *numbers))

    def _copied(self, index: int, part: torch.Tensor) -> list[Run]:
        return self._pass_on(index, lambda to: to if to is part else to.copy_(part))

    def _pass_on(self, index: int, write: Callable[[torch.Tensor], object]) -> list[Run]:
        """Return what writes a part of the derivative by a value, or adds it to the other parts."""
        if index == 0:
            return []
        to, adds = self._slopes[index], index in self._written
        self._written.add(index)
        if not adds:
            return [lambda: write(to)]
        part = self._scratch(to.shape[2])
        return [lambda: write(part), lambda: to.add_(part)]

    def _linear(self, operation: Operation, x: torch.Tensor, y: torch.Tensor) -> list[Run]:
        weight, bias = operation.tensors
        assert weight is not None
        matrix = self._tensor(weight, tuple(weight.shape))
        offsets = self._tensor(bias, (1, operation.width))
        assert matrix is not None
        if operation.width == 1:  # a product with a row is faster than one with a column
            row, columns = y.transpose(1, 2), x.transpose(1, 2)
            runs: list[Run] = [lambda: torch.bmm(matrix, columns, out=row)]
            return runs if offsets is None else [*runs, lambda: y.add_(offsets)]
        transposed = matrix.transpose(1, 2)
        if offsets is None:
            return [lambda: torch.bmm(x, transposed, out=y)]
        return [lambda: torch.baddbmm(offsets, x, transposed, out=y)]

    def _linear_backward(self, operation: Operation, dy: torch.Tensor) -> list[Run]:
        weight, bias = operation.tensors
        assert weight is not None
        shape, x = tuple(weight.shape), self._values[operation.inputs[0]]
        runs: list[Run] = []
        gradient = self._parameter(weight, self._gradients, shape)
        if gradient is not None:  # a product into rows that are not adjacent takes twice as long
            columns, product = dy.transpose(1, 2), dy.new_empty(gradient.shape)
            runs += [lambda: torch.bmm(columns, x, out=product), lambda: gradient.copy_(product)]
        of_bias = self._parameter(bias, self._gradients, (operation.width,))
        if of_bias is not None:
            runs.append(lambda: torch.sum(dy, 1, out=of_bias))
        matrix = self._tensor(weight, shape)
        assert matrix is not None
        product_of = torch.mul if operation.width == 1 else torch.bmm
        return [*runs, *self._pass_on(operation.inputs[0], lambda to: product_of(dy, matrix, out=to))]

    def _layer_norm(self, index: int, given: torch.Tensor, y: torch.Tensor) -> list[Run]:
        """Normalise: torch's own function takes twice as long for rows of a hundred numbers."""
        operation = self._operations[index]
        width, eps = operation.width, operation.numbers[0]
        factors, offsets = (self._tensor(tensor, (1, width)) for tensor in operation.tensors)
        x = given if given.is_contiguous() else self._new(width)
        scaled = y if factors is None else self._new(width)
        squares, mean, scale = self._scratch(width), self._new(1), self._new(1)
        self._norms[index] = x, scaled, mean, scale
        shares = x.new_full((width,), 1 / width)
        runs: list[Run] = [] if x is given else [lambda: x.copy_(given)]
        runs += [
            lambda: torch.mv(x.view(-1, width), shares, out=mean.view(-1)),
            lambda: torch.sub(x, mean, out=scaled),
            lambda: torch.mul(scaled, scaled, out=squares),
            lambda: torch.mv(squares.view(-1, width), shares, out=scale.view(-1)),
            lambda: scale.add_(eps).rsqrt_(),
            lambda: scaled.mul_(scale),
        ]
        if factors is None:
            return runs
        if offsets is None:
            return [*runs, lambda: torch.mul(scaled, factors, out=y)]
        return [*runs, lambda: torch.addcmul(offsets, scaled, factors, out=y)]

    def _layer_norm_backward(self, index: int, dy: torch.Tensor) -> list[Run]:
        operation = self._operations[index]
        weight, bias = operation.tensors
        x, scaled, mean, scale = self._norms[index]
        runs: list[Run] = []
        part, shape = self._scratch(operation.width), (operation.width,)
        of_weight = self._parameter(weight, self._gradients, shape)
        if of_weight is not None:
            runs += [lambda: torch.mul(dy, scaled, out=part), lambda: torch.sum(part, 1, out=of_weight)]
        of_bias = self._parameter(bias, self._gradients, shape)
        if of_bias is not None:
            runs.append(lambda: torch.sum(dy, 1, out=of_bias))
        factors, inner = self._tensor(weight, (1, operation.width)), dy
        if factors is not None:
            inner = part
            runs.append(lambda: torch.mul(dy, factors, out=part))

        def write(to: torch.Tensor) -> object:
            only = [True, False, False]
            return to.copy_(aten.native_layer_norm_backward(inner, x, shape, mean, scale, None, None, only)[0])

        return [*runs, *self._pass_on(operation.inputs[0], write)]
