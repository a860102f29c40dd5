"""Trial-steps per second of torch.optim.SGD's rule on a small perceptron: sgdcore, jax and torch.optim itself.

Task: an mlp 8-32-1 with relu and mse on 1,024 random samples, batches of 32 in order, float32; lr, momentum,
weight_decay, dampening and nesterov differ from trial to trial, all contenders apply them all, and no trial diverges.

- sgdcore: ``sgdcore.train`` as a user calls it, with the numba and the torch kernel (``--compile``: also with
  torch.compile), and the same network as a module that is recognised; and with a schedule by step, a parameter group
  or clipping that change nothing but are applied.
- jax, if it is installed: one jitted step with ``jax.grad``, scanned over the batches: ``vmap`` of the scan, a scan of
  ``vmap``, and with trials as the last axis; unrolled; on one host device, and with the trials divided among one per
  core.
- torch.optim: ``torch.optim.SGD`` and nn.Sequential, one trial at a time: two trials, counted per trial-step.

First every contender's final parameters are compared with those of sgdcore's numba kernel (exit code 1 if they are
not close); this also compiles. Then they take turns, ``--repeats`` times; the table shows medians. The limit is the
rate of independent fused multiply-adds of the widest vectors on all cores, measured in the same turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import sgdcore
from benchmarks.contenders import CORES, BenchmarkError, Contender, Floats, Workload, apply_rule
from benchmarks.engine import rate, verify
from benchmarks.jax_forms import imported
from benchmarks.peaks import fused_rate

INPUTS, HIDDEN, BATCH, SAMPLES = 8, 32, 32, 1024
MULTIPLY_ADDS = BATCH * (2 * INPUTS * HIDDEN + 3 * HIDDEN)  # forward and gradients; and once back through the output
TARGETS = {"jax": 1.0, "torch.optim": 30.0}  # the project's goals: sgdcore is at least this many times faster
RECOGNISED = 0.95  # and a recognised module is at least this fast beside the mlp
TOLERANCE = 1e-5  # for parameters of about 1: float32 sums in a different order


@dataclass(frozen=True)
class Networks:
    """The trials that every contender runs."""

    task: sgdcore.Task
    hyperparams: sgdcore.Hyperparams
    start: np.ndarray[Any, np.dtype[np.float32]]  # (T, P)
    epochs: int

    @classmethod
    def of(cls, trials: int, epochs: int) -> Networks:
        """Return random hyperparameters, none of which diverges."""
        rng, line = np.random.default_rng(0), Workload.of(trials, 5)
        inputs = rng.standard_normal((SAMPLES, INPUTS))
        task = sgdcore.Task(
            sgdcore.Dataset(inputs, np.sin(inputs[:, 0]) + inputs[:, 1] * inputs[:, 2]), sgdcore.MlpModel((HIDDEN,))
        )
        hyperparams = sgdcore.Hyperparams(line.lr, line.momentum, line.weight_decay, line.dampening, line.nesterov)
        return cls(task, hyperparams, task.initial_params(np.arange(trials), "float32").astype(np.float32), epochs)

    @property
    def trial_steps(self) -> int:
        """The number of steps of all trials."""
        return len(self.hyperparams) * self.epochs * (SAMPLES // BATCH)


def main() -> int:
    """Verify, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="also measure the torch kernel with torch.compile")
    options = parser.parse_args()
    if min(options.trials, options.epochs, options.repeats) < 1 or options.trials % CORES:
        parser.error(f"trials, epochs and repeats must be positive, trials a multiple of the {CORES} cores")
    try:
        compare(Networks.of(options.trials, options.epochs), options.repeats, options.compile)
    except BenchmarkError as error:
        print(f"benchmarks.networks: {error}", file=sys.stderr)
        return error.code
    return 0


def compare(prepared: Networks, repeats: int, compiled: bool) -> None:
    """Verify all contenders, run them in turns, print the table."""
    ours = list(sgdcore_contenders(prepared, compiled))
    forms, loop = list(jax_contenders(prepared)) if find_spec("jax") else [], torch_optim(prepared)
    deviations = verify(ours[0], [*ours, *forms, loop], deviation, TOLERANCE)
    fastest = sorted(forms, key=lambda form: max(rate(form) for _ in range(3)))[-1:]
    rows = list(dict.fromkeys([*ours, *forms[:1], *fastest, loop]))
    rates: dict[str, list[float]] = {row.name: [] for row in rows}
    peaks = []
    for _ in range(repeats):
        for row in rows:
            rates[row.name].append(rate(row))
        peaks.append(fused_rate() / 2)
    _print(prepared, rates, deviations, statistics.median(peaks))


def deviation(final: Floats, expected: Floats) -> float:
    """Return the largest deviation of the closest 99 % of trials from the expected ones, (n, P) for the first n.

    If rounding moves a unit's sum across relu's kink, two correct runs diverge: hence not all trials.
    """
    return float(np.quantile(np.abs(final - expected[: len(final)]).max(axis=1), 0.99))


def sgdcore_contenders(prepared: Networks, compiled: bool) -> Iterator[Contender]:
    """Yield sgdcore.train, recording the ends only."""
    plain = prepared.hyperparams
    five = {name: getattr(plain, name) for name in ("lr", "momentum", "weight_decay", "dampening", "nesterov")}
    constant = sgdcore.Schedule(sgdcore.Scheduler("constant", factor=1.0), interval="step")
    others = {
        "scheduled": sgdcore.Hyperparams(**five, schedule=constant),
        "a group": sgdcore.Hyperparams(**five, groups={"bias": {}}),
        "clipped": sgdcore.Hyperparams(**five, clip_grad_norm=1e9, clip_grad_value=1e9),
    }
    module = sgdcore.Task(prepared.task.dataset, sgdcore.ModuleModel(network))
    forms = [("numba", "", plain), ("numba", "a module", plain), ("torch", "", plain)]
    forms += [("torch", "compiled", plain)] if compiled else []
    forms += [(kernel, name, rows) for kernel in ("numba", "torch") for name, rows in others.items()]
    for kernel, form, rows in forms:
        run = partial(
            sgdcore.train, module if form == "a module" else prepared.task, rows,
            epochs=prepared.epochs, batch_size=BATCH, start=prepared.start, groups={"bias": ["*.bias"]},
            record=sgdcore.Recording(points=0), kernel=kernel, device="cpu", compile=form == "compiled",
        )  # fmt: skip
        name = f"sgdcore, {kernel}{form and ', '}{form}"
        yield Contender(name, prepared.trial_steps, run, lambda trajectories: trajectories.params)


def network() -> torch.nn.Module:
    """Return the network as a user of torch writes it."""
    return torch.nn.Sequential(torch.nn.Linear(INPUTS, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 1))


def jax_contenders(prepared: Networks) -> Iterator[Contender]:
    """Yield the jitted scan in all its forms, vmap of a scan first.

    Raises:
        BenchmarkError: jax is not installed.
    """
    jax = imported()
    from jax import lax
    from jax import numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    by_trial, everywhere = PartitionSpec("cores"), PartitionSpec()
    rows = prepared.hyperparams
    numbers = np.float32([rows.lr, rows.momentum, rows.weight_decay, 1 - rows.dampening])
    columns = (*numbers, rows.nesterov)
    features = np.tile(prepared.task.features.astype(np.float32).reshape(-1, BATCH, INPUTS), (prepared.epochs, 1, 1))
    targets = np.tile(prepared.task.dataset.targets.astype(np.float32).reshape(-1, BATCH), (prepared.epochs, 1))

    def split(p: Any) -> Any:
        first = INPUTS * HIDDEN
        return p[:first].reshape(HIDDEN, INPUTS, *p.shape[1:]), p[first : first + HIDDEN], p[first + HIDDEN : -1], p[-1]

    def loss(params: Any, x: Any, y: Any) -> Any:
        w, b, v, c = params
        return jnp.mean((jax.nn.relu(x @ w.T + b) @ v + c - y) ** 2)

    def losses(params: Any, x: Any, y: Any) -> Any:  # trials last; the gradient of the sum is each trial's own gradient
        w, b, v, c = params
        hidden = jax.nn.relu(jnp.einsum("hdt,bd->bht", w, x) + b)
        return (((hidden * v).sum(1) + c - y[:, None]) ** 2).mean(0).sum()

    def step(loss: Any, state: Any, columns: Any, sample: Any) -> Any:
        params, buffers = state
        gradients = jax.grad(loss)(params, *sample)
        rows = zip(params, gradients, buffers or [None] * 4, strict=True)
        pairs = [apply_rule(*row, columns, jnp.where) for row in rows]
        return tuple(p for p, _ in pairs), tuple(b for _, b in pairs)

    def scanned(step: Any, params: Any, columns: Any, samples: Any, unroll: int) -> Any:
        state = step((params, None), columns, tuple(s[0] for s in samples))
        rest = tuple(s[1:] for s in samples)
        return lax.scan(lambda state, sample: (step(state, columns, sample), None), state, rest, unroll=unroll)[0][0]

    def flat(params: Any) -> Any:
        return jnp.concatenate([p.reshape(-1) for p in params])

    def vmap_of_scan(start: Any, columns: Any, samples: Any, unroll: int) -> Any:
        def one(p: Any, columns: Any) -> Any:
            return flat(scanned(partial(step, loss), split(p), columns, samples, unroll))

        return jax.vmap(one)(start, columns)

    def scan_of_vmap(start: Any, columns: Any, samples: Any, unroll: int) -> Any:
        one_step = jax.vmap(partial(step, loss), in_axes=(0, 0, None))
        return jax.vmap(flat)(scanned(one_step, jax.vmap(split)(start), columns, samples, unroll))

    def trials_last(start: Any, columns: Any, samples: Any, unroll: int) -> Any:
        finals = scanned(partial(step, losses), split(start.T), columns, samples, unroll)
        return jnp.concatenate([p.reshape(-1, len(start)) for p in finals]).T

    def form(name: str, run: Callable[..., Any], unroll: int, devices: int) -> Contender:
        mesh = jax.make_mesh((devices,), ("cores",), devices=jax.devices("cpu")[:devices])
        places = (NamedSharding(mesh, by_trial), NamedSharding(mesh, by_trial), NamedSharding(mesh, everywhere))
        parts = (prepared.start, columns, (features, targets))
        arguments = tuple(jax.device_put(part, place) for part, place in zip(parts, places, strict=True))
        run = partial(run, unroll=unroll)
        if devices > 1:
            specs = (by_trial, by_trial, everywhere)
            run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=by_trial, check_vma=False)
        compiled = jax.jit(run)
        name = f"jax, {name}{f', unroll {unroll}' if unroll > 1 else ''}{f', {devices} devices' if devices > 1 else ''}"
        return Contender(name, prepared.trial_steps, lambda: jax.block_until_ready(compiled(*arguments)))

    yield form("vmap of scan", vmap_of_scan, 1, 1)
    for name, run in (("vmap of scan", vmap_of_scan), ("scan of vmap", scan_of_vmap), ("trials last", trials_last)):
        for unroll in (1, 2):
            yield form(name, run, unroll, CORES)


def torch_optim(prepared: Networks, trials: int = 2, device: str = "cpu") -> Contender:
    """Return torch.optim.SGD on nn.Sequential, one trial after another."""
    features = torch.tensor(prepared.task.features, dtype=torch.float32, device=device).split(BATCH)
    targets = torch.tensor(prepared.task.dataset.targets, dtype=torch.float32, device=device)[:, None].split(BATCH)

    def run() -> list[np.ndarray[Any, Any]]:
        finals = []
        for trial in range(trials):
            model = network()
            torch.nn.utils.vector_to_parameters(torch.from_numpy(prepared.start[trial]), model.parameters())
            model.to(device)
            optimizer = torch.optim.SGD(model.parameters(), **prepared.hyperparams.arguments(trial))
            for _ in range(prepared.epochs):
                for x, y in zip(features, targets, strict=True):
                    optimizer.zero_grad()
                    torch.nn.functional.mse_loss(model(x), y).backward()
                    optimizer.step()
            finals.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach().cpu().numpy())
        return finals

    return Contender("torch.optim, trial by trial", trials * prepared.trial_steps // len(prepared.hyperparams), run)


def _print(prepared: Networks, rates: dict[str, list[float]], deviations: dict[str, float], peak: float) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ours = next(iter(medians))
    trials = len(prepared.hyperparams)
    title = f"an mlp {INPUTS}-{HIDDEN}-1, batches of {BATCH}, all five hyperparameters mixed: {trials:,} trials"
    table = Table(title=f"{title} x {prepared.trial_steps // trials:,} steps, float32, {CORES} cores")
    table.add_column(no_wrap=True)
    for heading in ("trial-steps/s", "lowest .. highest", f"{ours}\nfaster by", "|Δ| of 99 %"):
        table.add_column(heading, justify="right")
    for name, median in medians.items():
        spread = f"{min(rates[name]):.2g} .. {max(rates[name]):.2g}"
        table.add_row(name, f"{median:.3g}", spread, f"{medians[ours] / median:,.2f} x", f"{deviations[name]:.1e}")
    console.print(table)
    for peer, target in TARGETS.items():
        for name in (name for name in medians if name.startswith(peer)):
            ratio = medians[ours] / medians[name]
            console.print(
                f"target {target:g} x {peer}: {ratio:.2f} x {name}, {'reached' if ratio >= target else 'MISSED'}"
            )
    ratio = medians["sgdcore, numba, a module"] / medians[ours]
    said = "reached" if ratio >= RECOGNISED else "MISSED"
    console.print(f"target {RECOGNISED:.0%} of {ours} by a recognised module: {ratio:.0%}, {said}")
    console.print(
        f"limit: {MULTIPLY_ADDS:,} multiply-adds a trial-step, the cores fuse {peak:.3g} a second: {ours} is at "
        f"{MULTIPLY_ADDS * medians[ours] / peak:.0%} of {peak / MULTIPLY_ADDS:.3g} trial-steps/s"
    )


if __name__ == "__main__":
    sys.exit(main())
