"""Modules that tests name as package.module:callable; each is an example of a kind that works or is rejected."""

import functools
import os
from pathlib import Path  # noqa: F401 - a test names an imported object

import torch
from torch import nn
from torch.nn import functional


def small(hidden: int = 3, activation: str = "Tanh") -> nn.Module:
    return nn.Sequential(nn.Linear(2, hidden), getattr(nn, activation)(), nn.Linear(hidden, 1))


def normalised(layer: str = "LayerNorm", inputs: int = 2, **arguments) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 4), getattr(nn, layer)(4, **arguments), nn.ReLU(), nn.Linear(4, 1))


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


class Written(nn.Module):
    """A perceptron as a forward of its own, whose layers are made in another order than they are used."""

    def __init__(self, inputs: int = 2, activations: tuple[str, str] = ("relu", "relu"), bias: bool = True) -> None:
        super().__init__()
        self.activations = activations
        self.output = nn.Linear(4, 1, bias=bias)
        self.last = nn.Linear(6, 4)
        self.first = nn.Linear(inputs, 6, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, last = (getattr(torch, name) for name in self.activations)
        x = first(self.first(x.view(x.shape[0], -1)))
        x = functional.dropout(last(self.last(x)), 0.0, self.training)
        return self.output(x).squeeze(-1)


def nested(inputs: int = 2, activation: str = "SiLU") -> nn.Module:
    kind = getattr(nn, activation)
    hidden = nn.Sequential(nn.Linear(inputs, 5), kind(), nn.Dropout(0.0))
    return nn.Sequential(nn.Flatten(), nn.Identity(), hidden, nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)))


class Skipping(nn.Module):
    """A layer whose result is added to its input."""

    def __init__(self, inputs: int = 2, units: int = 4) -> None:
        super().__init__()
        self.first, self.second, self.output = nn.Linear(inputs, units), nn.Linear(units, units), nn.Linear(units, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.output(x + torch.relu(self.second(x)))


class Varied(nn.Module):
    """Every operation that the torch kernel batches, with values that are used more than once."""

    def __init__(self, inputs: int = 2, units: int = 5) -> None:
        super().__init__()
        self.before, self.first = nn.LayerNorm(inputs), nn.Linear(inputs, units)
        self.norm = nn.LayerNorm(units, bias=False)
        self.second = nn.Linear(units + inputs, units, bias=False)
        self.plain_norm = nn.LayerNorm(units, elementwise_affine=False)
        self.frozen = nn.Linear(units, units).requires_grad_(False)
        self.leaky, self.output = nn.LeakyReLU(0.1), nn.Linear(units, 1)
        with torch.no_grad():
            for p in self.frozen.parameters():
                p.fill_(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = functional.gelu(self.norm(self.first(self.before(x))))
        g = torch.relu(self.plain_norm(self.second(torch.cat([h, x], dim=-1)))) + 0.5 * h
        g = functional.silu(g) * torch.sigmoid(h) + 1
        g = torch.tanh(self.frozen(g)) + g
        return torch.tanh(self.output(g * g + self.leaky(h)))[:, 0]


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
