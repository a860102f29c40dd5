"""Who runs in ``benchmarks.engine``: the workload, and the rule of torch.optim.SGD in sgdcore, jax, torch, torch.optim.

Every contender applies the whole rule: all five hyperparameters differ from trial to trial. Trials without momentum
have no dampening (it would do nothing), so that nobody has to treat them apart. No clock and no printing here. A
contender's arrays are prepared and its code is compiled before it is timed.
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
    dampening: Floats
    nesterov: NDArray[np.bool_]
    x: Floats
    y: Floats
    steps: int

    @classmethod
    def of(cls, trials: int, steps: int) -> Workload:
        """Random hyperparameters, none of which diverges."""
        rng, dataset = np.random.default_rng(0), line()
        ends = {"lr": (0.001, 0.004), "momentum": (0.0, 0.9), "weight_decay": (0.0, 0.05), "dampening": (0.0, 0.5)}
        # Rounded to float32 here, so that all contenders start from the same numbers.
        columns = {name: rng.uniform(low, high, trials).astype(np.float32) for name, (low, high) in ends.items()}
        nesterov = rng.random(trials) < 0.3
        columns["momentum"][~nesterov & (rng.random(trials) < 0.1)] = 0
        columns["dampening"][nesterov | (columns["momentum"] == 0)] = 0
        x, y = dataset.inputs[:, 0].astype(np.float32), dataset.targets.astype(np.float32)
        return cls(**columns, nesterov=nesterov, x=x, y=y, steps=steps)

    @property
    def trials(self) -> int:
        """Number of trials T."""
        return len(self.lr)

    @property
    def recorded_points(self) -> int:
        """Points of the default recording."""
        return len(sgdcore.Recording().steps(0, self.steps))

    def columns(self) -> tuple[Floats, Floats, Floats, Floats, NDArray[np.bool_]]:
        """lr, momentum, weight_decay, 1 - dampening, nesterov."""
        return self.lr, self.momentum, self.weight_decay, 1 - self.dampening, self.nesterov


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
    hyperparams = sgdcore.Hyperparams(work.lr, work.momentum, work.weight_decay, work.dampening, work.nesterov)
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
    specs = ((by_trial,) * 5, everywhere)
    samples = tuple(np.tile(a, work.steps // 5) for a in (work.x, work.y))

    def form(name: str, unroll: int, devices: int = 1, chunk: int | None = None) -> Contender:
        def scan(columns: Any, samples: Any) -> Any:
            lr, momentum, decay, undamped, nesterov = columns

            def update(param: Any, gradient: Any, buffer: Any) -> Any:
                gradient = gradient + decay * param
                buffer = gradient if buffer is None else momentum * buffer + undamped * gradient
                direction = jax.numpy.where(nesterov, gradient + momentum * buffer, buffer)
                return param - lr * direction, buffer

            def step(state: Any, sample: Any) -> Any:
                (w, b, buffer_w, buffer_b), (x, y) = state, sample
                slope = 2 * (w * x + b - y)
                w, buffer_w = update(w, slope * x, buffer_w)
                b, buffer_b = update(b, slope, buffer_b)
                return (w, b, buffer_w, buffer_b), None

            zero = jax.numpy.zeros_like(lr)
            first, _ = step((zero, zero, None, None), tuple(s[0] for s in samples))
            return lax.scan(step, first, tuple(s[1:] for s in samples), unroll=unroll)[0][:2]

        def by_chunks(columns: Any, samples: Any) -> Any:
            pieces = tuple(a.reshape(chunks, -1) for a in columns)
            return tuple(a.reshape(-1) for a in lax.map(lambda piece: scan(piece, samples), pieces))

        share = -(-work.trials // devices)
        chunks = -(-share // (chunk or share))
        padding = devices * chunks * (-(-share // chunks)) - work.trials  # idle trials: fewer than chunks * devices
        columns = tuple(np.pad(a, (0, padding)) for a in work.columns())
        mesh = jax.make_mesh((devices,), ("cores",), devices=jax.devices("cpu")[:devices])
        places = (NamedSharding(mesh, by_trial), NamedSharding(mesh, everywhere))
        arguments = tuple(jax.device_put(part, place) for part, place in zip((columns, samples), places, strict=True))
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


def batched_torch(work: Workload) -> Iterator[Contender]:
    """All trials in tensors: the rule as torch.optim writes it, and rearranged by hand into few operations in place."""
    lr, momentum, decay, undamped, nesterov = (torch.from_numpy(a) for a in work.columns())
    samples = list(zip(map(float, work.x), map(float, work.y), strict=True))
    epochs = range(work.steps // 5)

    def update(param: torch.Tensor, gradient: torch.Tensor, buffer: torch.Tensor | None) -> list[torch.Tensor]:
        gradient = gradient + decay * param
        buffer = gradient if buffer is None else momentum * buffer + undamped * gradient
        direction = torch.where(nesterov, gradient + momentum * buffer, buffer)
        return [param - lr * direction, buffer]

    @torch.no_grad()
    def plain() -> torch.Tensor:
        w, b, buffer_w, buffer_b = torch.zeros(work.trials), torch.zeros(work.trials), None, None
        for _, (x, y) in itertools.product(epochs, samples):
            slope = 2 * (w * x + b - y)
            w, buffer_w = update(w, slope * x, buffer_w)
            b, buffer_b = update(b, slope, buffer_b)
        return torch.stack([w, b])

    yield Contender("torch, batched", work.trials * work.steps, plain)

    scales = torch.from_numpy(np.stack([2 * work.x, np.full_like(work.x, 2)]))
    by_gradient, by_buffer = -lr * nesterov, -lr * torch.where(nesterov, momentum, 1.0)

    @torch.no_grad()
    def rearranged() -> torch.Tensor:
        params, buffers, gradients = (torch.zeros(2, work.trials) for _ in range(3))
        residuals, keep = torch.empty(work.trials), torch.ones(work.trials)
        for _, (i, (x, y)) in itertools.product(epochs, enumerate(samples)):
            torch.add(params[1], params[0], alpha=x, out=residuals).sub_(y)
            torch.mul(residuals, scales[:, i : i + 1], out=gradients).addcmul_(params, decay)
            buffers.mul_(momentum).addcmul_(gradients, keep)
            params.addcmul_(gradients, by_gradient).addcmul_(buffers, by_buffer)
            keep = undamped
        return params

    yield Contender("torch, batched, in place by hand", work.trials * work.steps, rearranged)


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
            lr, momentum, decay, dampening = (
                float(column[trial]) for column in (work.lr, work.momentum, work.weight_decay, work.dampening)
            )
            optimizer = torch.optim.SGD(
                model.parameters(), lr, momentum, dampening, decay, nesterov=bool(work.nesterov[trial])
            )
            for _, (x, y) in itertools.product(range(work.steps // 5), list(zip(inputs, targets, strict=True))):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(x), y).backward()
                optimizer.step()
            finals.append([model.weight.item(), model.bias.item()])
        return finals

    return Contender(
        "torch.optim, trial by trial", trials * work.steps, run, lambda finals: np.array(finals, np.float32).T
    )
