"""Heartbeats of shards on Ray: a task writes its steps to the cluster's key-value store, and the driver reads them.

The store is part of the cluster's head: nothing is started for it, and shards that take less than a second do not use
it. A thread of its own writes, so that a slow or lost head never stops a shard.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from sweeps.execution.worker import run_shard
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardFailure, ShardResult, ShardStored

_NAMESPACE = "sweeps"
_SECONDS = 1.0  # between heartbeats


def run_counted(prepared: PreparedSweep, shard: Shard, run: str) -> ShardResult | ShardStored | ShardFailure:
    """Run a shard as a Ray task, with a heartbeat.

    Args:
        prepared: the sweep.
        shard: the shard.
        run: a name for this run of the sweep that no other has.
    """
    heartbeat = _Heartbeat(_key(run, shard.index))
    heartbeat.start()
    try:
        return run_shard(prepared, shard, heartbeat.count)
    finally:
        heartbeat.ended.set()


def steps_done(run: str, shards: Iterable[int]) -> int:
    """Return the steps of running shards, summed over trials, as of their last heartbeats."""
    found = (_internal_kv_get(_key(run, index), namespace=_NAMESPACE) for index in shards)
    return sum(int(steps) for steps in found if steps)


def forget(run: str) -> None:
    """Remove the heartbeats of a run."""
    _internal_kv_del(_key(run), del_by_prefix=True, namespace=_NAMESPACE)


class _Heartbeat(threading.Thread):
    """A thread that writes a shard's steps every second until ``ended`` is set."""

    def __init__(self, key: str) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.ended = threading.Event()
        self._key, self._steps = key, 0

    def count(self, steps: int) -> None:
        """Count steps; called by the training threads, one at a time."""
        self._steps += steps

    def run(self) -> None:
        """Write the steps, if there are any, once a second."""
        while not self.ended.wait(_SECONDS):
            try:
                _internal_kv_put(self._key, str(self._steps), namespace=_NAMESPACE)
            except Exception:  # noqa: BLE001 - progress is optional, and the next heartbeat counts everything
                continue


def _key(run: str, shard: int | None = None) -> str:
    return f"steps/{run}/" + ("" if shard is None else str(shard))
