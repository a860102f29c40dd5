"""Who runs in ``benchmarks.engine``: the workload, and SGD with momentum in sgdcore, jax, batched torch, torch.optim.

No clock and no printing here. A contender's arrays are prepared and its code is compiled before it is timed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import sgdcore
from sgdcore.tasks.datasets import line

Floats = NDArray[np.float32]

LOOP_TRIALS = 2  # of the torch.optim loop
CORES = len(os.sched_getaffinity(0))


class BenchmarkError(Exception):
    """The contenders cannot be compared: what is wrong, in one line; ``code`` is the exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Workload:
    """What every contender trains."""

    lr: Floats
    momentum: Floats
    weight_decay: Floats
    x: Floats
    y: Floats
    steps: int

    @classmethod
    def of(cls, trials: int, steps: int) -> Workload:
        """Random hyperparameters, none of which diverges."""
        rng, dataset = np.random.default_rng(0), line()
        ends = {"lr": (0.001, 0.005), "momentum": (0.0, 0.9), "weight_decay": (0.0, 0.05)}
        # Rounded to float32 here, so that all contenders start from the same numbers.
        columns = {name: rng.uniform(low, high, trials).astype(np.float32) for name, (low, high) in ends.items()}
        x, y = dataset.inputs[:, 0].astype(np.float32), dataset.targets.astype(np.float32)
        return cls(**columns, x=x, y=y, steps=steps)

    @property
    def trials(self) -> int:
        """Number of trials T."""
        return len(self.lr)


@dataclass(frozen=True)
class Contender:
    """One row of the table: ``run`` makes ``trial_steps`` of them, ``result`` turns what it gives into (2, n)."""

    name: str
    trial_steps: int
    run: Callable[[], Any]
    result: Callable[[Any], Floats] = np.asarray


def sgdcore_contenders(work: Workload) -> Iterator[Contender]:
    """sgdcore.train, recording the ends only and 64 points."""
    task = sgdcore.Task(line())
    hyperparams = sgdcore.Hyperparams(work.lr, work.momentum, work.weight_decay)
    for recording in (sgdcore.Recording(points=0), sgdcore.Recording()):

        def run(recording: sgdcore.Recording = recording) -> sgdcore.Trajectories:
            return sgdcore.train(task, hyperparams, epochs=work.steps // 5, start=[0.0, 0.0], record=recording)

        name = f"sgdcore, {recording.points} points"
        yield Contender(name, work.trials * work.steps, run, lambda trajectories: trajectories.params.T)


def jax_contenders(work: Workload) -> Iterator[Contender]:
    """The jitted scan in all its forms, the plain one first.

    Raises:
        BenchmarkError: jax is not installed.
    """
    try:
        import jax
    except ImportError as error:
        raise BenchmarkError('jax is not installed: pip install -e ".[bench]"', code=2) from error
    from jax import lax
    from jax.sharding import NamedSharding, PartitionSpec

    jax.config.update("jax_num_cpu_devices", CORES)
    by_trial, everywhere = PartitionSpec("cores"), PartitionSpec()
    specs = (by_trial, by_trial, by_trial, everywhere)
    samples = tuple(np.tile(a, work.steps // 5) for a in (work.x, work.y))

    def form(name: str, unroll: int, devices: int = 1, chunk: int | None = None) -> Contender:
        def scan(lr: Any, momentum: Any, decay: Any, samples: Any) -> Any:
            def step(state: Any, sample: Any) -> Any:
                (w, b, velocity_w, velocity_b), (x, y) = state, sample
                slope = 2 * (w * x + b - y)
                velocity_w = momentum * velocity_w + (slope * x + decay * w)
                velocity_b = momentum * velocity_b + (slope + decay * b)
                return (w - lr * velocity_w, b - lr * velocity_b, velocity_w, velocity_b), None

            return lax.scan(step, (jax.numpy.zeros_like(lr),) * 4, samples, unroll=unroll)[0][:2]

        def by_chunks(lr: Any, momentum: Any, decay: Any, samples: Any) -> Any:
            pieces = tuple(a.reshape(chunks, -1) for a in (lr, momentum, decay))
            return tuple(a.reshape(-1) for a in lax.map(lambda piece: scan(*piece, samples), pieces))

        share = -(-work.trials // devices)
        chunks = -(-share // (chunk or share))
        padding = devices * chunks * (-(-share // chunks)) - work.trials  # idle trials: fewer than chunks * devices
        columns = [np.pad(a, (0, padding)) for a in (work.lr, work.momentum, work.weight_decay)]
        mesh = jax.make_mesh((devices,), ("cores",), devices=jax.devices("cpu")[:devices])
        places = tuple(NamedSharding(mesh, spec) for spec in specs)
        arguments = jax.device_put((*columns, samples), places)
        run: Callable[..., Any] = by_chunks if chunk else scan
        if devices > 1:
            run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=by_trial, check_vma=False)
        compiled = jax.jit(run)
        return Contender(
            name,
            work.trials * work.steps,
            lambda: jax.block_until_ready(compiled(*arguments)),
            lambda final: np.stack(final)[:, : work.trials],
        )

    yield form("jax, jit scan", unroll=1)
    for unroll in (2, 4, 5, 8):
        yield form(f"jax, jit scan, unroll {unroll}", unroll)
    for unroll, chunk in itertools.product((1, 2, 3, 5), (None, 1024, 2048, 4096)):
        name = f"jax, jit scan, {CORES} devices, {f'chunks of {chunk}, ' if chunk else ''}unroll {unroll}"
        yield form(name, unroll, CORES, chunk)


def batched_torch(work: Workload) -> Contender:
    """All trials in tensors of shape (2, T), updated in place."""
    negative_lr, momentum, decay = (torch.from_numpy(a) for a in (-work.lr, work.momentum, work.weight_decay))
    scales = torch.from_numpy(np.stack([2 * work.x, np.full_like(work.x, 2)]))
    samples = [(float(x), float(y), scales[:, i : i + 1]) for i, (x, y) in enumerate(zip(work.x, work.y, strict=True))]

    @torch.no_grad()
    def run() -> torch.Tensor:
        params, buffers, gradients = (torch.zeros(2, work.trials) for _ in range(3))
        residuals = torch.empty(work.trials)
        for _, (x, y, scale) in itertools.product(range(work.steps // 5), samples):
            torch.add(params[1], params[0], alpha=x, out=residuals).sub_(y)
            torch.mul(residuals, scale, out=gradients).addcmul_(params, decay)
            buffers.mul_(momentum).add_(gradients)
            params.addcmul_(buffers, negative_lr)
        return params

    return Contender("torch, batched", work.trials * work.steps, run)


def torch_optim(work: Workload) -> Contender:
    """torch.optim.SGD on nn.Linear(1, 1), one trial after the other."""
    inputs, targets = (torch.from_numpy(a).reshape(-1, 1, 1) for a in (work.x, work.y))
    trials = min(LOOP_TRIALS, work.trials)

    def run() -> list[list[float]]:
        finals = []
        for trial in range(trials):
            model = torch.nn.Linear(1, 1)
            for parameter in model.parameters():
                torch.nn.init.zeros_(parameter)
            lr, momentum, decay = (float(column[trial]) for column in (work.lr, work.momentum, work.weight_decay))
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
            for _, (x, y) in itertools.product(range(work.steps // 5), list(zip(inputs, targets, strict=True))):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
            finals.append([model.weight.item(), model.bias.item()])
        return finals

    return Contender(
        "torch.optim, trial by trial", trials * work.steps, run, lambda finals: np.array(finals, np.float32).T
    )
