"""What schedules, parameter groups and clipping cost: python -m benchmarks.overheads

``sgdcore.train`` on one thread with each of them, beside the same trials with none, in turns; 512 samples, sequential
batches, float32, only the two ends recorded. The figures are ratios of CPU time, each the smallest of several turns.
The hyperparameters are a grid: 16 learning rates, and momenta and weight decays that all differ. Clipping is measured
twice: with limits that no gradient reaches, and with limits that clip the gradients of every step. The time includes
what a run computes once, such as the minima of its objectives, which weigh more in short turns than in long runs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import sgdcore
from sgdcore.tasks import linear

SAMPLES, LRS = 512, 16
MODELS: dict[str, tuple[int, tuple[int, ...]]] = {
    "linear 2": (2, ()),
    "linear 16": (16, ()),
    "perceptron 1-8-1": (1, (8,)),
    "perceptron 8-32-1": (8, (32,)),
}
SECONDS = 0.15  # of a turn without extras, about
COSINE = sgdcore.Scheduler("cosine")
EXTRAS: dict[str, dict[str, Any]] = {
    "by epoch": {"schedule": sgdcore.Schedule(COSINE)},
    "by step": {"schedule": sgdcore.Schedule(COSINE, interval="step")},
    "groups": {"groups": {"bias": {"weight_decay": 0.0}}},
    "norm, none": {"clip_grad_norm": 1e6},
    "norm, all": {"clip_grad_norm": 1e-6},
    "value, none": {"clip_grad_value": 1e6},
    "value, all": {"clip_grad_value": 1e-6},
}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overheads", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--trials", type=int, nargs="+", default=[64, 4096])
    parser.add_argument("--extras", nargs="+", default=list(EXTRAS), choices=EXTRAS)
    options = parser.parse_args()
    table = Table(title="CPU time relative to the same trials with none", box=None)
    for heading in ("model", "batch", "trials", "ns/trial-step", *options.extras):
        table.add_column(heading, justify="right")
    for model, batch, trials in itertools.product(options.models, options.batches, options.trials):
        extras = {name: EXTRAS[name] for name in options.extras}
        steps, times = measured(model, batch, trials, extras, options.repeats)
        base = times[0]
        cells = [f"{seconds / base:.2f}" for seconds in times[1:]]
        table.add_row(model, str(batch), f"{trials:,}", f"{base / steps / trials * 1e9:.1f}", *cells)
    Console(width=None if sys.stdout.isatty() else 150, highlight=False).print(table)
    return 0


def measured(
    model: str, batch: int, trials: int, extras: dict[str, dict[str, Any]], repeats: int
) -> tuple[int, list[float]]:
    """Return the steps of a turn, and its CPU seconds without any extra and with each."""
    inputs, hidden = MODELS[model]
    data = linear(SAMPLES, inputs, noise=0.1)
    task = sgdcore.Task(data, sgdcore.MlpModel(hidden)) if hidden else sgdcore.Task(data)
    plain = _job(task, trials, batch, 2, {})
    _cpu_seconds(plain)  # compiles
    epochs = max(2, math.ceil(2 * SECONDS / _cpu_seconds(plain)))
    while (took := _cpu_seconds(_job(task, trials, batch, epochs, {}))) < SECONDS / 2:
        epochs = math.ceil(epochs * SECONDS / took)
    jobs = [_job(task, trials, batch, epochs, more) for more in ({}, *extras.values())]
    times = [math.inf] * len(jobs)
    for turn in range(repeats + 1):
        for index, job in enumerate(jobs):
            took = _cpu_seconds(job)
            if turn:  # the first compiles
                times[index] = min(times[index], took)
    return epochs * -(-SAMPLES // batch), times


def _cpu_seconds(job: Callable[[], object]) -> float:
    began = time.process_time()
    job()
    return time.process_time() - began


def _job(task: sgdcore.Task, trials: int, batch: int, epochs: int, more: dict[str, Any]) -> Callable[[], object]:
    generator = np.random.default_rng(0)
    lr = np.resize(np.geomspace(1e-4, 1e-2, LRS), trials)
    momentum, decay = generator.uniform(0.1, 0.5, trials), generator.uniform(1e-4, 1e-2, trials)
    hyperparams = sgdcore.Hyperparams(lr, momentum, decay, **more)
    patterns = {"bias": ["bias", "*.bias"]} if hyperparams.groups else None

    def run() -> object:
        return sgdcore.train(
            task,
            hyperparams,
            epochs=epochs,
            batch_size=batch,
            record=sgdcore.Recording(0),
            groups=patterns,
            threads=1,
        )

    return run


if __name__ == "__main__":
    sys.exit(main())
