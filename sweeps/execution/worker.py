"""The function that workers run: train a shard and return it as an Arrow table, independent of Ray and MLflow."""

from __future__ import annotations

import socket
import time
import traceback
from dataclasses import replace

from sgdcore.blas_threads import one_thread
from sgdcore.kernels.base import OnSteps
from sweeps.errors import InputError
from sweeps.execution.rungs import train_rung
from sweeps.execution.training import train_table
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardFailure, ShardResult, ShardStored


def run_shard(
    prepared: PreparedSweep, shard: Shard, on_steps: OnSteps | None = None
) -> ShardResult | ShardStored | ShardFailure:
    """Train a shard, and store it if workers do. Return an exception as a ShardFailure, so that others still run.

    Args:
        prepared: the sweep.
        shard: the shard.
        on_steps: called as by sgdcore.train.
    """
    began = time.perf_counter()
    try:
        with one_thread():
            trials = prepared.plan.trials(shard.start, shard.stop)
            trials = trials if shard.rows is None else trials.take(shard.rows)
            if shard.rung is None:
                table = train_table(prepared, trials, on_steps=on_steps)
            else:
                table = train_rung(prepared, trials, shard.rung, on_steps)
    except Exception:  # noqa: BLE001 - reported with the shard
        return ShardFailure(shard, traceback.format_exc())
    shard = replace(shard, rung=None)  # the states need not travel back
    return _stored(prepared, ShardResult(shard, table, time.perf_counter() - began))


def _stored(prepared: PreparedSweep, result: ShardResult) -> ShardResult | ShardStored:
    """Store a complete shard if workers do. Return its table if it was not stored, with the reason."""
    if prepared.shard_writer is None or result.shard.rows is not None:
        return result
    try:
        prepared.shard_writer.write(result)
    except InputError as error:
        return replace(result, unstored=f"{socket.gethostname()}: {error}")
    return ShardStored(result.shard, result.seconds)
