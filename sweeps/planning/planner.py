"""The planner, which turns a config and its task into a plan, and a stage of the search into a stage of the plan.

A plan does not list its trials: it holds sets of trials, from which any range of trials is computed on demand.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sgdcore import Task
from sgdcore.batches import steps_per_epoch
from sgdcore.devices import gpus
from sgdcore.recording import MAX_PATH_PARAMETERS
from sweeps.config.schema import BATCH_SIZE, FOLD, SweepConfig
from sweeps.errors import ConfigError
from sweeps.planning.checks import (
    MAX_TRIALS,
    check_combinations,
    check_draws,
    check_expected_names,
    check_packages,
    check_starts,
    check_training,
)
from sweeps.planning.identity import digest, identity
from sweeps.planning.normalize import distinct, normalize, normalize_draws, normalize_table, without_repeats
from sweeps.planning.packing import Workers, shard_size
from sweeps.planning.plan import Plan, PlanStage
from sweeps.planning.settings import Options
from sweeps.search.base import NoHistory, SearchSpace, Stage, search_method
from sweeps.search.draws import Draws
from sweeps.search.product import Product
from sweeps.search.trial_table import TrialTable

MAX_POINTS = 1_000_000


def make_plan(
    config: SweepConfig,
    task: Task,
    where: str = "config",
    trials_per_shard: int | None = None,
    folds: Sequence[Task] = (),
) -> Plan:
    """Plan the first stage of a sweep.

    Args:
        config: the sweep.
        task: the task to train.
        where: the name of the input in error messages.
        trials_per_shard: the shard size; by default that of the config, or one for the work and this machine's cores.
        folds: the task of each fold of a cross-validation.

    Raises:
        ConfigError: an init.* axis names an unknown parameter, or there are no trials or too many.
    """
    names = task.parameter_names
    starts = names if task.model.linear or len(names) <= MAX_PATH_PARAMETERS else ()
    check_starts(config, names, starts, where)
    check_expected_names(config, names, starts, where)
    method, space = search_method(config.method), SearchSpace.of(config, starts)
    check_packages(config.method, method.packages, where)
    if config.method in ("grid", "boundary"):
        check_combinations(config, starts, where)
    else:
        check_draws(space, config.method, where)
    smallest = min((int(size) for size in batch_sizes(config)), default=config.training.batch_size)
    samples = max((fold.samples for fold in folds), default=task.samples)
    steps = config.training.epochs * steps_per_epoch(samples, smallest)
    if config.record.spacing == "all" and steps > MAX_POINTS:
        raise ConfigError(
            where, [f"record.spacing: given 'all' for {steps:,} steps; at most {MAX_POINTS:,} can be recorded"]
        )
    check_training(config, task, steps, where)
    document, digests = identity(config, task), tuple(fold.dataset.digest for fold in folds)
    plan = Plan(
        parameter_names=names,
        starts=starts,
        stages=(),
        steps=steps,
        context=digest(document | ({"folds": digests} if digests else {})),
        folds=digests,
        options=Options.of(config),
        identity=document,
        module=getattr(config.task.model, "module", ""),
    )
    stage = method.next_stage(space, NoHistory())
    if stage is None:
        raise ConfigError(where, [f"method: {config.method} returns no trials"])
    first = plan_stage(plan, stage, config, task, where, trials_per_shard)
    if not len(first):
        reasons = "; ".join(f"{count:,} dropped: {reason}" for reason, count in first.dropped.items())
        raise ConfigError(where, [f"parameters: no trials are left ({reasons})"])
    return replace(plan.with_stage(first), has_weight_decay=_has_weight_decay(first, config))


def plan_stage(
    plan: Plan,
    stage: Stage,
    config: SweepConfig,
    task: Task,
    where: str = "config",
    trials_per_shard: int | None = None,
    workers: Workers | None = None,
) -> PlanStage:
    """Plan the next stage: its distinct trials that torch accepts, packed into shards.

    Args:
        plan: the plan with all earlier stages.
        stage: the stage from the search method.
        config: the sweep.
        task: the task to train.
        where: the name of the input in error messages.
        trials_per_shard: the shard size; by default that of the config, or one for the work and the workers.
        workers: what computes the shards; by default this machine's cores, a shard on each.

    Raises:
        ConfigError: there are too many trials.
    """
    dropped: dict[str, int] = {}
    merged: dict[str, int] = {}
    products = [trials for trials in stage.trials if isinstance(trials, Product)]
    draws = [trials for trials in stage.trials if isinstance(trials, Draws)]
    trials: Sequence[Product | Draws | TrialTable]
    if len(draws) == len(stage.trials) and not plan.stages:
        trials = [normalize_draws(drawn, config, merged) for drawn in draws]
    elif len(products) == len(stage.trials) and not plan.stages:
        normal = [part for product in products for part in normalize(product, config, dropped, merged)]
        trials = without_repeats(normal, merged, where)
    else:
        earlier = {key for before in plan.stages for key in TrialTable.of(before.trials).keys()}  # noqa: SIM118 - not a mapping
        table = normalize_table(TrialTable.of(stage.trials), config, dropped, merged, earlier)
        trials = [table] if len(table) else []
    trials, parts = _split_by(trials, (FOLD, BATCH_SIZE))
    total = sum(map(len, trials))
    planned = sum(map(len, plan.stages)) + total
    if planned > MAX_TRIALS:
        raise ConfigError(where, [f"parameters: {planned:,} trials; at most {MAX_TRIALS:,} are allowed"])
    workers = workers or Workers(len(os.sched_getaffinity(0)), on_cpu=config.training.device == "cpu" or not gpus())
    return PlanStage(
        trials=tuple(trials),
        trials_per_shard=trials_per_shard
        or config.execution.trials_per_shard
        or shard_size(config, task, total, plan.steps, workers),
        dropped={reason: count for reason, count in dropped.items() if count},
        merged={reason: count for reason, count in merged.items() if count},
        swept=_swept(stage),
        parts=parts,
    )


def _split_by(
    trials: Sequence[Product | Draws | TrialTable], columns: tuple[str, ...]
) -> tuple[Sequence[Product | Draws | TrialTable], tuple[int, ...]]:
    """Return the trials in parts that have one value in each of the columns, and the sizes of the parts.

    Without any of the columns, the trials are one part, whose size is not given.
    """
    groups = [list(trials)]
    columns = tuple(name for name in columns if trials and name in trials[0].names)
    for name in columns:
        values = distinct(np.concatenate([each[name] for each in trials]))
        groups = [
            [_with(each, name, value) for each in group if value in each[name]] for group in groups for value in values
        ]
    groups = [group for group in groups if group]
    sizes = tuple(sum(map(len, group)) for group in groups) if columns else ()
    return [each for group in groups for each in group], sizes


def _with(trials: Product | Draws | TrialTable, name: str, value: float) -> Product | Draws | TrialTable:
    """Return the trials with a value in a column."""
    if isinstance(trials, Product | Draws):
        return trials.replace(name, np.array([value]))
    return trials.take(trials[name] == value)


def batch_sizes(config: SweepConfig) -> list[int]:
    """Return the batch sizes of a sweep's trials."""
    axes = [mapping.get(BATCH_SIZE) for mapping in config.mappings()]
    own = [config.training.batch_size] if None in axes else []
    return sorted({*own, *(int(size) for axis in axes if axis is not None for size in axis.points())})


def _has_weight_decay(first: PlanStage, config: SweepConfig) -> bool:
    """Return whether a trial has weight decay, or can have it in a later stage."""
    if search_method(config.method).is_adaptive:
        axes = (axis for mapping in config.mappings() for name, axis in mapping.items() if _is_decay(name))
        return any(any(axis.named()) for axis in axes)
    return any(np.nan_to_num(trials[name]).any() for trials in first.trials for name in trials.names if _is_decay(name))


def _is_decay(name: str) -> bool:
    return name.partition(".")[0] == "weight_decay"


def _swept(stage: Stage) -> tuple[str, ...]:
    """Return the axes with more than one value, the widest first."""
    names = stage.trials[0].names
    widths = {name: len(distinct(np.concatenate([trials[name] for trials in stage.trials]))) for name in names}
    return tuple(sorted((name for name, width in widths.items() if width > 1), key=lambda name: -widths[name]))
