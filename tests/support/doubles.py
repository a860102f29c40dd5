"""Test doubles for parts of a sweep that a test does not examine: tracker, progress, executor."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from sweeps.execution.executor import ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard, ShardFailure


class Untracked:
    """A tracker that accepts everything and stores nothing."""

    uri = "nowhere"
    is_embedded = False
    notices = ()

    def check(self, writer: str = "auto") -> None:
        pass

    def open(self, experiment: str, run_id: str | None = None) -> None:
        pass

    def start(self, sweep: Any) -> dict[str, str]:
        return {}

    def amend(self, sweep: Any, chosen: Any) -> None:
        pass

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        yield len(table)

    def end_trials(self) -> None:
        pass

    def hurry(self) -> None:
        pass

    def finish(self, sweep: Any, metrics: Any, tags: Any, complete: bool = True) -> None:
        pass

    def interrupt(self) -> None:
        pass


class Silent:
    """Progress without output."""

    def begin(self, to_compute: int, to_log: int) -> None:
        pass

    def extend(self, to_compute: int, to_log: int) -> None:
        pass

    def computed(self, trials: int) -> None:
        pass

    def training(self, trials: float) -> None:
        pass

    def failed(self, trials: int) -> None:
        pass

    def logged(self, trials: int) -> None:
        pass

    def end(self) -> None:
        pass


class Without(InlineExecutor):
    """An executor on which some shards fail."""

    def __init__(self, failing: set[int]) -> None:
        self.failing = failing

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        for result in super().run(prepared, shards):
            failed = result.shard.index in self.failing
            yield ShardFailure(result.shard, "it failed") if failed else result


class Stopped(InlineExecutor):
    """An executor that computes some shards, in a given order, and is then interrupted."""

    def __init__(self, order: Callable[[list[Shard]], list[Shard]], count: int) -> None:
        self.order, self.count = order, count

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        yield from islice(super().run(prepared, self.order(list(shards))), self.count)
        raise KeyboardInterrupt
