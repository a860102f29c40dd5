"""Trial-steps per second of CPU time for modules by the torch kernel, beside a plain torch loop: benchmarks.modules.

Two modules that are no perceptrons, on 1,024 random samples, float32, lr, momentum, weight_decay and nesterov mixed:

- normalised: Linear(15, 64), LayerNorm, ReLU, Linear(64, 1), batches of 64;
- skipping: Linear(8, 32), and a second layer whose result is added to its input, Linear(32, 1), batches of 32.

Both sides run on one thread, and CPU time is counted, so that other work on the machine disturbs little. Each runs
without curves, and with 64 recorded points of the loss over all samples, which the loop evaluates as a user does, on
the whole set at once. They take turns; the table has the best of each. Before, final parameters are compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

import sgdcore

SAMPLES, POINTS, LOOP_TRIALS = 1024, 64, 2
GOAL = 10.0  # times the loop, curves included
TOLERANCE = 1e-3  # of the closest 90 % of trials: normalisations amplify rounding


class Skipping(nn.Module):
    """A layer whose result is added to its input."""

    def __init__(self, inputs: int = 8, units: int = 32) -> None:
        super().__init__()
        self.first, self.second, self.output = nn.Linear(inputs, units), nn.Linear(units, units), nn.Linear(units, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, 1) outputs."""
        x = torch.relu(self.first(x))
        return self.output(x + torch.relu(self.second(x)))


def normalised() -> nn.Module:
    """Return a module of two layers with a normalisation."""
    return nn.Sequential(nn.Linear(15, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 1))


@dataclass(frozen=True)
class Job:
    """A module and its data."""

    name: str
    make: Callable[[], nn.Module]
    inputs: int
    batch: int

    def task(self) -> sgdcore.Task:
        """Return the task."""
        inputs = np.random.default_rng(0).standard_normal((SAMPLES, self.inputs))
        targets = np.sin(inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]
        return sgdcore.Task(sgdcore.Dataset(inputs, targets), sgdcore.ModuleModel(self.make))


JOBS = (Job("normalised", normalised, 15, 64), Job("skipping", Skipping, 8, 32))


def main() -> int:
    """Compare, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.modules", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"{options.trials} trials, {options.epochs} epochs, one thread, CPU time", box=None)
    for heading in ("", "points", "torch kernel, trial-steps/s", "torch loop", "ratio", ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for job in JOBS:
        for points in (0, POINTS):
            ours, theirs = _measure(job, points, options.trials, options.epochs, options.repeats)
            goal = f"goal {GOAL:g} x: {'reached' if ours / theirs >= GOAL else 'MISSED'}"
            table.add_row(job.name, str(points), f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.1f} x", goal)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def _measure(job: Job, points: int, trials: int, epochs: int, repeats: int) -> tuple[float, float]:
    """Return the trial-steps per CPU second of the torch kernel and of the loop, after comparing their results."""
    which, task = np.arange(trials), job.task()
    hyperparams = sgdcore.Hyperparams(
        lr=np.geomspace(1e-3, 0.03, trials),
        momentum=np.where(which % 3, 0.9, 0.0),
        weight_decay=np.where(which % 2, 1e-3, 0.0),
        nesterov=which % 3 == 2,
    )
    record = sgdcore.Recording(points=points)
    steps = epochs * SAMPLES // job.batch

    def ours() -> sgdcore.Trajectories:
        return sgdcore.train(
            task,
            hyperparams,
            epochs=epochs,
            batch_size=job.batch,
            record=record,
            kernel="torch",
            threads=1,
            device="cpu",
        )

    chosen = np.linspace(0, trials - 1, LOOP_TRIALS).astype(int)
    recorded = set(record.steps(0, steps).tolist()) if points else set()

    def theirs() -> list[np.ndarray]:
        return [_loop(job, task, hyperparams.arguments(trial), epochs, recorded) for trial in chosen.tolist()]

    off = np.abs(ours().params[chosen] - np.array(theirs())).max(axis=1)
    if not off.min() < TOLERANCE:
        raise SystemExit(f"benchmarks.modules: {job.name}: the torch kernel is {off.min():.2g} off the loop")
    rates = [(trials * steps / _seconds(ours), LOOP_TRIALS * steps / _seconds(theirs)) for _ in range(repeats)]
    return max(rate for rate, _ in rates), max(rate for _, rate in rates)


def _seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _loop(
    job: Job, task: sgdcore.Task, arguments: dict[str, float | bool], epochs: int, recorded: set[int]
) -> np.ndarray:
    """Train one trial as a user of torch does and return its parameters."""
    inputs = torch.tensor(task.features, dtype=torch.float32)
    targets = torch.tensor(task.dataset.targets, dtype=torch.float32)[:, None]
    torch.manual_seed(0)
    module = job.make()
    optimizer = torch.optim.SGD(module.parameters(), **arguments)
    step, losses = 0, []
    for _ in range(epochs):
        for x, y in zip(inputs.split(job.batch), targets.split(job.batch), strict=True):
            if step in recorded:
                with torch.no_grad():
                    losses.append(functional.mse_loss(module(inputs), targets).item())
            optimizer.zero_grad()
            functional.mse_loss(module(x), y).backward()
            optimizer.step()
            step += 1
    return nn.utils.parameters_to_vector(module.parameters()).detach().numpy()


if __name__ == "__main__":
    sys.exit(main())
