"""initialised(): modules as torch initialises them for a seed and a dtype, from any number of threads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from sgdcore.errors import InvalidTask

if TYPE_CHECKING:
    from sgdcore.tasks.models import Model

_GLOBAL = RLock()  # held by the one thread that uses torch's global random state or default dtype
_FLOATING = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.linspace, torch.logspace, torch.eye}


def initialised(model: Model, width: int, seed: int, dtype: str) -> torch.nn.Module:
    """Return the model's module as torch initialises it in this dtype after torch.manual_seed(seed).

    Random numbers come from a generator made for this call, and new tensors are given their dtype one by one: no other
    thread notices. Code of a user's own that seeds torch or reads the default dtype gets them from torch's global
    state, one thread at a time; the state is restored afterwards.
    """
    kind = getattr(torch, dtype)
    if not model.user_code or _stands_alone(model, width, kind):
        with _Making(seed, kind):
            return model.module(width).to(kind)
    with _global_state(seed, kind):
        return model.module(width).to(kind)


def initial_params(model: Model, width: int, seed: int, dtype: str) -> NDArray[np.float64]:
    """Return the (P,) parameters of :func:`initialised`."""
    parameters = [p.detach().flatten() for p in initialised(model, width, seed, dtype).parameters() if p.requires_grad]
    return torch.cat(parameters).numpy().astype(np.float64)


@contextmanager
def undrawn() -> Iterator[None]:
    """Take back what the code inside the context draws from torch's global generator."""
    with _GLOBAL:
        before = torch.get_rng_state()
        try:
            yield
        finally:
            if not torch.equal(torch.get_rng_state(), before):
                torch.set_rng_state(before)


class _Making(TorchFunctionMode):
    """Gives torch's functions, in this thread, the generator and the dtype that they are not called with."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in _FLOATING and given.get("dtype") is None:
            given["dtype"] = self.dtype
        if _takes_generator(func) and given.get("generator") is None:
            given["generator"] = self.generator
        return func(*args, **given)


@cache
def _takes_generator(func: Any) -> bool:
    if inspect.isfunction(func):
        return "generator" in inspect.signature(func).parameters
    packet: Any = getattr(torch.ops.aten, getattr(func, "__name__", ""), None)
    if not hasattr(packet, "op_overloads"):
        return False
    return any(argument.name == "generator" for one in packet.op_overloads() for argument in one._schema.arguments)


@lru_cache(maxsize=64)
def _stands_alone(model: Model, width: int, dtype: torch.dtype) -> bool:
    """Return whether making the module leaves torch's global generator alone and makes tensors of this dtype only."""
    with _global_state(0, torch.get_default_dtype()):
        torch.rand(1)  # no seed gives the state that follows
        before = torch.get_rng_state()
        try:
            with _Making(0, dtype):
                made = model.module(width).state_dict().values()
        except InvalidTask as error:
            if not isinstance(error.__cause__, TypeError):
                raise
            return False  # perhaps a function that does not take what it is given here
        alone = torch.equal(torch.get_rng_state(), before)
    return alone and {tensor.dtype for tensor in made if tensor.is_floating_point()} <= {dtype}


@contextmanager
def _global_state(seed: int, dtype: torch.dtype) -> Iterator[None]:
    """Seed torch and set its default dtype inside the context, in one thread at a time; then restore both."""
    with _GLOBAL, torch.random.fork_rng(devices=[]):
        before = torch.get_default_dtype()
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
