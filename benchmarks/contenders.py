"""The contenders of ``benchmarks.engine``: the workload, and torch.optim.SGD's rule in sgdcore, torch and torch.optim.

Every contender applies the whole rule: all five hyperparameters differ from trial to trial. Trials without momentum
have no dampening (it would have no effect), so that no contender has to treat them separately. This module neither
times nor prints. A contender's arrays are prepared and its code is compiled before it is timed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import sgdcore
from sgdcore.tasks.datasets import line

Floats = NDArray[np.float32]

LOOP_TRIALS = 2  # for the torch.optim loop
CORES = len(os.sched_getaffinity(0))


class BenchmarkError(Exception):
    """The contenders cannot be compared. The message says why, in one line; ``code`` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Workload:
    """The trials that every contender runs."""

    lr: Floats
    momentum: Floats
    weight_decay: Floats
    dampening: Floats
    nesterov: NDArray[np.bool_]
    x: Floats
    y: Floats
    steps: int

    @classmethod
    def of(cls, trials: int, steps: int) -> Workload:
        """Return random hyperparameters, none of which diverges."""
        rng, dataset = np.random.default_rng(0), line()
        ends = {"lr": (0.001, 0.004), "momentum": (0.0, 0.9), "weight_decay": (0.0, 0.05), "dampening": (0.0, 0.5)}
        # Rounded to float32 here, so that all contenders use the same numbers.
        columns = {name: rng.uniform(low, high, trials).astype(np.float32) for name, (low, high) in ends.items()}
        nesterov = rng.random(trials) < 0.3
        columns["momentum"][~nesterov & (rng.random(trials) < 0.1)] = 0
        columns["dampening"][nesterov | (columns["momentum"] == 0)] = 0
        x, y = dataset.inputs[:, 0].astype(np.float32), dataset.targets.astype(np.float32)
        return cls(**columns, nesterov=nesterov, x=x, y=y, steps=steps)

    @property
    def trials(self) -> int:
        """The number of trials T."""
        return len(self.lr)

    @property
    def recorded_points(self) -> int:
        """The number of points of the default recording."""
        return len(sgdcore.Recording().steps(0, self.steps))

    def columns(self) -> tuple[Floats, Floats, Floats, Floats, NDArray[np.bool_]]:
        """Return lr, momentum, weight_decay, 1 - dampening, nesterov."""
        return self.lr, self.momentum, self.weight_decay, 1 - self.dampening, self.nesterov


@dataclass(frozen=True)
class Contender:
    """A row of the table: ``run`` takes ``trial_steps`` trial-steps, ``result`` converts its return value to (2, n)."""

    name: str
    trial_steps: int
    run: Callable[[], Any]
    result: Callable[[Any], Floats] = np.asarray


def apply_rule(param: Any, gradient: Any, buffer: Any, columns: Sequence[Any], where: Callable[..., Any]) -> Any:
    """Return the parameter and its momentum buffer after a step of torch.optim.SGD, in any library's arrays.

    ``columns`` are lr, momentum, weight_decay, 1 - dampening and nesterov; ``buffer`` is None at the first step.
    """
    lr, momentum, decay, undamped, nesterov = columns
    gradient = gradient + decay * param
    buffer = gradient if buffer is None else momentum * buffer + undamped * gradient
    return param - lr * where(nesterov, gradient + momentum * buffer, buffer), buffer


def sgdcore_contenders(prepared: Workload) -> Iterator[Contender]:
    """Yield sgdcore.train, recording the ends only, and 64 points."""
    task = sgdcore.Task(line())
    hyperparams = sgdcore.Hyperparams(
        prepared.lr, prepared.momentum, prepared.weight_decay, prepared.dampening, prepared.nesterov
    )
    for recording in (sgdcore.Recording(points=0), sgdcore.Recording()):

        def run(recording: sgdcore.Recording = recording) -> sgdcore.Trajectories:
            return sgdcore.train(task, hyperparams, epochs=prepared.steps // 5, start=[0.0, 0.0], record=recording)

        name = f"sgdcore, {recording.points} points"
        yield Contender(name, prepared.trials * prepared.steps, run, lambda trajectories: trajectories.params.T)


def batched_torch(prepared: Workload, device: str = "cpu") -> Iterator[Contender]:
    """Yield all trials in tensors: the rule as torch.optim writes it, and hand-optimised into in-place operations."""
    columns = tuple(torch.from_numpy(column).to(device) for column in prepared.columns())
    lr, momentum, decay, undamped, nesterov = columns
    samples = list(zip(map(float, prepared.x), map(float, prepared.y), strict=True))
    epochs = range(prepared.steps // 5)

    @torch.no_grad()
    def plain() -> torch.Tensor:
        w, b, buffer_w, buffer_b = *torch.zeros(2, prepared.trials, device=device), None, None
        for _, (x, y) in itertools.product(epochs, samples):
            slope = 2 * (w * x + b - y)
            w, buffer_w = apply_rule(w, slope * x, buffer_w, columns, torch.where)
            b, buffer_b = apply_rule(b, slope, buffer_b, columns, torch.where)
        return torch.stack([w, b]).cpu()

    yield Contender("torch, batched", prepared.trials * prepared.steps, plain)

    scales = torch.from_numpy(np.stack([2 * prepared.x, np.full_like(prepared.x, 2)])).to(device)
    by_gradient, by_buffer = -lr * nesterov, -lr * torch.where(nesterov, momentum, 1.0)

    @torch.no_grad()
    def rearranged() -> torch.Tensor:
        params, buffers, gradients = (torch.zeros(2, prepared.trials, device=device) for _ in range(3))
        residuals, keep = torch.empty_like(lr), torch.ones_like(lr)
        for _, (i, (x, y)) in itertools.product(epochs, enumerate(samples)):
            torch.add(params[1], params[0], alpha=x, out=residuals).sub_(y)
            torch.mul(residuals, scales[:, i : i + 1], out=gradients).addcmul_(params, decay)
            buffers.mul_(momentum).addcmul_(gradients, keep)
            params.addcmul_(gradients, by_gradient).addcmul_(buffers, by_buffer)
            keep = undamped
        return params.cpu()

    yield Contender("torch, batched, in place by hand", prepared.trials * prepared.steps, rearranged)


def torch_optim(prepared: Workload, device: str = "cpu") -> Contender:
    """Return torch.optim.SGD on nn.Linear(1, 1), one trial after another."""
    inputs, targets = (torch.from_numpy(a).reshape(-1, 1, 1).to(device) for a in (prepared.x, prepared.y))
    trials = min(LOOP_TRIALS, prepared.trials)

    def run() -> list[list[float]]:
        finals = []
        for trial in range(trials):
            model = torch.nn.Linear(1, 1, device=device)
            for parameter in model.parameters():
                torch.nn.init.zeros_(parameter)
            lr, momentum, decay, dampening = (
                float(column[trial])
                for column in (prepared.lr, prepared.momentum, prepared.weight_decay, prepared.dampening)
            )
            optimizer = torch.optim.SGD(
                model.parameters(), lr, momentum, dampening, decay, nesterov=bool(prepared.nesterov[trial])
            )
            for _, (x, y) in itertools.product(range(prepared.steps // 5), list(zip(inputs, targets, strict=True))):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
            finals.append([model.weight.item(), model.bias.item()])
        return finals

    return Contender(
        "torch.optim, trial by trial", trials * prepared.steps, run, lambda finals: np.array(finals, np.float32).T
    )
