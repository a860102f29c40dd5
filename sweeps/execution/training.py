"""Training of a plan's trials by the engine, and their verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sgdcore import Thresholds, Trajectories, judge, train
from sweeps.execution.shard_table import shard_table
from sweeps.planning.plan import Trials
from sweeps.planning.prepared import PreparedSweep


def train_table(prepared: PreparedSweep, trials: Trials, **changes: Any) -> pa.Table:
    """Train and judge trials, and return them as a shard's table; ``changes`` override arguments of sgdcore.train."""
    trajectories = train_trials(prepared, trials, **changes)
    verdicts = judge(trajectories, Thresholds(**prepared.config.verdict.model_dump()))
    return shard_table(prepared, trials, trajectories, verdicts)


def train_trials(prepared: PreparedSweep, trials: Trials, **changes: Any) -> Trajectories:
    """Train trials of the plan, all of one batch size; ``changes`` override arguments of sgdcore.train."""
    prepared = prepared.at(trials)
    training = prepared.config.training
    arguments: dict[str, Any] = {
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "order": training.order,
        "dtype": training.dtype,
        "seeds": trials.seed,
        "start": start_values(prepared, trials),
        "record": prepared.recording,
        "groups": training.groups,
        "early_stopping": prepared.early_stopping,
        "device": training.device,
        "compile": training.compile,
        "threads": prepared.threads,
    }
    return train(prepared.task, trials.hyperparams, **(arguments | changes))


def start_values(prepared: PreparedSweep, trials: Trials) -> NDArray[np.float64]:
    """Return the (T, P) start values, with those of the model's own initialisation for unset ones."""
    if not prepared.plan.starts:
        return prepared.task.initial_params(trials.seed, prepared.config.training.dtype)
    start = trials.start.copy()
    unset = np.isnan(start)
    if not unset.any():
        return start
    zeros = prepared.config.task.model.init == "zeros"
    drawn = 0.0 if zeros else prepared.task.initial_params(trials.seed, prepared.config.training.dtype)
    return np.where(unset, drawn, start)
