"""The inline executor: shards one after another in this process, the engine on all its cores."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from sweeps.execute.base import Outcome
from sweeps.plan import Shard
from sweeps.worker import Work, run_shard


class InlineExecutor:
    """Runs shards in this process."""

    description = "in this process"

    def start(self) -> None:
        """Nothing to bring up."""

    def run(self, work: Work, shards: Iterable[Shard]) -> Generator[Outcome, None, None]:
        """Run each shard when the next result is asked for."""
        for shard in shards:
            yield run_shard(work, shard)

    def stop(self) -> None:
        """Nothing to end."""
