"""Trial-steps per second of torch.optim.SGD's rule on the 5-point line: sgdcore, jax, batched torch, torch.optim.

Task: y = 0.8 x + 1.2 at x = 1..5, y = w x + b from (0, 0), one sample per step in order, float32; lr, momentum,
weight_decay, dampening and nesterov differ from trial to trial, all contenders apply them all, and no trial diverges,
so that every contender takes every step.

- sgdcore: ``sgdcore.train`` as a user calls it, recording the two ends only, and 64 points.
- jax: ``jit`` of one ``lax.scan`` over steps, state arrays of shape (T,), the samples as its xs; in its plain form, and
  in the fastest form found here: several unrollings, on one device, and with the trials divided among one host device
  per core, as a whole or by ``lax.map`` over chunks that fit the cache; and the forms of benchmarks.jax_forms, whose
  state is one matrix. Arrays are on the device beforehand.
- torch: operations on tensors of T trials, without autograd, on all cores: the rule as torch.optim writes it, and
  hand-optimised into as few in-place operations as possible.
- torch.optim: ``torch.optim.SGD`` and nn.Linear, one trial at a time: a few trials, counted per trial-step.

The other libraries record nothing; sgdcore also keeps each parameter's peak and the first non-finite step.

Before any timing, every contender's final w and b are compared with sgdcore's (exit code 1 if they are not close).
This first run also compiles and warms up. Then the contenders take turns, ``--repeats`` times, and the table shows
medians, so that other load on the machine affects all of them alike. The limit is the rate of independent float32
multiplications and additions on all cores, measured in the same turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import (
    CORES,
    BenchmarkError,
    Contender,
    Floats,
    Workload,
    apply_rule,
    batched_torch,
    sgdcore_contenders,
    torch_optim,
)
from benchmarks.jax_forms import imported, matrix_forms, shared
from benchmarks.peaks import multiply_add_rate, write_rate

TARGETS = {
    "jax": 5.0,
    "torch, batched": 15.0,
    "torch.optim, trial by trial": 100_000.0,
}  # the project's goals: sgdcore is at least this many times faster
POINT_BYTES = 8 + 2 * 4  # a loss in float64, w and b in float32
TOLERANCE = 1e-4  # for final w and b, which are about 1: float32 sums in a different order
FLOP = (
    5 + 2 * 9
)  # w x + b - y, times 2, times x; each parameter: decay 2, buffer 1 + 2, nesterov 2, step 2 (an FMA is 2)


def main() -> int:
    """Verify, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=10_000, help="steps per trial, a multiple of 5")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="smoke test: 2,000 trials, 100 steps, 2 repeats")
    options = parser.parse_args()
    size = (2_000, 100, 2) if options.quick else (options.trials, options.steps, options.repeats)
    if min(size) < 1 or size[1] % 5:
        parser.error("trials, steps and repeats must be positive, steps a multiple of 5")
    try:
        compare(Workload.of(*size[:2]), size[2])
    except BenchmarkError as error:
        print(f"benchmarks.engine: {error}", file=sys.stderr)
        return error.code
    return 0


def compare(prepared: Workload, repeats: int) -> None:
    """Compare all contenders and print the table."""
    torch.set_num_threads(CORES)
    load = os.getloadavg()[0]
    ours = list(sgdcore_contenders(prepared))
    forms = [*scans(prepared), *matrices(prepared)]  # the plain scan first
    peers = [*batched_torch(prepared), torch_optim(prepared)]
    deviations = verify(ours[0], [*ours, *forms, *peers])
    fastest = max(forms, key=lambda form: max(rate(form) for _ in range(3)))
    rows = list(dict.fromkeys([*ours, forms[0], fastest, *peers]))
    rates: dict[str, list[float]] = {row.name: [] for row in rows}
    peaks, writes = [], []
    for _ in range(repeats):
        for row in rows:
            rates[row.name].append(rate(row))
        peaks.append(multiply_add_rate())
        writes.append(write_rate())
    _print(prepared, rows, rates, deviations, statistics.median(peaks), statistics.median(writes), load)


def scans(prepared: Workload) -> Iterator[Contender]:
    """Yield jitted jax scans with state arrays of shape (T,) and the samples as xs; the plain one first."""
    jax = imported()
    samples = tuple(np.tile(a, prepared.steps // 5) for a in (prepared.x, prepared.y))

    def form(name: str, unroll: int, devices: int = 1, chunk: int | None = None) -> Contender:
        def scan(columns: Any, samples: Any) -> Any:
            def step(state: Any, sample: Any) -> Any:
                (w, b, buffer_w, buffer_b), (x, y) = state, sample
                slope = 2 * (w * x + b - y)
                w, buffer_w = apply_rule(w, slope * x, buffer_w, columns, jax.numpy.where)
                b, buffer_b = apply_rule(b, slope, buffer_b, columns, jax.numpy.where)
                return (w, b, buffer_w, buffer_b), None

            zero = jax.numpy.zeros_like(columns[0])
            first, _ = step((zero, zero, None, None), tuple(s[0] for s in samples))
            rest = tuple(s[1:] for s in samples)
            return jax.numpy.stack(jax.lax.scan(step, first, rest, unroll=unroll)[0][:2], axis=1)

        return shared(name, scan, prepared.columns(), samples, prepared.steps, devices, chunk)

    yield form("jax, jit scan", unroll=1)
    for unroll in (2, 4, 5, 8):
        yield form(f"jax, jit scan, unroll {unroll}", unroll)
    for unroll, chunk in itertools.product((1, 2, 3, 5), (None, 1024, 2048, 4096)):
        name = f"jax, jit scan, {CORES} devices, {f'chunks of {chunk}, ' if chunk else ''}unroll {unroll}"
        yield form(name, unroll, CORES, chunk)


def matrices(prepared: Workload) -> Iterator[Contender]:
    """Yield jitted jax scans whose state is one matrix, in all forms."""
    design = np.stack([prepared.x, np.ones_like(prepared.x)], axis=1)[:, None, :]
    return matrix_forms(design, prepared.y[:, None], prepared.columns(), prepared.steps)


def largest_deviation(final: Floats, expected: Floats) -> float:
    """Return the deviation of final parameters, (2, n) of the first n trials, from the expected ones of all."""
    return float(np.abs(final - expected[:, : final.shape[1]]).max())


def verify(
    truth: Contender,
    contenders: list[Contender],
    deviation: Callable[[Floats, Floats], float] = largest_deviation,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Return each contender's deviation from ``truth``, checked against the tolerance; runs each of them once."""
    expected = truth.result(truth.run())
    if not np.isfinite(expected).all():
        raise BenchmarkError(f"{truth.name} diverged: these settings compare different amounts of work")
    deviations = {}
    for contender in contenders:
        found = deviation(contender.result(contender.run()), expected)
        if not found <= tolerance:
            raise BenchmarkError(f"{contender.name} is {found:.3g} off {truth.name}'s final parameters")
        deviations[contender.name] = found
    return deviations


def rate(contender: Contender) -> float:
    """Return the trial-steps per second of one run."""
    time.sleep(0.05)  # let the last contender's threads go to sleep
    begin = time.perf_counter()
    contender.run()
    return contender.trial_steps / (time.perf_counter() - begin)


def _print(
    prepared: Workload,
    rows: list[Contender],
    rates: dict[str, list[float]],
    deviations: dict[str, float],
    peak: float,
    writing: float,
    load: float,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    info = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((entry.split(":", 1)[1].strip() for entry in info if entry.startswith("model name")), "unknown CPU")
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "numba", "numpy"))
    console.print(f"{cpu}, {CORES} cores; Python {platform.python_version()}, {versions}; load {load:.1f} before")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = [row.name for row in rows[:2]]
    table = Table(
        title=f"SGD on a line, all five hyperparameters mixed: "
        f"{prepared.trials:,} trials x {prepared.steps:,} steps, float32"
    )
    table.add_column(no_wrap=True)
    for heading in ("trial-steps/s", "lowest .. highest", *(f"{name}\nfaster by" for name in ours), "max |Δ(w, b)|"):
        table.add_column(heading, justify="right")
    for name, median in medians.items():
        ratios = (f"{medians[our] / median:,.2f} x" for our in ours)
        spread = f"{min(rates[name]):.2g} .. {max(rates[name]):.2g}"
        table.add_row(name, f"{median:.3g}", spread, *ratios, f"{deviations[name]:.1e}")
    console.print(table)
    for peer, target in TARGETS.items():
        for name in (name for name in medians if name.startswith(peer)):
            ratio = medians[ours[0]] / medians[name]
            console.print(
                f"target {target:g} x {peer}: {ratio:.2f} x {name}, {'reached' if ratio >= target else 'MISSED'}"
            )
    recorded = ours[1]
    extra = 1 / medians[recorded] - 1 / medians[ours[0]]
    points, written = prepared.recorded_points, prepared.trials * prepared.recorded_points * POINT_BYTES
    least = written / writing / (prepared.trials * prepared.steps)
    cost, floor = extra * medians[ours[0]], least * medians[ours[0]]
    console.print(
        f"recording {points} points costs {cost:.0%} of the run; writing {written / 1e6:,.0f} MB to fresh memory, "
        f"at {writing / 1e9:.1f} GB/s, takes {floor:.0%} of it"
    )
    share = FLOP * medians[ours[0]] / peak
    console.print(
        f"limit: {FLOP} flop a trial-step, the cores multiply and add at {peak:.3g} flop/s without FMA: "
        f"{ours[0]} is at {share:.0%} of {peak / FLOP:.3g} trial-steps/s"
    )


if __name__ == "__main__":
    sys.exit(main())
