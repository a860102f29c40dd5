"""The packing of trials: how many go into one shard."""

from __future__ import annotations

import math
from dataclasses import replace

from sgdcore import Recording, Task
from sgdcore.recording import MAX_PATH_PARAMETERS
from sweeps.config.schema import SweepConfig
from sweeps.planning.plan import Plan
from sweeps.planning.work import FLOPS_PER_SECOND, trial_flops

_SECONDS_PER_SHARD = 1.0
_SHARD_BYTES = 64e6
_LEAST_PACK = 64


def repack(plan: Plan, config: SweepConfig, task: Task, cores: int) -> Plan:
    """Return the plan with its first stage packed for ``cores`` cores, unless the config sets the shard size."""
    if config.execution.trials_per_shard is not None:
        return plan
    return with_shard_size(plan, shard_size(config, task, len(plan.stages[0]), plan.steps, cores))


def with_shard_size(plan: Plan, trials_per_shard: int) -> Plan:
    """Return the plan with another number of trials per shard in its first stage."""
    first, *later = plan.stages
    return replace(plan, stages=(replace(first, trials_per_shard=trials_per_shard), *later))


def shard_size(config: SweepConfig, task: Task, trials: int, steps: int, cores: int) -> int:
    """Return the trials per shard: about a second of work on one core, within memory, and work for every core."""
    parameters = len(task.parameter_names)
    points = len(Recording(**config.recording).steps(0, steps))
    size = 8 * points * (2 + (parameters if parameters <= MAX_PATH_PARAMETERS else 0)) + 8 * parameters + 200
    by_time = int(_SECONDS_PER_SHARD * FLOPS_PER_SECOND / max(trial_flops(config, task, steps), 1))
    if not task.is_quadratic:
        by_time = max(by_time, _LEAST_PACK)  # a step costs nearly the same for one trial as for a pack
    by_memory = int(_SHARD_BYTES / size)
    by_cores = math.ceil(trials / max(1, cores))
    return max(1, min(by_time, by_memory, by_cores))
