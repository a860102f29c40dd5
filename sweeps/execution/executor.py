"""What every executor does: run shards, give results back as they come, with a bounded number in flight."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Protocol

from sweeps.plan.prepared import PreparedSweep
from sweeps.plan.shards import Shard, ShardFailure, ShardResult, ShardStored

if TYPE_CHECKING:
    from sweeps.execution.progress import Counts

ShardOutcome = ShardResult | ShardStored | ShardFailure


class Executor(Protocol):
    """Runs shards somewhere."""

    @property
    def description(self) -> str:
        """Where, in a few words for the terminal."""

    @property
    def in_flight(self) -> int:
        """How many shards were submitted and have not finished."""

    @property
    def cores(self) -> int:
        """After start(): how many CPU cores there are."""

    def start(self) -> None:
        """Bring up what shards run on.

        Raises:
            ExecutorError: it cannot be reached.
        """

    def check(self, device: str) -> None:
        """After start(): whether a sweep that asks for this device (``training.device``) can run here.

        Raises:
            ExecutorError: it asks for a GPU that is not there.
        """

    def on_cpu(self, device: str) -> bool:
        """After start(): whether a sweep that asks for this device is trained on CPUs only."""

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        """Results as they come, in any order; closing the generator gives up the shards in flight."""

    def meter(self, sweep_id: str, name: str) -> Callable[[Counts], None] | None:
        """After start(): what tells the cluster's metrics how far a sweep is; None where there are none."""

    def stop(self) -> None:
        """End what start() brought up; does nothing twice or before start()."""
