"""Modules that tests name as package.module:callable; each is an example of a kind that works or is rejected."""

import functools
import os
from pathlib import Path  # noqa: F401 - a test names an imported object

import torch
from torch import nn


def small(hidden: int = 3, activation: str = "Tanh") -> nn.Module:
    return nn.Sequential(nn.Linear(2, hidden), getattr(nn, activation)(), nn.Linear(hidden, 1))


def normalised(layer: str = "LayerNorm", **arguments) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), getattr(nn, layer)(4, **arguments), nn.ReLU(), nn.Linear(4, 1))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1))


class Frozen(nn.Module):
    """Statistics that must not change, and a dropout that is switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout, self.linear = nn.BatchNorm1d(2), nn.Dropout(0.5), nn.Linear(2, 1)
        self.norm.running_mean.fill_(0.2)
        self.norm.eval().requires_grad_(False)
        self.dropout.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.dropout(self.norm(x)))


class Scaled(nn.Module):
    """A parameter that is a single number without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(2, 1), nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.scale


class Fourier(nn.Module):
    """Fixed features in a buffer, from a fixed seed or from the trial's; its output is (B,)."""

    def __init__(self, fixed: bool = True) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if fixed else None
        self.register_buffer("frequencies", torch.randn(2, 5, generator=generator))
        self.head = nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.sin(x @ self.frequencies))[:, 0]


class Tied(nn.Module):
    """One weight used in two places, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.full((1, 2), 0.5), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.second(torch.tanh(self.first(x))) * self.scale).sum(1, keepdim=True)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def two_outputs() -> nn.Module:
    return nn.Linear(2, 2)


def nothing_to_train() -> nn.Module:
    return nn.Flatten()


def not_a_module() -> int:
    return 3


class Small(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)

    @classmethod
    def of(cls) -> "Small":
        return cls()


class Maker:
    def __call__(self) -> nn.Module:
        return small()


half = functools.partial(small, hidden=2)
made = functools.partial(Small)
cached = functools.cache(small)
maker = Maker()
remove = functools.partial(os.remove, "nothing")


class Unevaluated(nn.Module):
    """Trains, but raises in evaluation mode, where the curves are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            raise RuntimeError("no evaluation today:\nask again tomorrow")
        return self.linear(x)
