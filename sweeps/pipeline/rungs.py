"""The computation of a stage with early termination: rung by rung, and then its shards from the rungs' rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sweeps.arrow_columns import numbers
from sweeps.config.early_termination import EarlyTermination
from sweeps.config.schema import HYPERPARAMETERS, REPEATS
from sweeps.events import log_event
from sweeps.execution.executor import Executor, workers_of
from sweeps.execution.progress import Progress
from sweeps.execution.rungs import STATE, ended
from sweeps.execution.shard_table import recorded_steps
from sweeps.pipeline.outcome import SweepOutcome
from sweeps.planning.packing import Workers, shard_size
from sweeps.planning.plan import Plan
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Rung, Shard, ShardFailure, ShardResult
from sweeps.search.early_termination import first_rungs, going_on, rungs
from sweeps.store.sweep_files import SweepFiles

Numbers = NDArray[np.int64]
_SECONDS = f"{STATE}seconds"  # of each trial in its last rung


@dataclass(frozen=True, eq=False)
class _Stage:
    """The last stage of a sweep: its trials, and where early termination can stop them."""

    index: int
    first: int  # number of its first trial
    rule: EarlyTermination
    epochs: list[int]  # of each rung
    setting: NDArray[np.intp]  # (N,) each trial's setting
    first_rung: Numbers  # (settings,) the rung at which each setting can first be stopped

    @classmethod
    def last(cls, prepared: PreparedSweep, rule: EarlyTermination) -> _Stage:
        plan, config = prepared.plan, prepared.config
        trials = len(plan.stages[-1])
        epochs = rungs(rule, config.training.epochs)
        first, setting = _settings(plan, len(plan) - trials, len(plan))
        brackets = first_rungs(rule, len(epochs), trials, config.search_seed)[first]
        return cls(len(plan.stages) - 1, len(plan) - trials, rule, epochs, setting, brackets)

    def going_on(self, rung: int, table: pa.Table, metric: str) -> Numbers:
        """Return the numbers of the trials that go on: all repeats of a setting, by their mean metric, or none."""
        trials = table["trial"].to_numpy()
        setting = self.setting[trials - self.first]
        finite = table["first_nonfinite_step"].is_null().to_numpy()
        values = np.where(finite, numbers(table[metric]), np.nan)
        found, which = np.unique(setting, return_inverse=True)
        mean = np.bincount(which, values) / np.bincount(which)
        return np.asarray(trials[going_on(self.rule, rung, mean, self.first_rung[found])[which]], dtype=np.int64)


def compute_in_rungs(outcome: SweepOutcome, executor: Executor, progress: Progress) -> Iterator[ShardResult]:
    """Compute the last stage of a sweep and yield its missing shards, to be stored; none if a trial could not be run.

    What earlier processes have computed is read from the rung files.
    """
    files, prepared = outcome.files, outcome.prepared
    rule = prepared.config.early_terminate
    shards = prepared.plan.shards()
    missing = files.shards.missing(shards)
    if rule is None or not missing:
        return
    stage, metric = _Stage.last(prepared, rule), prepared.config.metric_name
    trials = np.arange(stage.first, len(prepared.plan), dtype=np.int64)
    ended_at = np.full(len(trials), len(stage.epochs) - 1)
    for rung, epochs in enumerate(stage.epochs):
        _train(outcome, executor, progress, stage, rung, trials)
        if outcome.failed_trials:
            return
        if epochs == stage.epochs[-1]:
            break
        table = files.rungs.read(stage.index, rung, ["trial", metric, "first_nonfinite_step"])
        assert table is not None
        on = stage.going_on(rung, table, metric)
        stopped = np.setdiff1d(trials, on, assume_unique=True)
        ended_at[stopped - stage.first] = rung
        progress.computed(len(stopped))
        log_event("rung finished", files.sweep_id, epochs=epochs, trials=len(trials), going_on=len(on))
        trials = on
        if not len(trials):
            break
    progress.computed(len(trials))
    for shard in missing:
        yield _shard(files, prepared, stage, shard, ended_at[shard.start - stage.first : shard.stop - stage.first])


def remove_rungs(files: SweepFiles, prepared: PreparedSweep) -> None:
    """Remove the rung files of a stage whose shards are stored; keep the states at its end if the config says so."""
    rule = prepared.config.early_terminate
    if rule is not None:
        last = len(rungs(rule, prepared.config.training.epochs)) - 1
        files.rungs.remove(len(prepared.plan.stages) - 1, iter(range(last if rule.keep_states else last + 1)))


def _train(
    outcome: SweepOutcome, executor: Executor, progress: Progress, stage: _Stage, rung: int, trials: Numbers
) -> None:
    """Train the trials of a rung that are not stored, and store them."""
    files, prepared = outcome.files, outcome.prepared
    stored = files.rungs.read(stage.index, rung, ["trial"])
    lacking = trials if stored is None else np.setdiff1d(trials, stored["trial"].to_numpy(), assume_unique=True)
    workers = workers_of(executor, prepared.config.training.device)
    with closing(executor.run(prepared, _packs(files, prepared, stage, rung, lacking, workers))) as results:
        for result in results:
            files.check_lease()
            if isinstance(result, ShardFailure):
                _fail(outcome, result, progress)
            elif isinstance(result, ShardResult):
                seconds = pa.array(np.full(len(result.table), result.seconds / len(result.table)))
                files.rungs.write(stage.index, rung, result.table.append_column(_SECONDS, seconds))


def _packs(
    files: SweepFiles, prepared: PreparedSweep, stage: _Stage, rung: int, trials: Numbers, workers: Workers
) -> Iterator[Shard]:
    """Yield the trials of a rung in packs, each of one batch size and fold, with their rows of the rung before."""
    config, plan = prepared.config, prepared.plan
    epochs = stage.epochs[rung]
    before = stage.epochs[rung - 1] if rung else 0
    steps = max(1, plan.steps * (epochs - before) // config.training.epochs)
    size = config.execution.trials_per_shard or shard_size(config, prepared.task, len(trials), steps, workers)
    bounds = stage.first + np.cumsum([0, *(count for count, _ in plan.stages[-1].packs)])
    index = 0
    for low, high in pairwise(bounds.tolist()):
        part = trials[(trials >= low) & (trials < high)]
        for pack in np.array_split(part, math.ceil(len(part) / size)) if len(part) else ():
            rows = files.rungs.rows(stage.index, rung - 1, pack) if rung else None
            yield Shard(index, int(pack[0]), int(pack[-1]) + 1, pack - pack[0], Rung(epochs, rows))
            index += 1


def _shard(files: SweepFiles, prepared: PreparedSweep, stage: _Stage, shard: Shard, ended_at: Numbers) -> ShardResult:
    """Return a shard: each trial's row of the rung where it ended."""
    steps = recorded_steps(prepared.at(prepared.plan.trials(shard.start, shard.start + 1)))
    last, parts, seconds = stage.epochs[-1], [], 0.0
    for rung in np.unique(ended_at).tolist():
        rows = files.rungs.rows(stage.index, rung, shard.start + np.flatnonzero(ended_at == rung))
        parts.append(ended(rows, steps, stage.epochs[rung], last))
        seconds += pc.sum(rows[_SECONDS]).as_py()
    return ShardResult(shard, pa.concat_tables(parts).sort_by("trial").combine_chunks(), seconds)


def _fail(outcome: SweepOutcome, failure: ShardFailure, progress: Progress) -> None:
    """Record a pack that could not be trained, as failures of the shards that have its trials."""
    files, shards, pack = outcome.files, outcome.prepared.plan.shards(), failure.shard
    assert pack.rows is not None
    holding = shards.holding(pack.start + pack.rows)
    for index in np.unique(holding).tolist():
        files.shards.write_failure(replace(failure, shard=shards[index]))
    outcome.failed_trials += len(pack.rows)
    progress.failed(len(pack.rows))
    log_event("shard failed", files.sweep_id, reason=failure.traceback.strip().splitlines()[-1])


def _settings(plan: Plan, start: int, stop: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the first trial of each setting, counted from ``start``, and the setting of each trial."""
    trials = plan.trials(start, stop)
    if len(np.unique(trials.seed)) == 1 and not any(name in REPEATS for name in trials.options):
        each = np.arange(stop - start)
        return each, each
    options = [values for name, values in trials.options.items() if name not in REPEATS]
    columns = [*(getattr(trials.hyperparams, name) for name in HYPERPARAMETERS), *options, *trials.start.T]
    keys = np.nan_to_num(np.column_stack(columns), nan=np.inf)
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first, which.reshape(-1)
