"""graph_of(): what a module computes, as torch.fx traces it."""

from __future__ import annotations

import threading
from typing import Any

from torch import fx, nn

from sgdcore.tasks.initialisation import undrawn


class Untraceable(Exception):
    """The reason why a module cannot be traced."""


def graph_of(module: nn.Module) -> fx.Graph:
    """Return the graph of a module's forward; the modules of torch.nn are its nodes.

    Raises:
        Untraceable: its forward depends on values, or does what torch.fx cannot follow.
    """
    try:
        with undrawn():
            return _Tracer().trace(module)
    except Exception as error:  # a forward can do anything
        line = str(error).strip().partition("\n")[0]
        raise Untraceable(f"its forward cannot be traced by torch.fx: {line or type(error).__name__}") from error


class _Tracer(fx.Tracer):
    """torch.fx's tracer. Modules that other threads call meanwhile are left alone."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: Any, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)
