"""The interface of executors: run shards with a bounded number in flight, and yield results as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Protocol

from sweeps.planning.packing import Workers
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardFailure, ShardResult, ShardStored

if TYPE_CHECKING:
    from sweeps.execution.progress import Counts

ShardOutcome = ShardResult | ShardStored | ShardFailure


class Executor(Protocol):
    """The interface of an executor, which runs shards."""

    @property
    def description(self) -> str:
        """Where shards run, in a few words for the terminal."""

    @property
    def is_inline(self) -> bool:
        """Whether shards run in this process."""

    @property
    def is_local(self) -> bool:
        """Whether shards run in other processes of this host, which can store them in a folder."""

    @property
    def in_flight(self) -> int:
        """The number of submitted shards that have not finished."""

    @property
    def backlog(self) -> int:
        """The number of shards that have finished and that run() will yield next, without waiting."""

    @property
    def trial_steps(self) -> int:
        """The steps done in the shards in flight, summed over trials; it can be a few seconds old."""

    @property
    def cores(self) -> int:
        """The number of CPU cores; available after start()."""

    def start(self) -> None:
        """Connect to, or start, what shards run on.

        Raises:
            ExecutorError: it cannot be reached.
        """

    def check(self, device: str) -> None:
        """Check that a sweep with this ``training.device`` can run here. Call it after start().

        Raises:
            ExecutorError: the device is not available.
        """

    def on_cpu(self, device: str) -> bool:
        """Return whether a sweep with this ``training.device`` is trained on CPUs only. Call it after start()."""

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        """Yield results as they arrive, in any order. Closing the generator abandons the shards in flight."""

    def meter(self, sweep_id: str, name: str) -> Callable[[Counts], None] | None:
        """Return a function that updates the cluster's metrics; None without a cluster. Call it after start()."""

    def stop(self) -> None:
        """Disconnect from, or stop, what start() started. Without start(), or if called again, do nothing."""


def workers_of(executor: Executor, device: str) -> Workers:
    """Return what computes the shards of a sweep with this ``training.device``. Call it after start()."""
    cores = executor.cores
    return Workers(cores, threads=cores if executor.is_inline else 1, on_cpu=executor.on_cpu(device))
