"""Prepared sweeps: a config with its task and its plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sgdcore import InvalidTask, Task
from sgdcore.engine import check_task
from sweeps.config.schema import SweepConfig
from sweeps.errors import ConfigError
from sweeps.planning import task_loader
from sweeps.planning.curve_points import default_points
from sweeps.planning.plan import Plan
from sweeps.planning.planner import make_plan
from sweeps.planning.shards import ShardResult


class ShardWriter(Protocol):
    """The interface through which workers store shards."""

    def write(self, result: ShardResult) -> None:
        """Write a shard's table."""


@dataclass(frozen=True, eq=False)
class PreparedSweep:
    """Everything that the shards of a sweep share, sent to every worker once."""

    config: SweepConfig
    task: Task
    plan: Plan
    threads: int | None = None  # threads of the engine; None uses all cores
    shard_writer: ShardWriter | None = None  # used by workers to store shards; None if the driver stores them


def data_summary(task: Task) -> dict[str, object]:
    """Return what plan.json and ``sweeps plan`` say of the data."""
    data = task.dataset
    return {
        "digest": data.digest,
        "samples": len(data),
        "features": list(data.feature_names),
        "validation": len(data.validation) if data.validation else 0,
        **({"notes": list(data.notes)} if data.notes else {}),
    }


def prepare(config: SweepConfig, where: str = "config", trials_per_shard: int | None = None) -> PreparedSweep:
    """Load the data and plan the trials, without writing anything.

    Args:
        config: the sweep.
        where: the name of the input in error messages.
        trials_per_shard: the shard size of an existing plan; by default that of the config, or one for this machine.

    Raises:
        ConfigError: the config cannot be used.
        DataError: the data cannot be used.
    """
    task = task_loader.load_task(config.task)
    if config.record.points is None:
        config = config.with_points(default_points(config, task))
    try:
        check_task(task, config.training.dtype, config.training.batch_size)
        return PreparedSweep(config, task, make_plan(config, task, where, trials_per_shard))
    except InvalidTask as error:
        raise ConfigError(where, [f"task: {error}"]) from error
