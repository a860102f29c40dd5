"""The function that workers run: train a shard and return it as an Arrow table, independent of Ray and MLflow."""

from __future__ import annotations

import socket
import time
import traceback
from dataclasses import replace

from sgdcore.blas_threads import one_thread
from sweeps.errors import InputError
from sweeps.execution.training import train_table
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardFailure, ShardResult, ShardStored


def run_shard(prepared: PreparedSweep, shard: Shard) -> ShardResult | ShardStored | ShardFailure:
    """Train a shard, and store it if workers do. Return an exception as a ShardFailure, so that others still run."""
    began = time.perf_counter()
    try:
        with one_thread():
            trials = prepared.plan.trials(shard.start, shard.stop)
            trials = trials if shard.rows is None else trials.take(shard.rows)
            table = train_table(prepared, trials)
    except Exception:  # noqa: BLE001 - reported with the shard
        return ShardFailure(shard, traceback.format_exc())
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
