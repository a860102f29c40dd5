"""Traced: a torch function that is recorded as a graph once it has been called often enough with the same shapes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from threading import Lock

import torch

_PLAIN_CALLS = 60  # calls that take about as long as recording,
_FIRST_CALLS = 600  # and as importing torch's compiler, which recording does

Function = Callable[..., torch.Tensor]

_recording = Lock()  # one thread at a time: torch keeps what it records in global state


class Traced:
    """A function of tensors that runs the same operations whenever the shapes are the same.

    torch.func rebuilds its layers in Python at every call, which for small networks takes longer than the arithmetic.
    A graph has the operations alone, in the same order, and returns the same bits.
    """

    def __init__(self, function: Function) -> None:
        """Wrap the function; nothing is recorded yet."""
        self.function = function
        self._calls: Counter[tuple[torch.Size, ...]] = Counter()
        self._graphs: dict[tuple[torch.Size, ...], Function] = {}

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return the function's result; gradients are not tracked."""
        shapes = tuple(tensor.shape for tensor in tensors)
        self._calls[shapes] += 1
        with torch.no_grad():
            enough = _PLAIN_CALLS if "torch._dynamo" in sys.modules else _FIRST_CALLS
            if self._calls[shapes] >= enough and shapes not in self._graphs:
                self._graphs[shapes] = self._record(*tensors)
            return self._graphs.get(shapes, self.function)(*tensors)

    def _record(self, *tensors: torch.Tensor) -> Function:
        """Return the graph, or the function itself if it cannot be recorded or the graph returns something else."""
        from torch.fx.experimental.proxy_tensor import make_fx

        expected = self.function(*tensors)
        try:
            with _recording:
                graph: Function = make_fx(self.function)(*tensors)
            same = torch.equal(torch.nan_to_num(graph(*tensors)), torch.nan_to_num(expected))
        except Exception:  # noqa: BLE001 - a user's module can do what a graph cannot; it runs as before
            return self.function
        return graph if same else self.function
