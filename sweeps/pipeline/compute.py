"""The computation of a sweep: run and store the missing shards of every stage, and plan the next stages."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace

from sweeps.events import log_event
from sweeps.execution.executor import Executor, ShardOutcome, workers_of
from sweeps.execution.progress import Progress
from sweeps.pipeline.outcome import SweepOutcome
from sweeps.pipeline.reuse import ReusableTrials
from sweeps.pipeline.rungs import compute_in_rungs, remove_rungs
from sweeps.pipeline.timeline import Timeline
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import ShardFailure, ShardResult
from sweeps.store.next_stage import next_stage
from sweeps.store.store import Store
from sweeps.tracking.background import BackgroundTracking
from sweeps.tracking.policy import runs_wanted


def compute(
    outcome: SweepOutcome,
    executor: Executor,
    progress: Progress,
    tracking: BackgroundTracking,
    timeline: Timeline,
) -> None:
    """Run a sweep to the end of its last stage, or of the first stage with a failed shard."""
    while True:
        if outcome.prepared.config.early_terminate is None:
            _run_stage(outcome, executor, progress, tracking, timeline)
        else:
            _run_stage_in_rungs(outcome, executor, progress, tracking, timeline)
        if outcome.failed_trials or not _plan_next_stage(outcome, executor, progress):
            return


def _run_stage(
    outcome: SweepOutcome, executor: Executor, progress: Progress, tracking: BackgroundTracking, timeline: Timeline
) -> None:
    """Run and store the missing shards of the planned stages, and queue them for tracking."""
    shards, cores = outcome.prepared.plan.shards(), executor.cores  # a request to the cluster
    stored: list[int] = []  # whose times are not stored yet

    def store_times() -> None:
        timeline.write()
        if is_final_at_once(outcome.prepared):
            for index in stored:
                tracking.put(index)
        stored.clear()

    with closing(_results(outcome, executor)) as results:
        try:
            for result in results:
                _store(outcome, result, progress)
                if not isinstance(result, ShardFailure):
                    running = max(1, min(cores, executor.in_flight))
                    timeline.place(result.shard, shards, result.seconds, running)
                    stored.append(result.shard.index)
                if not executor.backlog:  # one file has the times of many shards
                    store_times()
        finally:
            store_times()


def _run_stage_in_rungs(
    outcome: SweepOutcome, executor: Executor, progress: Progress, tracking: BackgroundTracking, timeline: Timeline
) -> None:
    """Compute and store the last stage, whose worse trials stop early."""
    files, prepared = outcome.files, outcome.prepared
    shards = prepared.plan.shards()
    for result in compute_in_rungs(outcome, executor, progress):
        files.check_lease()
        files.shards.write(result)
        timeline.place(result.shard, shards, result.seconds, 1)
        timeline.write()
        if is_final_at_once(prepared):
            tracking.put(result.shard.index)
    if not outcome.failed_trials:
        remove_rungs(files, prepared)


def is_final_at_once(prepared: PreparedSweep) -> bool:
    """Return whether a shard's trials can be logged before all shards are stored."""
    # For other tasks, verdicts depend on the best trial of the sweep.
    return prepared.config.tracking.trials == "all" and prepared.task.is_quadratic


def _results(outcome: SweepOutcome, executor: Executor) -> Generator[ShardOutcome, None, None]:
    """Return the results of the missing shards as they arrive, computed or reused from earlier sweeps."""
    files, prepared = outcome.files, outcome.prepared
    allowed = executor.on_cpu(prepared.config.training.device) and not files.manifest().get("fresh")
    earlier = Store.of(files).sweeps() if allowed else []
    writing = replace(prepared, shard_writer=files.for_workers(executor.is_local))
    reusable = ReusableTrials(writing, files, earlier, outcome.reused)
    return reusable.run(executor, files.shards.missing(prepared.plan.shards()))


def _store(outcome: SweepOutcome, result: ShardOutcome, progress: Progress) -> None:
    """Store a shard that its worker has not stored, or the traceback of one that failed."""
    files = outcome.files
    files.check_lease()
    if isinstance(result, ShardFailure):
        files.shards.write_failure(result)
        outcome.failed_trials += len(result.shard)
        progress.failed(len(result.shard))
        why = result.traceback.strip().splitlines()[-1]
        log_event("shard failed", files.sweep_id, level=logging.ERROR, shard=result.shard.index, reason=why)
        return
    if isinstance(result, ShardResult):
        files.shards.write(result)
        if result.unstored:
            outcome.unstored[result.unstored] += len(result.shard)
    progress.computed(len(result.shard))
    seconds = round(result.seconds, 3)
    log_event("shard stored", files.sweep_id, shard=result.shard.index, trials=len(result.shard), seconds=seconds)


def _plan_next_stage(outcome: SweepOutcome, executor: Executor, progress: Progress) -> bool:
    """Plan and store the next stage. Return whether there is one."""
    files, prepared = outcome.files, outcome.prepared
    if files.planned().is_complete:
        return False
    stage = next_stage(
        files, prepared, len(prepared.plan.stages), workers_of(executor, prepared.config.training.device)
    )
    if stage is None:
        files.stages.complete()
        return False
    files.stages.add(stage)
    policy, before = prepared.config.tracking.trials, len(prepared.plan)
    outcome.prepared = replace(prepared, plan=prepared.plan.with_stage(stage))
    progress.extend(len(stage), runs_wanted(policy, before + len(stage)) - runs_wanted(policy, before))
    log_event("stage planned", files.sweep_id, stage=len(prepared.plan.stages), trials=len(stage))
    return True
