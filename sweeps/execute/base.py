"""What every executor does: run shards, give results back as they come, with a bounded number in flight."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Protocol

from sweeps.plan import Shard
from sweeps.worker import ShardFailure, ShardResult, Work

Outcome = ShardResult | ShardFailure


class Executor(Protocol):
    """Runs shards somewhere."""

    @property
    def description(self) -> str:
        """Where, in a few words for the terminal."""

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

    def run(self, work: Work, shards: Iterable[Shard]) -> Generator[Outcome, None, None]:
        """Results as they come, in any order; closing the generator gives up the shards in flight."""

    def stop(self) -> None:
        """End what start() brought up; does nothing twice or before start()."""
