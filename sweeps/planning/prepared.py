"""Prepared sweeps: a config with its task and its plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sgdcore import EarlyStopping, InvalidTask, Recording, Task
from sgdcore.batches import steps_per_epoch
from sgdcore.engine import check_task
from sgdcore.recording import ListedSteps
from sweeps.config.schema import BATCH_SIZE, FOLD, SweepConfig
from sweeps.errors import ConfigError
from sweeps.planning import task_loader
from sweeps.planning.curve_points import default_points
from sweeps.planning.plan import Plan, Trials
from sweeps.planning.planner import batch_sizes, make_plan
from sweeps.planning.shards import ShardResult
from sweeps.search.base import search_method


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
    folds: tuple[Task, ...] = ()  # the task of each fold of a cross-validation; ``task`` is the first
    listed: NDArray[np.int64] | None = None  # the recorded steps, if not those of the config: see :meth:`to_rung`

    @property
    def most_trials(self) -> int:
        """The most trials that the sweep can have, through all its stages."""
        adaptive = search_method(self.config.method).is_adaptive
        return max(len(self.plan), self.config.run_cap or 0) if adaptive else len(self.plan)

    @property
    def recording(self) -> Recording | ListedSteps:
        """The recorded steps: by epoch if trials differ in their steps, so that all curves have the same points."""
        if self.listed is not None:
            return ListedSteps(self.listed)
        every = self.steps_per_epoch if self.config.is_divided else 1
        return Recording(**self.config.recording, every=every)

    @property
    def early_stopping(self) -> EarlyStopping | None:
        """The rule by which trials stop early, if they do."""
        rule = self.config.training.early_stopping
        return None if rule is None else EarlyStopping(rule.patience, rule.min_delta, self.config.stopping_loss)

    @property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch, with several batch sizes those of :meth:`at`."""
        return steps_per_epoch(self.task.samples, self.config.training.batch_size)

    def at(self, trials: Trials) -> PreparedSweep:
        """Return the sweep as trials of one fold and batch size train in it, as the trials of a shard do."""
        part = self
        if len(trials) and FOLD in trials.options:
            part = part.with_fold(int(trials.options[FOLD][0]))
        if len(trials) and BATCH_SIZE in trials.options:
            part = part.with_batch_size(int(trials.options[BATCH_SIZE][0]))
        return part

    def with_fold(self, fold: int) -> PreparedSweep:
        """Return the sweep with the task of a fold, and with the steps that trials take in it."""
        part = replace(self, task=self.folds[fold])
        return part.with_batch_size(self.config.training.batch_size)

    def with_batch_size(self, batch_size: int) -> PreparedSweep:
        """Return the sweep with a batch size, and with the steps that trials take with it."""
        steps = self.config.training.epochs * steps_per_epoch(self.task.samples, batch_size)
        return replace(self, config=self.config.with_batch_size(batch_size), plan=replace(self.plan, steps=steps))

    def to_rung(self, epochs: int) -> PreparedSweep:
        """Return the sweep as far as a rung of early termination; of trials of one fold and batch size."""
        training = self.config.training.model_copy(update={"epochs": epochs})
        return replace(
            self,
            config=self.config.model_copy(update={"training": training}),
            plan=replace(self.plan, steps=epochs * self.steps_per_epoch),
            listed=self.recording.steps(0, self.plan.steps),
        )

    def parts(self) -> list[PreparedSweep]:
        """Return the sweep with each fold and batch size."""
        folds = [self.with_fold(fold) for fold in range(len(self.folds))] or [self]
        sizes = batch_sizes(self.config)
        return [part.with_batch_size(size) for part in folds for size in sizes] if self.config.is_divided else [self]


def data_summary(task: Task) -> dict[str, object]:
    """Return what plan.json and ``sweeps plan`` say of the data."""
    data = task.dataset
    return {
        "digest": data.digest,
        "samples": len(data),
        "features": list(data.feature_names),
        **({"targets": list(data.target_names)} if data.target_count > 1 else {}),
        **({"weights": True} if data.weights is not None else {}),
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
    task, *others = (task_loader.load_task(config.task, fold) for fold in range(max(1, config.task.dataset.folds)))
    folds = (task, *others) if config.task.dataset.folds else ()
    if config.record.points is None:
        config = config.with_points(default_points(config, task))
    try:
        for batch_size in batch_sizes(config):
            check_task(task, config.training.dtype, batch_size)
        return PreparedSweep(config, task, make_plan(config, task, where, trials_per_shard, folds), folds=folds)
    except InvalidTask as error:
        raise ConfigError(where, [f"task: {error}"]) from error
