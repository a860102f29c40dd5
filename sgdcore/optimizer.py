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

    torch's ``foreach``, ``fused`` and ``differentiable`` choose between implementations of the same rule and are not
    offered here. A state_dict that contains them still loads, and torch loads what this class saves.

    Raises:
        InvalidHyperparams: (a ValueError) with torch's wording.
        RuntimeError: at step(), for sparse gradients.

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
            # keys that torch.optim.SGD expects in a group when it loads this state
            "foreach": None,
            "differentiable": False,
            "fused": None,
        }
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Accept states saved before nesterov and maximize existed, as torch does."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("nesterov", False)
            group.setdefault("maximize", False)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step on every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss, which step() returns in turn.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        gradients: list[Tensor] = [p.grad for p in params if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise RuntimeError("sgdcore.SGD does not support sparse gradients; make them dense with .to_dense()")
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
