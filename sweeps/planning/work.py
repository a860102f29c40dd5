"""The work of a sweep before it runs: operations, and a rough number of seconds on one core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgdcore import Recording, Task
from sgdcore.kernels.dispatch import fastest
from sweeps.config.models import ModuleModel
from sweeps.config.schema import SweepConfig

if TYPE_CHECKING:
    from sweeps.planning.prepared import PreparedSweep

FLOPS_PER_SECOND = 4e9  # of the kernels on one core, on the low side
_MODULE_SECONDS_PER_STEP = 3e-4  # of the torch kernel, however small the module
_MODULE_PACK = 64  # trials that share that time


def trial_flops(config: SweepConfig, task: Task, steps: int) -> float:
    """Return the operations of one trial, its evaluations at the recorded steps included."""
    parameters = len(task.parameter_names)
    batch = min(config.training.batch_size, task.samples)
    points = len(Recording(**config.recording).steps(0, steps))
    evaluation = 50 * parameters**2 if task.is_quadratic else 2 * parameters * task.samples
    return steps * (6 * batch + 12) * parameters + points * evaluation


def predicted_seconds(prepared: PreparedSweep) -> float:
    """Return the approximate time that one core needs for all planned trials, compilation not included."""
    return seconds_of(prepared.config, prepared.task, prepared.most_trials, prepared.plan.steps)


def seconds_of(config: SweepConfig, task: Task, trials: int, steps: int) -> float:
    """Return the approximate time that one core needs for so many trials, compilation not included."""
    seconds = trials * trial_flops(config, task, steps) / FLOPS_PER_SECOND
    if isinstance(config.task.model, ModuleModel) and fastest(task, "cpu")[0] == "torch":
        seconds += -(-trials // _MODULE_PACK) * steps * _MODULE_SECONDS_PER_STEP
    return seconds
