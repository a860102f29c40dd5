"""The steps of a sweep: create, run, resume and log. Afterwards, publish() closes its parent run."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sgdcore import Thresholds
from sweeps.config.schema import WriterName
from sweeps.errors import StoreError
from sweeps.events import log_event
from sweeps.execution.executor import Executor, workers_of
from sweeps.execution.progress import Progress
from sweeps.pipeline.ahead import import_ahead
from sweeps.pipeline.compute import compute, is_final_at_once
from sweeps.pipeline.manifest import make_manifest
from sweeps.pipeline.outcome import Interrupted, SweepOutcome
from sweeps.pipeline.timeline import Timeline
from sweeps.planning.packing import repack, with_shard_size
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.work import predicted_seconds
from sweeps.results.final_verdicts import apply_final_verdicts
from sweeps.results.ranking import best_trials
from sweeps.search.base import search_method
from sweeps.store.reopen import reopen
from sweeps.store.store import Store, SweepFiles
from sweeps.store.warm_start import WARM_START, warm_start_of
from sweeps.text.redact import one_line
from sweeps.tracking.background import BackgroundTracking
from sweeps.tracking.base import TrackedSweep, Tracker
from sweeps.tracking.policy import runs_wanted

_SHORT_SECONDS = 2.0  # about the time that the tracker's import takes

Show = Callable[[SweepOutcome], None]


def tracks_late(prepared: PreparedSweep, executor: Executor, tracker: Tracker) -> bool:
    """Return whether a new sweep should use its tracker only after its results are shown: a short one would wait.

    Where someone else can refuse the runs, that is known before anything is computed.
    """
    return executor.is_inline and tracker.is_embedded and predicted_seconds(prepared) < _SHORT_SECONDS


def create(
    prepared: PreparedSweep,
    store: Store,
    executor: Executor,
    tracker: Tracker,
    fresh: bool = False,
    sweep_id: str | None = None,
    tags: dict[str, str] | None = None,
    *,
    late: bool = False,
) -> SweepFiles:
    """Start the executor, check the tracker, pack the plan for the executor and create the sweep's folder.

    Args:
        prepared: the sweep.
        store: the store for it.
        executor: the executor to run it.
        tracker: the tracker to log it.
        fresh: whether to compute all trials instead of reusing those of earlier sweeps.
        sweep_id: the new sweep's id; random by default.
        tags: tags to store with the plan and to set on MLflow's parent run.
        late: leave the tracker alone until the results are shown (see tracks_late()).

    Raises:
        InputError: the store, the executor, the tracking URI or the sweep of a warm start cannot be used; nothing was
            written.
    """
    earlier = warm_start_of(store, prepared)
    store.check_writable()
    if late:
        executor.check(prepared.config.training.device)
    else:
        _start(tracker, executor, prepared)
    config = prepared.config
    workers = workers_of(executor, config.training.device)
    prepared = replace(prepared, plan=repack(prepared.plan, config, prepared.task, workers))
    sweep_id = sweep_id or secrets.token_hex(4)
    manifest = make_manifest(prepared, sweep_id, fresh) | {"tags": tags or {}}
    others = {} if earlier is None else {WARM_START: earlier.text()}
    files = store.create(sweep_id, config.to_yaml(), manifest, search_method(config.method).is_adaptive, others)
    shards = len(prepared.plan.shards())
    log_event("sweep planned", sweep_id, name=config.name, trials=len(prepared.plan), shards=shards)
    return files


def run(
    files: SweepFiles,
    prepared: PreparedSweep,
    executor: Executor,
    tracker: Tracker,
    progress: Progress,
    show: Show | None = None,
    report: Show | None = None,
) -> SweepOutcome:
    """Run a new sweep, with the shard size in its manifest. The caller must hold its lease.

    Args:
        files: the sweep.
        prepared: the sweep.
        executor: the executor to run it.
        tracker: the tracker to log it.
        progress: displays the progress.
        show: shows the results, called as soon as all trials are computed, while they are still being logged.
        report: writes the report. If it is given, as it must be if create() was told ``late``, the tracker is used only
            after the results are shown, and the report is written meanwhile.

    Raises:
        Interrupted: the user pressed Ctrl-C.
        ClusterLost: the executor's cluster is lost; finished shards are in the store.
    """
    plan = with_shard_size(prepared.plan, files.planned().stages[0].trials_per_shard)
    return _finish(SweepOutcome(files, replace(prepared, plan=plan)), executor, tracker, progress, show, report)


def resume(
    files: SweepFiles,
    executor: Executor,
    tracker: Tracker,
    progress: Progress,
    show: Show | None = None,
    prepared: PreparedSweep | None = None,
) -> SweepOutcome:
    """Compute and log what a sweep is missing; arguments as in run(). The caller must hold its lease.

    Without ``prepared``, the sweep is reopened.

    Raises:
        InputError: as in create(), or the data has changed.
        Interrupted: as in run().
        ClusterLost: as in run().
    """
    prepared = prepared or reopen(files)
    files.remove_pieces()
    log_event("sweep resumed", files.sweep_id, name=prepared.config.name, stored=len(files.shards.done()))
    _start(tracker, executor, prepared, files.tracking_record.at(tracker.uri).get("run_id"))
    return _finish(SweepOutcome(files, prepared), executor, tracker, progress, show)


def log(files: SweepFiles, tracker: Tracker, progress: Progress, writer: WriterName | None = None) -> SweepOutcome:
    """Log a computed sweep, or the part of it that MLflow lacks. The caller must hold its lease.

    Args:
        files: the sweep.
        tracker: the tracker to log to.
        progress: displays the progress.
        writer: the writer to use instead of the sweep file's.

    Raises:
        InputError: nothing can be logged yet, or the tracking URI cannot be used; nothing was written.
        Interrupted: the user pressed Ctrl-C.
    """
    prepared = reopen(files)
    missing = files.shards.missing(prepared.plan.shards())
    given_up = {failure.index for failure in files.shards.failures()}
    config = prepared.config.tracking
    if not files.shards.done():
        raise StoreError(
            f"sweep {files.sweep_id}: nothing is computed yet; compute it with: sweeps resume {files.sweep_id}"
        )
    unfinished = any(shard.index not in given_up for shard in missing) or not (files.planned().is_complete or given_up)
    if unfinished and not is_final_at_once(prepared):
        unknown = "the best trials" if config.trials.startswith("top:") else "verdicts"
        raise StoreError(
            f"sweep {files.sweep_id}: {unknown} are not known until all trials are computed; "
            f"compute them with: sweeps resume {files.sweep_id}"
        )
    tracker.check(writer or config.writer)
    tracker.open(prepared.config.experiment_name, files.tracking_record.at(tracker.uri).get("run_id"))
    return _finish(SweepOutcome(files, prepared, failed_trials=sum(map(len, missing))), None, tracker, progress)


def _start(tracker: Tracker, executor: Executor, prepared: PreparedSweep, run_id: str | None = None) -> None:
    """Check the tracker and start the executor concurrently, since both mostly wait."""
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(tracker.check, prepared.config.tracking.writer)
        if not executor.is_inline:
            checked.add_done_callback(lambda _: import_ahead(prepared))
        executor.start()
        executor.check(prepared.config.training.device)
        checked.result()
    tracker.open(prepared.config.experiment_name, run_id)


def _finish(
    outcome: SweepOutcome,
    executor: Executor | None,
    tracker: Tracker,
    progress: Progress,
    show: Show | None = None,
    report: Show | None = None,
) -> SweepOutcome:
    """Compute what is missing, if there is an executor, and log everything; with ``report``, start logging late."""
    files, prepared = outcome.files, outcome.prepared
    sweep = TrackedSweep.of(files, prepared)
    timeline = Timeline(files, prepared.plan.shards())  # before the progress of an earlier process is overwritten
    to_compute = sum(map(len, files.shards.missing(prepared.plan.shards()))) if executor else 0
    to_log = runs_wanted(prepared.config.tracking.trials, len(prepared.plan) - outcome.failed_trials)
    log_event("sweep started", files.sweep_id, to_compute=to_compute, to_log=to_log, tracking=tracker.uri)
    progress.begin(to_compute, to_log)
    known = files.tracking_record.at(tracker.uri)
    files.tracking_record.write({"uri": tracker.uri, **known, "complete": False})
    tracking = BackgroundTracking(tracker, sweep, progress.logged, opens=report is not None)
    if report is None:
        tracking.start()
    try:
        if is_final_at_once(prepared):
            for index in sorted(files.shards.done()):
                tracking.put(index)
        if executor is not None:
            compute(outcome, executor, progress, tracking, timeline)
        if not prepared.task.is_quadratic:
            apply_final_verdicts(files, Thresholds(**prepared.config.verdict.model_dump()))
        if show is not None:
            show(outcome)
        if report is not None:
            tracking.start()
        to_log = _log_rest(outcome, tracking)
        if report is not None:
            report(outcome)
        tracking.join()
        _record_tracking(outcome, tracker, tracking, to_log)
    except KeyboardInterrupt:
        tracking.interrupt()
        log_event("sweep interrupted", files.sweep_id, level=logging.WARNING, logged=tracking.trials)
        raise Interrupted(outcome) from None
    except Exception:
        tracking.interrupt()
        raise
    finally:
        progress.end()
    failed, unlogged = outcome.failed_trials, outcome.unlogged_trials
    log_event("sweep finished", files.sweep_id, logged=tracking.trials, failed=failed, unlogged=unlogged)
    return outcome


def _log_rest(outcome: SweepOutcome, tracking: BackgroundTracking) -> int:
    """Log the trials that had to wait for all shards. Return the total number of trials that MLflow should have."""
    files, prepared = outcome.files, outcome.prepared
    policy, trials = prepared.config.tracking.trials, len(prepared.plan) - outcome.failed_trials
    if policy.startswith("top:"):
        best = best_trials(files, prepared.config, runs_wanted(policy, len(prepared.plan)))
        tracking.amend(best)
        for index, numbers in best.items():
            tracking.put(index, numbers)
        return sum(map(len, best.values()))  # fewer if more diverged
    if policy == "all" and not is_final_at_once(prepared):
        tracking.amend()
        for index in sorted(files.shards.done()):
            tracking.put(index)
    return runs_wanted(policy, trials)


def _record_tracking(outcome: SweepOutcome, tracker: Tracker, tracking: BackgroundTracking, to_log: int) -> None:
    """Record where the sweep is logged, how many trials are logged, and the tracking error if there is one."""
    outcome.tracking_error = tracking.error
    outcome.unlogged_trials = to_log - tracking.trials
    outcome.tracking = {"uri": tracker.uri, **tracking.run, "complete": False, "logged": tracking.trials}
    if tracking.error is not None:
        outcome.tracking["error"] = one_line(tracking.error)
    outcome.files.tracking_record.write(outcome.tracking)
