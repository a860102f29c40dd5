"""The update rule of torch.optim.SGD: one scalar function that every kernel compiles, and sgd() over tensors.

With g the gradient of the batch loss at p, step t = 0, 1, ...:

    g   <- -g                                     if maximize
    g   <- g + weight_decay p                     if weight_decay != 0
    buf <- g                                      if t = 0
    buf <- momentum buf + (1 - dampening) g       if t > 0
    d   <- g + momentum buf                       if nesterov, else buf; g itself if momentum = 0
    p   <- p - lr d

Source: torch/optim/sgd.py (``_single_tensor_sgd``). It differs from the textbook in three ways:

- the first buffer is the gradient itself, not scaled by (1 - dampening);
- the buffer is a decaying sum, not the exponential average momentum buf + (1 - momentum) g;
- lr multiplies the buffer when the step is taken, not the gradient when it enters the buffer (Sutskever et al.,
  On the importance of initialization and momentum in deep learning, 2013).

Rounding: torch's ``add(alpha=)`` is one fused multiply-add on CPUs with AVX2 or newer and on CUDA, its ``mul_`` is
a plain product. For torch's bits, a kernel calls :func:`update` with a true ``fma``, contracts nothing else, and
computes ``1 - dampening`` and ``-lr`` in double before casting them. Flags select instead of multiplying by zero,
because 0 * inf is nan.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def fma(a: float, b: float, c: float) -> float:
    """Return a * b + c; a placeholder for the kernel's fused multiply-add, see :func:`bind`."""
    return a * b + c


def select(condition: bool, yes: float, no: float) -> float:
    """Return ``yes`` if the condition holds, else ``no``; a placeholder for the kernel's select, see :func:`bind`."""
    return yes if condition else no


def update(
    param: float,
    gradient: float,
    momentum_buffer: float,
    is_first: bool,
    negative_lr: float,
    momentum: float,
    weight_decay: float,
    one_minus_dampening: float,
    has_momentum: bool,
    has_weight_decay: bool,
    nesterov: bool,
) -> tuple[float, float]:
    """Return one parameter and its momentum buffer after a step. Has no literals, so that any dtype is preserved."""
    gradient = select(has_weight_decay, fma(weight_decay, param, gradient), gradient)
    decayed = fma(one_minus_dampening, gradient, momentum * momentum_buffer)
    momentum_buffer = select(is_first, gradient, decayed)
    direction = select(nesterov, fma(momentum, momentum_buffer, gradient), momentum_buffer)
    direction = select(has_momentum, direction, gradient)
    return fma(negative_lr, direction, param), momentum_buffer


def bind(fma: Callable[..., Any], select: Callable[..., Any], **names: Any) -> FunctionType:
    """Return the code of :func:`update` bound to a kernel's own ``fma`` and ``select``.

    ``names``: other names that a compiler of the source text looks up, such as the types in annotations.
    """
    scope = {"__name__": __name__, "__builtins__": {}, "fma": fma, "select": select, **names}
    return FunctionType(update.__code__, scope, update.__name__)


def sgd(
    params: list[Tensor],
    d_p_list: list[Tensor],
    momentum_buffer_list: list[Tensor | None],
    *,
    weight_decay: float | Tensor,
    momentum: float,
    lr: float | Tensor,
    dampening: float,
    nesterov: bool,
    maximize: bool = False,
) -> None:
    """Update lists of tensors in place with functional SGD, by the rule at the top of this module.

    Args:
        params: parameters, updated in place.
        d_p_list: their gradients, same shapes; not modified.
        momentum_buffer_list: their buffers; ``None`` before a first step with momentum, then filled in place.
        weight_decay, momentum, lr, dampening, nesterov, maximize: as in torch.optim.SGD.

    Call it under ``torch.no_grad()`` if params require gradients, unless autograd has to follow the step.
    """
    import torch

    lr, weight_decay = (
        value.item() if isinstance(value, torch.Tensor) and not value.requires_grad else value
        for value in (lr, weight_decay)
    )
    for i, (param, gradient) in enumerate(zip(params, d_p_list, strict=True)):
        d_p = -gradient if maximize else gradient
        if isinstance(weight_decay, torch.Tensor):
            d_p = d_p.clone().addcmul_(param.clone(), weight_decay)
        elif weight_decay != 0:
            d_p = d_p.add(param, alpha=weight_decay)
        if momentum != 0:
            buffer = momentum_buffer_list[i]
            if buffer is None:
                buffer = d_p.detach().clone()
                momentum_buffer_list[i] = buffer
            else:
                buffer.mul_(momentum).add_(d_p, alpha=1 - dampening)
            d_p = d_p.add(buffer, alpha=momentum) if nesterov else buffer
        if isinstance(lr, torch.Tensor):
            param.addcmul_(d_p, lr.squeeze(), value=-1)
        else:
            param.add_(d_p, alpha=-lr)
