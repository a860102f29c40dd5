"""clip(): torch.nn.utils' clip_grad_norm_ and clip_grad_value_ for a pack, each trial with limits of its own."""

from __future__ import annotations

import torch

Limits = tuple[torch.Tensor | None, torch.Tensor | None]  # (T, 1) largest norms and values, infinite without a limit


def clip(gradients: torch.Tensor, limits: Limits) -> torch.Tensor | None:
    """Clip (T, P) gradients in place; return (T,) whether that changed a trial's, None without limits."""
    norm, value = limits
    clipped = None
    if norm is not None:
        factor = torch.linalg.vector_norm(gradients, dim=1, keepdim=True).add_(1e-6).reciprocal_().mul_(norm)
        factor = factor.clamp_(max=1).masked_fill_(norm.isinf(), 1)
        gradients.mul_(factor)
        clipped = factor[:, 0] < 1
    if value is not None:
        beyond = (gradients.abs() > value).any(dim=1)
        gradients.clamp_(-value, value)
        clipped = beyond if clipped is None else clipped | beyond
    return clipped
