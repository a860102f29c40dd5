"""Trial-steps a second by shape: features x batch size, sgdcore beside jax in its best form, and the limit of each.

Data: standard normal features and a bias, sequential batches, float32; all five hyperparameters differ from trial to
trial, every contender applies the whole rule, and no trial diverges.

- sgdcore: ``sgdcore.train`` as a user calls it, recording the two ends only.
- jax: ``jit`` of one ``lax.scan`` over steps in several forms: state (P, T) or (T, P), products as ``dot`` or as
  multiplications and a sum (batches of one), trials shared among one host device a core, whole or by ``lax.map`` over
  chunks that fit the cache. The fastest of three turns goes into the table.

Every form's final parameters are held against sgdcore's before anything is timed. Then the two take turns, and the
table shows medians. The limit is the arithmetic that sgdcore needs at the cores' measured rate: without FMA for
batches of one, whose products and sums have to stay apart, with FMA above, where a batch that is larger than P
is a triangle.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import sgdcore
from benchmarks.contenders import CORES, BenchmarkError, Contender, Floats, Workload
from benchmarks.engine import rate, verify
from benchmarks.peaks import fused_rate, multiply_add_rate
from sgdcore.tasks import linear

FEATURES, BATCHES = (1, 8, 64), (1, 32, 0)  # 0: all samples
SAMPLES = 128
WORK = 3e9  # multiplications of one turn of jax, about: decides the number of trials


@dataclass(frozen=True)
class Shape:
    """One row of the table."""

    features: int
    batch: int
    trials: int
    steps: int

    @classmethod
    def of(cls, features: int, batch: int, quick: bool) -> Shape:
        """A turn of a fraction of a second."""
        batch = batch or SAMPLES
        steps = 128 if quick else 512
        trials = int(np.clip(WORK / (steps * features * batch), 2048, 32768)) // 2048 * 2048
        return cls(features, batch, 2048 if quick else trials, steps)

    @property
    def flop(self) -> int:
        """What sgdcore computes a trial-step: gradient, then 9 a parameter for the rule; an FMA is 2."""
        parameters = self.features + 1
        if self.batch == 1:
            return 4 * self.features + 3 + 9 * parameters
        if self.batch <= parameters:
            return 4 * self.batch * parameters + 9 * parameters
        return 2 * parameters * (parameters + 1) + 9 * parameters  # of a triangle


def main() -> int:
    """Verify, measure, print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small and short: does it run?")
    options = parser.parse_args()
    table = Table(title="Trial-steps/s by shape, all five hyperparameters mixed, float32")
    for heading in ("features", "batch", "trials", "steps", "sgdcore", "jax, best form", "faster by", "limit", "share"):
        table.add_column(heading, justify="right")
    try:
        for features, batch in itertools.product(FEATURES, BATCHES):
            table.add_row(*row(Shape.of(features, batch, options.quick), 2 if options.quick else options.repeats))
    except BenchmarkError as error:
        print(f"benchmarks.shapes: {error}", file=sys.stderr)
        return error.code
    Console(width=None if sys.stdout.isatty() else 170, highlight=False).print(table)
    return 0


def row(shape: Shape, repeats: int) -> tuple[str, ...]:
    """Measure one shape."""
    task = sgdcore.Task(linear(SAMPLES, shape.features, noise=0.1))
    work = Workload.of(shape.trials, shape.steps)
    ours = sgdcore_contender(task, work, shape)
    forms = list(jax_forms(task, work, shape))
    verify(ours, forms)
    fastest = max(forms, key=lambda form: max(rate(form) for _ in range(3)))
    rates: dict[str, list[float]] = {ours.name: [], fastest.name: [], "limit": []}
    for _ in range(repeats):
        for contender in (ours, fastest):
            rates[contender.name].append(rate(contender))
        rates["limit"].append((multiply_add_rate if shape.batch == 1 else fused_rate)() / shape.flop)
    our, their, limit = (statistics.median(values) for values in rates.values())
    kind = "without FMA" if shape.batch == 1 else "with FMA"
    size = "all" if shape.batch == SAMPLES else str(shape.batch)
    numbers = (f"{our:.3g}", f"{their:.3g} ({fastest.name})", f"{our / their:.2f} x")
    return (
        str(shape.features),
        size,
        f"{shape.trials:,}",
        f"{shape.steps:,}",
        *numbers,
        f"{limit:.3g} {kind}",
        (f"{our / limit:.0%}"),
    )


def sgdcore_contender(task: sgdcore.Task, work: Workload, shape: Shape) -> Contender:
    """sgdcore.train, recording the ends only."""
    scale = np.float32(1 / (1 + shape.features))  # of lr, so that no trial diverges
    hyperparams = sgdcore.Hyperparams(work.lr * scale, work.momentum, work.weight_decay, work.dampening, work.nesterov)
    start = np.zeros(shape.features + 1)
    epochs = shape.steps // -(-SAMPLES // shape.batch)

    def run() -> sgdcore.Trajectories:
        return sgdcore.train(
            task, hyperparams, epochs=epochs, batch_size=shape.batch, start=start, record=sgdcore.Recording(0)
        )

    return Contender("sgdcore", shape.trials * shape.steps, run, lambda trajectories: trajectories.params.T)


def jax_forms(task: sgdcore.Task, work: Workload, shape: Shape) -> Iterator[Contender]:
    """The jitted scan in all its forms.

    Raises:
        BenchmarkError: jax is not installed.
    """
    try:
        import jax
    except ImportError as error:
        raise BenchmarkError('jax is not installed: pip install -e ".[bench]"', code=2) from error
    from jax import lax, numpy
    from jax.sharding import NamedSharding, PartitionSpec

    jax.config.update("jax_num_cpu_devices", CORES)
    parameters, batch = shape.features + 1, shape.batch
    design = np.hstack([task.features, np.ones((SAMPLES, 1))]).astype(np.float32).reshape(-1, batch, parameters)
    targets = task.dataset.targets.astype(np.float32).reshape(-1, batch)
    order = np.arange(shape.steps) % len(design)
    columns = (work.lr * np.float32(1 / (1 + shape.features)), *work.columns()[1:])

    def gradient(params: Any, index: Any, by_parameter: bool, dot: bool) -> Any:
        x, y = numpy.asarray(design)[index], numpy.asarray(targets)[index]
        if not dot and by_parameter:
            return 2 * (sum(x[0, j] * params[j] for j in range(parameters)) - y[0]) * x[0][:, None]
        if not dot:
            return 2 * ((params * x[0]).sum(1) - y[0])[:, None] * x[0]
        if by_parameter:
            return 2 / batch * (x.T @ (x @ params - y[:, None]))
        return 2 / batch * ((params @ x.T - y) @ x)

    def form(by_parameter: bool, dot: bool, unroll: int, chunk: int | None) -> Contender:
        def scan(columns: Any, order: Any) -> Any:
            if not by_parameter:
                columns = tuple(column[:, None] for column in columns)
            lr, momentum, decay, undamped, nesterov = columns

            def step(state: Any, index: Any) -> Any:
                params, buffer = state
                slope = gradient(params, index, by_parameter, dot) + decay * params
                buffer = slope if buffer is None else momentum * buffer + undamped * slope
                direction = numpy.where(nesterov, slope + momentum * buffer, buffer)
                return (params - lr * direction, buffer), None

            trials = lr.size
            zero = numpy.zeros((parameters, trials) if by_parameter else (trials, parameters), numpy.float32)
            first, _ = step((zero, None), order[0])
            final = lax.scan(step, first, order[1:], unroll=unroll)[0][0]
            return final.T if by_parameter else final

        def by_chunks(columns: Any, order: Any) -> Any:
            pieces = tuple(column.reshape(-1, chunk or work.trials // CORES) for column in columns)
            return lax.map(lambda piece: scan(piece, order), pieces).reshape(-1, parameters)

        mesh = jax.make_mesh((CORES,), ("cores",))
        by_trial, everywhere = PartitionSpec("cores"), PartitionSpec()
        places = (NamedSharding(mesh, by_trial), NamedSharding(mesh, everywhere))
        arguments = tuple(jax.device_put(part, place) for part, place in zip((columns, order), places, strict=True))
        run: Callable[..., Any] = by_chunks
        sharded = jax.shard_map(
            run, mesh=mesh, in_specs=((by_trial,) * 5, everywhere), out_specs=by_trial, check_vma=False
        )
        compiled = jax.jit(sharded)
        name = f"{'(P, T)' if by_parameter else '(T, P)'} {'dot' if dot else 'sum'}"
        name += f"{f', chunks of {chunk}' if chunk else ''}, unroll {unroll}"

        def result(final: Any) -> Floats:
            return np.asarray(final, np.float32).T

        return Contender(name, work.trials * work.steps, lambda: jax.block_until_ready(compiled(*arguments)), result)

    for by_parameter, dot in itertools.product((True, False), (True, False) if batch == 1 else (True,)):
        for unroll, chunk in itertools.product((1, 4), (None, 512)):
            if dot or by_parameter is False or parameters <= 16:  # longer sums take minutes to compile
                yield form(by_parameter, dot, unroll, chunk)


if __name__ == "__main__":
    sys.exit(main())
