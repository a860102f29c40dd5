"""The inline executor, which runs shards one after another in this process, on all its cores."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable

from sgdcore import KernelUnavailable
from sgdcore.devices import resolve
from sweeps.errors import ExecutorError
from sweeps.execution.executor import ShardOutcome
from sweeps.execution.worker import run_shard
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard


class InlineExecutor:
    """An executor that runs shards in this process."""

    description = "in this process"
    is_inline = True
    is_local = False
    in_flight = backlog = 0
    trial_steps = 0

    @property
    def cores(self) -> int:
        """The number of CPU cores that this process can use."""
        return len(os.sched_getaffinity(0))

    def start(self) -> None:
        """Do nothing."""

    def check(self, device: str) -> None:
        """Check that this machine has the device.

        Raises:
            ExecutorError: it has no such GPU.
        """
        try:
            resolve(device)
        except KernelUnavailable as error:
            raise ExecutorError(f"training.device: {error}") from error

    def on_cpu(self, device: str) -> bool:
        """Return whether a sweep with this device is trained on the CPU."""
        return resolve(device) == "cpu"

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        """Run each shard when the next result is requested, and yield its result."""
        for shard in shards:
            self.in_flight = 1
            result = run_shard(prepared, shard, self._count)
            self.in_flight = self.trial_steps = 0
            yield result

    def _count(self, steps: int) -> None:
        self.trial_steps += steps

    def meter(self, sweep_id: str, name: str) -> None:
        """Return None: there is no cluster."""

    def stop(self) -> None:
        """Do nothing."""
