"""Heartbeats of shards on Ray: a task writes its steps to the cluster's key-value store, and the driver reads them.

The store is part of the cluster's head: nothing is started for it, and shards that take less than a second do not use
it. A thread of its own writes, so that a slow or lost head never stops a shard.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from sweeps.execution import worker
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardFailure, ShardResult, ShardStored

_NAMESPACE = "sweeps"
_SECONDS = 1.0  # between heartbeats
_MOST_READS = 64  # at a time: each is a request to the head


def run_shard(
    folder: str | None, prepared: PreparedSweep, shard: Shard, run: str
) -> ShardResult | ShardStored | ShardFailure:
    """Run a shard as a Ray task, with a heartbeat.

    Args:
        folder: the folder of the sweep file's module, imported from there unless a package has the same name.
        prepared: the sweep.
        shard: the shard.
        run: a name for this run of the sweep that no other has.
    """
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)
    heartbeat = _Heartbeat(_key(run, shard.index))
    heartbeat.start()
    try:
        return worker.run_shard(prepared, shard, heartbeat.count)
    finally:
        heartbeat.ended.set()


class Heartbeats:
    """The last heartbeats of the shards of one run, as the driver reads them."""

    def __init__(self) -> None:
        """Choose a name for the run."""
        self.run = secrets.token_hex(8)
        self.steps = 0  # that the shards in flight have done, summed over trials
        self._steps: dict[int, int] = {}  # by shard
        self._first = 0
        self.read_at = 0.0

    def read(self, shards: Sequence[int], now: float) -> None:
        """Read some of the shards' heartbeats, in turns; those that cannot be read keep their last value."""
        self.read_at = now
        first = self._first if self._first < len(shards) else 0
        self._first = first + _MOST_READS
        for index in shards[first : self._first]:
            try:
                steps = _internal_kv_get(_key(self.run, index), namespace=_NAMESPACE)
            except Exception:  # noqa: BLE001 - progress is optional; a lost cluster is noticed elsewhere
                return
            if steps:
                self.end(index)
                self._steps[index] = int(steps)
                self.steps += int(steps)

    def end(self, shard: int) -> None:
        """Count the steps of a shard no longer, because it has ended."""
        self.steps -= self._steps.pop(shard, 0)

    def forget(self) -> None:
        """Remove the heartbeats from the cluster."""
        with suppress(Exception):  # a few bytes stay in the head if it cannot be reached
            _internal_kv_del(_key(self.run), del_by_prefix=True, namespace=_NAMESPACE)


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
