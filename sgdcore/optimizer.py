"""SGD: a drop-in replacement for torch.optim.SGD built on this package's rule; state_dicts load both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from sgdcore.errors import InvalidHyperparams
from sgdcore.rule import sgd


class SGD(Optimizer):
    """Stochastic gradient descent exactly as torch.optim.SGD does it; see sgdcore.rule for the formula.

    Args:
        params: tensors, or param groups that can override any of the following.
        lr: learning rate, a number or a one-element tensor.
        momentum: momentum factor.
        dampening: dampening of the momentum.
        weight_decay: L2 penalty.
        nesterov: Nesterov momentum; needs a momentum and zero dampening.
        maximize: maximize instead of minimize.
        foreach, fused: accepted as torch accepts them. They choose between torch's implementations of the rule; this
            class has one, with the bits of torch's loop over tensors.
        differentiable: let autograd follow step(), also to a tensor lr or weight_decay that requires a gradient.

    Gradients can be sparse, as in torch. A state_dict of torch's class loads here, and the other way round.

    Raises:
        InvalidHyperparams: (a ValueError) with torch's wording.
        RuntimeError: ``fused`` with ``foreach``, with ``differentiable``, with sparse gradients, or with parameters
            that are not floating-point numbers or have no memory (device "meta").

    Example:
        >>> optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> loss_fn(model(inputs), targets).backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise InvalidHyperparams("Tensor lr must be 1-element")
        for words, value in (
            ("learning rate", lr),
            ("momentum value", momentum),
            ("weight_decay value", weight_decay),
        ):
            if value < 0.0:
                raise InvalidHyperparams(f"Invalid {words}: {value}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise InvalidHyperparams("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)
        if fused and differentiable:
            raise RuntimeError("`fused` does not support `differentiable`")
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if fused:  # tells torch.amp.GradScaler to set grad_scale and found_inf, and to leave the rest to step()
            self._step_supports_amp_scaling = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Accept states saved before some of the settings existed, as torch does."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name in ("nesterov", "maximize", "differentiable", "fused"):
                group.setdefault(name, False)
            group.setdefault("foreach", None)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step on every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss, which step() returns in turn.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if getattr(self, "found_inf", False):
            return loss
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            for group in self.param_groups:
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        gradients: list[Tensor] = [p.grad for p in params if p.grad is not None]
        if group["fused"]:
            _check_fused(params, gradients)
        if (grad_scale := getattr(self, "grad_scale", None)) is not None:
            for gradient in gradients:
                gradient.div_(grad_scale.to(gradient.device))
        remembers = group["momentum"] != 0
        buffers: list[Tensor | None] = [self.state[p].get("momentum_buffer") if remembers else None for p in params]
        sgd(
            params,
            gradients,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
        if remembers:
            for param, buffer in zip(params, buffers, strict=True):
                self.state[param]["momentum_buffer"] = buffer


def _check_fused(params: list[Tensor], gradients: list[Tensor]) -> None:
    if not all(param.is_floating_point() and not param.is_meta for param in params):
        raise RuntimeError("`fused=True` requires all the params to be floating point Tensors on a real device")
    if any(gradient.is_sparse for gradient in gradients):
        raise RuntimeError("`fused=True` does not support sparse gradients")
