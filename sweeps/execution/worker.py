"""run_shard(): trains one shard's trials and lays the result out as an Arrow table; sees neither Ray nor MLflow."""

from __future__ import annotations

import json
import socket
import time
import traceback
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore import Judgement, Recording, Task, Thresholds, Trajectories, judge, train
from sgdcore.blas_threads import one_thread
from sweeps.arrow_columns import floats, lists, steps, texts
from sweeps.config.schema import HYPERPARAMETERS, SweepConfig
from sweeps.errors import InputError
from sweeps.plan.planner import Plan, Shard, Trials
from sweeps.plan.prediction import predicted_radius, prediction


class Shelf(Protocol):
    """Whatever keeps shards."""

    def write_shard(self, result: ShardResult) -> None:
        """Store a shard's table."""


@dataclass(frozen=True, eq=False)
class Work:
    """What all shards of a sweep share; sent to every worker once."""

    config: SweepConfig
    task: Task
    plan: Plan
    threads: int | None = None  # of the engine; None is all cores
    store: Shelf | None = None  # where workers store their shards themselves; None leaves that to the driver


@dataclass(frozen=True, eq=False)
class ShardResult:
    """A shard's trials as a table (the shard file's columns), and how long they took."""

    shard: Shard
    table: pa.Table
    seconds: float
    unstored: str = ""  # why the worker that was to store it has not


@dataclass(frozen=True)
class ShardStored:
    """A shard that its worker has stored, and how long its trials took."""

    shard: Shard
    seconds: float


@dataclass(frozen=True)
class ShardFailure:
    """A shard that raised, and its traceback; or one whose worker process died at every try, and how."""

    shard: Shard
    traceback: str
    tries: int = 1


def run_shard(work: Work, shard: Shard) -> ShardResult | ShardStored | ShardFailure:
    """Train the shard's trials, and store them where workers do. An exception is part of the result: others go on."""
    began = time.perf_counter()
    try:
        with one_thread():
            trials = work.plan.trials(shard.start, shard.stop)
            trials = trials if shard.rows is None else trials.take(shard.rows)
            table = train_table(work, trials)
    except Exception:  # noqa: BLE001 - reported with the shard
        return ShardFailure(shard, traceback.format_exc())
    return _stored(work, ShardResult(shard, table, time.perf_counter() - began))


def _stored(work: Work, result: ShardResult) -> ShardResult | ShardStored:
    """The shard is stored here, if it is whole; what cannot be stored from here travels on, with the reason."""
    if work.store is None or result.shard.rows is not None:
        return result
    try:
        work.store.write_shard(result)
    except InputError as error:
        return replace(result, unstored=f"{socket.gethostname()}: {error}")
    return ShardStored(result.shard, result.seconds)


def train_table(work: Work, trials: Trials, **changes: Any) -> pa.Table:
    """Train some trials of the plan, judge them, and lay them out as a shard file; ``changes`` as in train_trials."""
    trajectories = train_trials(work, trials, **changes)
    verdicts = judge(trajectories, Thresholds(**work.config.verdict.model_dump()))
    return _table(work, trials, trajectories, verdicts)


def train_trials(work: Work, trials: Trials, **changes: Any) -> Trajectories:
    """Train some trials of the plan; ``changes`` override arguments of sgdcore.train."""
    training, record = work.config.training, work.config.record
    arguments: dict[str, Any] = {
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "order": training.order,
        "dtype": training.dtype,
        "seeds": trials.seed,
        "start": start_values(work, trials),
        "record": Recording(**record.model_dump()),
        "device": training.device,
        "compile": training.compile,
        "threads": work.threads,
    }
    return train(work.task, trials.hyperparams, **(arguments | changes))


def start_values(work: Work, trials: Trials) -> NDArray[np.float64]:
    """(T, P): the given start values, and where none is given those of the model's own initialisation."""
    if not work.plan.starts:
        return work.task.initial_params(trials.seed, work.config.training.dtype)
    start = trials.start.copy()
    unset = np.isnan(start)
    if not unset.any():
        return start
    zeros = work.config.task.model.init == "zeros"
    drawn = 0.0 if zeros else work.task.initial_params(trials.seed, work.config.training.dtype)
    return np.where(unset, drawn, start)


def recorded_steps(work: Work) -> list[int]:
    """The steps of a sweep's curves."""
    steps: list[int] = Recording(**work.config.record.model_dump()).steps(0, work.plan.steps).tolist()
    return steps


def shard_metadata(work: Work, kernel: str, device: str) -> dict[str, str]:
    """What a shard file says of itself."""
    return {
        "steps": json.dumps(recorded_steps(work)),
        "parameters": json.dumps(work.plan.parameter_names),
        "kernel": kernel,
        "device": device,
        "prediction": prediction(work),
    }


def _table(work: Work, trials: Trials, trajectories: Trajectories, verdicts: Judgement) -> pa.Table:
    names = trajectories.parameter_names
    radius = predicted_radius(work, trials)
    columns: dict[str, pa.Array] = {
        "trial": pa.array(trials.number),
        "trial_id": pa.array(work.plan.ids(trials)),
        **{name: pa.array(getattr(trials.hyperparams, name)) for name in HYPERPARAMETERS},
        "seed": pa.array(trials.seed),
        **{f"init.{name}": pa.array(trajectories.state.start[:, names.index(name)]) for name in work.plan.starts},
        "verdict": pa.array(verdicts.verdict),
        "initial_loss": floats(trajectories.loss[:, 0]),
        "final_loss": floats(verdicts.final_loss),
        "best_loss": floats(verdicts.best_loss),
        "best_step": pa.array(verdicts.best_step),
        "first_nonfinite_step": steps(verdicts.first_nonfinite_step),
        "steps_to_tolerance": steps(verdicts.steps_to_tolerance),
        "overshoot_percent": floats(verdicts.overshoot_percent),
        "overshoot_parameter": texts(verdicts.overshoot_parameter, names),
        "peak_value": floats(verdicts.peak_value),
        "peak_step": steps(verdicts.peak_step),
        "predicted_radius": pa.nulls(len(trials), pa.float64()) if radius is None else pa.array(radius),
        "final": lists(trajectories.params),
        "loss": lists(trajectories.loss),
    }
    curves = trajectories.curves
    if not work.task.is_quadratic and any(block["weight_decay"].any() for block in work.plan.blocks):
        columns["objective"] = lists(trajectories.objective)
    if curves.validation_loss is not None:
        columns["validation_loss"] = lists(curves.validation_loss)
    if curves.path is not None:
        columns |= {f"param.{name}": lists(curves.path[:, :, j]) for j, name in enumerate(names)}
    return pa.table(columns).replace_schema_metadata(shard_metadata(work, trajectories.kernel, trajectories.device))
