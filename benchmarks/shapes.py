"""Trial-steps per second by shape, features x batch size: sgdcore and jax in its best form, and the limit of each.

Data: standard normal features and a bias, sequential batches, float32; all five hyperparameters differ from trial to
trial, every contender applies the whole rule, and no trial diverges.

- sgdcore: ``sgdcore.train`` as a user calls it, recording the two ends only.
- jax: the fastest of several forms (benchmarks.jax_forms), found by one turn of each.

Every form's final parameters are compared with sgdcore's before anything is timed. Then the two take turns, and the
table shows medians. Without jax, its columns stay empty. The limit is the arithmetic that sgdcore needs at the measured
rate of the cores: without FMA for batches of one, whose products and sums have to stay separate, with FMA for larger
ones, where a batch larger than P is a triangle.

The last columns compare sgdcore with itself on a grid of few learning rates and weight decays: the time with a cosine
schedule by epoch, without decay of the bias, and with gradients clipped to a norm of 1, relative to none of these.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import sgdcore
from benchmarks.contenders import BenchmarkError, Contender, Floats, Workload
from benchmarks.engine import rate, verify
from benchmarks.jax_forms import matrix_forms
from benchmarks.peaks import fused_rate, multiply_add_rate
from sgdcore.tasks import linear

FEATURES, BATCHES = (1, 8, 64), (1, 32, 0)  # 0: all samples
SAMPLES = 512
WORK = 2e10  # approximate multiplications per turn,
EXTRAS: dict[str, dict[str, Any]] = {  # more hyperparameters by column of the table
    "schedule": {"schedule": sgdcore.Schedule(sgdcore.Scheduler("cosine"))},
    "groups": {"groups": {"bias": {"weight_decay": 0.0}}},
    "clipping": {"clip_grad_norm": 1.0},
}
TRIAL_STEPS = (2.5e6, 3e8)  # within these bounds, so that setup time is negligible


@dataclass(frozen=True)
class Shape:
    """A row of the table."""

    features: int
    batch: int
    trials: int
    steps: int

    @classmethod
    def of(cls, features: int, batch: int, quick: bool) -> Shape:
        """Return a shape whose turn takes between a fraction of a second and a few seconds."""
        batch = batch or SAMPLES
        if quick:
            return cls(features, batch, 2048, SAMPLES)
        trial_steps = float(np.clip(WORK / (features * batch), *TRIAL_STEPS))
        trials = 4096 if trial_steps < 1e8 else 32768
        return cls(features, batch, trials, max(1, round(trial_steps / trials / SAMPLES)) * SAMPLES)

    @property
    def scale(self) -> np.float32:
        """The scale of lr at which no trial diverges."""
        return np.float32(1 / (1 + self.features))

    @property
    def flop(self) -> int:
        """The operations of sgdcore per trial-step: gradient, then 9 per parameter for the rule; an FMA is 2."""
        parameters = self.features + 1
        if self.batch == 1:
            return 4 * self.features + 3 + 9 * parameters
        if self.batch <= parameters:
            return 4 * self.batch * parameters + 9 * parameters
        return 2 * parameters * (parameters + 1) + 9 * parameters  # a triangle


def main() -> int:
    """Verify, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shapes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--features", type=int, nargs="+", default=FEATURES, choices=FEATURES, help="only these")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, choices=BATCHES, help="only these; 0: all")
    parser.add_argument("--quick", action="store_true", help="smoke test: small and short")
    options = parser.parse_args()
    table = Table(title="Trial-steps/s by shape, all five hyperparameters mixed, float32")
    headings = ("features", "batch", "trials", "steps", "sgdcore", "jax, best form", "faster by", "limit", "share")
    for heading in (*headings, *EXTRAS):
        table.add_column(heading, justify="right")
    try:
        for features, batch in itertools.product(options.features, options.batches):
            table.add_row(*row(Shape.of(features, batch, options.quick), 2 if options.quick else options.repeats))
    except BenchmarkError as error:
        print(f"benchmarks.shapes: {error}", file=sys.stderr)
        return error.code
    Console(width=None if sys.stdout.isatty() else 170, highlight=False).print(table)
    return 0


def row(shape: Shape, repeats: int) -> tuple[str, ...]:
    """Measure one shape and return its row."""
    task = sgdcore.Task(linear(SAMPLES, shape.features, noise=0.1))
    prepared = Workload.of(shape.trials, shape.steps)
    ours = sgdcore_contender(task, prepared, shape)
    forms = list(peers(task, prepared, shape))
    verify(ours, forms)
    fastest = [max(forms, key=rate)] if forms else []
    grid = replace(prepared, lr=_few(prepared.lr), weight_decay=_few(prepared.weight_decay))
    compared = [sgdcore_contender(task, grid, shape, "constant")]
    compared += [sgdcore_contender(task, grid, shape, name, **more) for name, more in EXTRAS.items()]
    for contender in compared:
        contender.run()  # compiles
    contenders = [ours, *fastest, *compared]
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders} | {"limit": []}
    for _ in range(repeats):
        for contender in contenders:
            rates[contender.name].append(rate(contender))
        rates["limit"].append((multiply_add_rate if shape.batch == 1 else fused_rate)() / shape.flop)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    our, limit, constant = medians[ours.name], medians["limit"], medians[compared[0].name]
    kind = "without FMA" if shape.batch == 1 else "with FMA"
    size = "all" if shape.batch == SAMPLES else str(shape.batch)
    theirs = ["", ""]
    for form in fastest:
        their = medians[form.name]
        theirs = [f"{their:.3g} ({form.name.removeprefix('jax, ')})", f"{our / their:.2f} x"]
    return (
        str(shape.features),
        size,
        f"{shape.trials:,}",
        f"{shape.steps:,}",
        f"{our:.3g}",
        *theirs,
        f"{limit:.3g} {kind}",
        (f"{our / limit:.0%}"),
        *(f"{constant / medians[name]:.2f} x" for name in EXTRAS),
    )


def _few(values: Floats) -> Floats:
    """Return the values rounded to few distinct ones."""
    step = np.float32(values.max() / 32)
    return (np.ceil(values / step) * step).astype(np.float32)


def sgdcore_contender(
    task: sgdcore.Task, prepared: Workload, shape: Shape, name: str = "sgdcore", **more: Any
) -> Contender:
    """Return sgdcore.train, recording the ends only; ``more`` hyperparameters than the five of the workload."""
    hyperparams = sgdcore.Hyperparams(
        prepared.lr * shape.scale,
        prepared.momentum,
        prepared.weight_decay,
        prepared.dampening,
        prepared.nesterov,
        **more,
    )
    start = np.zeros(shape.features + 1)
    epochs = shape.steps // -(-SAMPLES // shape.batch)

    def run() -> sgdcore.Trajectories:
        return sgdcore.train(
            task,
            hyperparams,
            epochs=epochs,
            batch_size=shape.batch,
            start=start,
            record=sgdcore.Recording(0),
            groups={"bias": ["bias"]},
        )

    return Contender(name, shape.trials * shape.steps, run, lambda trajectories: trajectories.params.T)


def peers(task: sgdcore.Task, prepared: Workload, shape: Shape) -> Iterator[Contender]:
    """Yield jax in all its forms, none if it is not installed."""
    if importlib.util.find_spec("jax") is None:
        return
    design = np.hstack([task.features, np.ones((SAMPLES, 1))]).astype(np.float32)
    targets = task.dataset.targets.astype(np.float32)
    columns = (prepared.lr * shape.scale, *prepared.columns()[1:])
    yield from matrix_forms(
        design.reshape(-1, shape.batch, shape.features + 1), targets.reshape(-1, shape.batch), columns, shape.steps
    )


if __name__ == "__main__":
    sys.exit(main())
