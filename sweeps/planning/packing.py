"""The packing of trials: how many go into one shard."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sgdcore import Recording, Task
from sgdcore.kernels.dispatch import cpu_pack
from sgdcore.recording import MAX_PATH_PARAMETERS
from sweeps.config.schema import SweepConfig
from sweeps.planning.plan import Plan
from sweeps.planning.work import FLOPS_PER_SECOND, seconds_of, trial_flops

_SECONDS_PER_SHARD = 1.0
_SHARD_BYTES = 64e6
_LEAST_PACK = 64
_LONGEST_SECONDS = 20.0  # of so many; otherwise they are fewer: results come soon, and a kill loses little
_MOST_SHARDS = 10_000  # that this can make


@dataclass(frozen=True)
class Workers:
    """What computes the shards of a sweep.

    Args:
        cores: the CPU cores of all workers.
        threads: the CPU threads that share a shard.
        on_cpu: whether shards are computed on CPUs only.
    """

    cores: int
    threads: int = 1
    on_cpu: bool = True


def repack(plan: Plan, config: SweepConfig, task: Task, workers: Workers) -> Plan:
    """Return the plan with its first stage packed for these workers, unless the config sets the shard size."""
    if config.execution.trials_per_shard is not None:
        return plan
    return with_shard_size(plan, shard_size(config, task, len(plan.stages[0]), plan.steps, workers))


def with_shard_size(plan: Plan, trials_per_shard: int) -> Plan:
    """Return the plan with another number of trials per shard in its first stage."""
    first, *later = plan.stages
    return replace(plan, stages=(replace(first, trials_per_shard=trials_per_shard), *later))


def shard_size(config: SweepConfig, task: Task, trials: int, steps: int, workers: Workers) -> int:
    """Return the trials per shard: about a second of work on one core, within memory, and work for every core."""
    parameters = len(task.parameter_names)
    points = len(Recording(**config.recording).steps(0, steps))
    size = 8 * points * (2 + (parameters if parameters <= MAX_PATH_PARAMETERS else 0)) + 8 * parameters + 200
    by_time = int(_SECONDS_PER_SHARD * FLOPS_PER_SECOND / max(trial_flops(config, task, steps), 1))
    if not task.has_linear_kernel:
        by_time = max(by_time, _least(config, task, trials, steps, workers))
    by_memory = int(_SHARD_BYTES / size)
    by_cores = math.ceil(trials / max(1, workers.cores))
    return max(1, min(by_time, by_memory, by_cores))


def _least(config: SweepConfig, task: Task, trials: int, steps: int, workers: Workers) -> int:
    """Return the least trials per shard: a step costs nearly the same for one trial as for a pack.

    If so many take long, they are fewer, but whole packs for every thread, and not too many shards.
    """
    longest = _LONGEST_SECONDS * workers.threads
    seconds = seconds_of(config, task, _LEAST_PACK, steps)
    if seconds <= longest or not workers.on_cpu:
        return _LEAST_PACK
    packs = cpu_pack(task, config.training.dtype) * workers.threads
    by_time = int(_LEAST_PACK * longest / seconds) // packs * packs
    return min(_LEAST_PACK, max(by_time, packs, math.ceil(trials / _MOST_SHARDS)))
