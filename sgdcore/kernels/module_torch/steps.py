"""Steps of a pack: gradients, clipping and the update rule, by torch.func or by programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sgdcore import rule
from sgdcore.errors import KernelUnavailable
from sgdcore.kernels.module_torch.batched import Programs
from sgdcore.kernels.module_torch.clipping import Limits, clip
from sgdcore.kernels.module_torch.columns import select
from sgdcore.kernels.module_torch.functional import LossFunction, Network, gradients

Stepped = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
# From parameters, buffers, running trials (None: all), columns, limits, features and targets to parameters, buffers and
# the trials whose gradients were clipped.
Step = Callable[..., Stepped]

_update = rule.bind(fma=lambda a, b, c: torch.addcmul(c, a, b), select=select)
# Every sum overwrites its last argument: the gradients, the decayed buffers and the parameters.
_update_in_place = rule.bind(fma=lambda a, b, c: c.addcmul_(a, b), select=select)


def functional_step(net: Network, loss: LossFunction, own_samples: bool, is_first: bool, compiled: bool) -> Step:
    """Return the function that takes one step of a pack; a compiled one is recompiled for every new shape."""
    gradient = gradients(net, loss, own_samples)
    of_batch = gradient.function if compiled else gradient

    def step(
        params: torch.Tensor,
        buffers: torch.Tensor,
        running: torch.Tensor | None,
        columns: tuple[Any, ...],
        limits: Limits,
        features: torch.Tensor,
        targets: torch.Tensor,
    ) -> Stepped:
        change = of_batch(params, features, targets)
        clipped = clip(change, limits)
        new, momentum = _update(params, change, buffers, is_first, *columns)
        if running is not None:
            moves = running[:, None]
            new, momentum = torch.where(moves, new, params), torch.where(moves, momentum, buffers)
        return new, momentum, clipped

    return _compiled(step) if compiled else _without_gradients(step)


def program_step(programs: Programs, is_first: bool) -> Step:
    """Return the function that takes one step of a pack in place, with the gradients that programs compute."""

    def step(
        params: torch.Tensor,
        buffers: torch.Tensor,
        running: torch.Tensor | None,
        columns: tuple[Any, ...],
        limits: Limits,
        features: torch.Tensor,
        targets: torch.Tensor,
    ) -> Stepped:
        stopped = None if running is None else (~running).nonzero()[:, 0]
        before = None if stopped is None else (params[stopped], buffers[stopped])
        change = programs.gradients(features, targets)
        clipped = clip(change, limits)
        _, _, _, _, has_momentum, has_weight_decay, _ = columns
        in_place = not is_first and isinstance(has_momentum, bool) and isinstance(has_weight_decay, bool)
        update = _update_in_place if in_place else _update
        new, momentum = update(params, change, buffers, is_first, *columns)
        if momentum is change:
            momentum = momentum.clone()  # the next step overwrites the gradients
        if stopped is not None and before is not None:
            for values, kept in zip((new, momentum), before, strict=True):
                values.index_copy_(0, stopped, kept)
        return new, momentum, clipped

    return _without_gradients(step)


def _without_gradients(step: Step) -> Step:
    return torch.no_grad()(step)  # type: ignore[no-untyped-call, no-any-return, unused-ignore]


def _compiled(step: Step) -> Step:
    made: Step = torch.compile(step, dynamic=False)

    def run(*arguments: Any) -> Stepped:
        try:
            with torch.no_grad():
                return made(*arguments)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise KernelUnavailable(f"torch.compile failed: {reason}; set compile: false to run without it") from error

    return run
