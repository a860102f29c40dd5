"""jax in many forms: one jitted scan over the steps of all trials of a linear model, with a matrix of parameters.

State (P, T) or (T, P); products as ``dot`` or, for batches of one, as multiplications and a sum; trials divided among
one host device per core, as a whole or by ``lax.map`` over chunks that fit the cache; the scan unrolled or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.contenders import CORES, BenchmarkError, Contender, Floats, apply_rule

LONGEST_SUM = 16  # beyond this many parameters an unrolled sum takes minutes to compile
UNROLLED = (1, 4)
CHUNKS = (None, 512)


def imported() -> Any:
    """Import jax with one host device per core.

    Raises:
        BenchmarkError: jax is not installed.
    """
    try:
        import jax
    except ImportError as error:
        raise BenchmarkError('jax is not installed: pip install -e ".[bench]"', code=2) from error
    jax.config.update("jax_num_cpu_devices", CORES)
    return jax


def matrix_forms(design: Floats, targets: Floats, columns: tuple[Any, ...], steps: int) -> Iterator[Contender]:
    """Yield all forms, started from zeros, cycling through the batches in order.

    Args:
        design: (batches, B, P) inputs, the last of which can be 1 for a bias.
        targets: (batches, B).
        columns: lr, momentum, weight_decay, 1 - dampening, nesterov; (T,) each.
        steps: per trial.

    Raises:
        BenchmarkError: jax is not installed.
    """
    jax = imported()
    batch, parameters = design.shape[1:]
    order = np.arange(steps) % len(design)

    def gradient(params: Any, index: Any, by_parameter: bool, dot: bool) -> Any:
        x, y = jax.numpy.asarray(design)[index], jax.numpy.asarray(targets)[index]
        if not dot and by_parameter:
            return 2 * (sum(x[0, j] * params[j] for j in range(parameters)) - y[0]) * x[0][:, None]
        if not dot:
            return 2 * ((params * x[0]).sum(1) - y[0])[:, None] * x[0]
        if by_parameter:
            return 2 / batch * (x.T @ (x @ params - y[:, None]))
        return 2 / batch * ((params @ x.T - y) @ x)

    def form(by_parameter: bool, dot: bool, unroll: int, chunk: int | None) -> Contender:
        def scan(columns: Any, order: Any) -> Any:
            trials = columns[0].size
            if not by_parameter:
                columns = tuple(column[:, None] for column in columns)

            def step(state: Any, index: Any) -> Any:
                params, buffer = state
                slope = gradient(params, index, by_parameter, dot)
                return apply_rule(params, slope, buffer, columns, jax.numpy.where), None

            zero = jax.numpy.zeros((parameters, trials) if by_parameter else (trials, parameters), np.float32)
            first, _ = step((zero, None), order[0])
            final = jax.lax.scan(step, first, order[1:], unroll=unroll)[0][0]
            return final.T if by_parameter else final

        name = f"jax, {'(P, T)' if by_parameter else '(T, P)'} {'dot' if dot else 'sum'}"
        name += f"{f', chunks of {chunk}' if chunk else ''}, unroll {unroll}"
        return shared(name, scan, columns, order, steps, CORES, chunk)

    for by_parameter, dot in itertools.product((True, False), (True, False) if batch == 1 else (True,)):
        for unroll, chunk in itertools.product(UNROLLED, CHUNKS):
            if dot or not by_parameter or parameters <= LONGEST_SUM:
                yield form(by_parameter, dot, unroll, chunk)


def shared(
    name: str, scan: Any, columns: tuple[Any, ...], inputs: Any, steps: int, devices: int, chunk: int | None
) -> Contender:
    """Return a contender whose trials are divided among devices and run chunk by chunk on each.

    Args:
        name: the contender's name.
        scan: (columns of some trials, inputs) -> their final parameters, (trials, P).
        columns: (T,) each; if T is not divisible, idle trials are added, fewer than the chunks.
        inputs: arrays that every chunk gets, on all devices.
        steps: per trial.
        devices: number of devices.
        chunk: trials per chunk; None for a device's whole share.
    """
    jax = imported()
    by_trial, everywhere = jax.sharding.PartitionSpec("cores"), jax.sharding.PartitionSpec()
    trials = len(columns[0])
    share = -(-trials // devices)
    chunks = -(-share // (chunk or share))
    padding = devices * chunks * (-(-share // chunks)) - trials

    def by_chunks(columns: Any, inputs: Any) -> Any:
        pieces = tuple(column.reshape(chunks, -1) for column in columns)
        finals = jax.lax.map(lambda piece: scan(piece, inputs), pieces)
        return finals.reshape(-1, finals.shape[-1])

    mesh = jax.make_mesh((devices,), ("cores",), devices=jax.devices("cpu")[:devices])
    parts = (tuple(np.pad(column, (0, padding)) for column in columns), inputs)
    specs = (by_trial, everywhere)
    places = (jax.sharding.NamedSharding(mesh, spec) for spec in specs)
    arguments = tuple(jax.device_put(part, place) for part, place in zip(parts, places, strict=True))
    run = scan if chunks == 1 else by_chunks
    if devices > 1:
        run = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=by_trial, check_vma=False)
    compiled = jax.jit(run)
    return Contender(
        name,
        trials * steps,
        lambda: jax.block_until_ready(compiled(*arguments)),
        lambda final: np.asarray(final, np.float32)[:trials].T,
    )
