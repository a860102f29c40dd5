"""PreparedSweep: a config with its task and its plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sgdcore import InvalidTask, Task
from sgdcore.engine import check_task
from sweeps.config.schema import SweepConfig
from sweeps.errors import ConfigError
from sweeps.plan import task_loader
from sweeps.plan.plan import Plan
from sweeps.plan.planner import make_plan
from sweeps.plan.shards import ShardResult


class ShardWriter(Protocol):
    """Stores shards."""

    def write(self, result: ShardResult) -> None:
        """Store a shard's table."""


@dataclass(frozen=True, eq=False)
class PreparedSweep:
    """What all shards of a sweep share; sent to every worker once."""

    config: SweepConfig
    task: Task
    plan: Plan
    threads: int | None = None  # of the engine; None is all cores
    shard_writer: ShardWriter | None = None  # through which workers store their shards; None leaves that to the driver


def prepare(config: SweepConfig, where: str = "config", trials_per_shard: int | None = None) -> PreparedSweep:
    """Load the data and plan the trials; nothing is written.

    Args:
        config: the sweep.
        where: what messages call it.
        trials_per_shard: of a plan that was made before; by default what the config says, or what suits this machine.

    Raises:
        ConfigError, DataError: the input cannot be used.
    """
    task = task_loader.load_task(config.task)
    try:
        check_task(task, config.training.dtype, config.training.batch_size)
        return PreparedSweep(config, task, make_plan(config, task, where, trials_per_shard))
    except InvalidTask as error:
        raise ConfigError(where, [f"task: {error}"]) from error
