"""run(): the road from a validated config to a finished sweep: plan, compute, store, track, report."""

from __future__ import annotations

import logging
import os
import platform
import re
import secrets
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.compute as pc

from sgdcore import InvalidTask, Thresholds
from sgdcore.engine import check_task
from sgdcore.verdict import VERDICTS
from sweeps import __version__
from sweeps.config.schema import SweepConfig, WriterName
from sweeps.errors import ConfigError, StoreError, TrackingError
from sweeps.execution.executor import Executor
from sweeps.execution.executor import Outcome as Result
from sweeps.execution.worker import ShardFailure, ShardResult, Work
from sweeps.pipeline.reuse import Earlier, results_key
from sweeps.plan import task_loader
from sweeps.plan.planner import make_plan, packed
from sweeps.results.final_verdicts import settle
from sweeps.service.monitoring.event_log import event
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.background import Pipeline
from sweeps.tracking.base import (
    BEST_TRIAL,
    REDACTED,
    TRIAL_COUNT,
    ModelPlace,
    Sweep,
    Tracker,
    best_trials,
    wanted,
)
from sweeps.tracking.mlflow.connection import is_server, redacted

if TYPE_CHECKING:
    from sweeps.results.results import Results
    from sweeps.tracking.mlflow.tracker import MlflowTracker


class Progress(Protocol):
    """Whoever shows how far a sweep is."""

    def begin(self, to_compute: int, to_log: int) -> None:
        """The sweep starts, with so many trials to compute and to log."""

    def computed(self, trials: int) -> None:
        """So many more trials are in the store."""

    def failed(self, trials: int) -> None:
        """So many trials more could not be run."""

    def logged(self, trials: int) -> None:
        """So many more trials are in MLflow."""

    def end(self) -> None:
        """No more comes."""


@dataclass
class Outcome:
    """How a sweep went."""

    files: SweepFiles
    work: Work
    failed_trials: int = 0
    reused: Counter[str] = field(default_factory=Counter)  # trials taken from earlier sweeps, by sweep id
    unstored: Counter[str] = field(default_factory=Counter)  # trials that workers could not store themselves, by reason
    unlogged_trials: int = 0  # that are to be in MLflow and are not
    tracking_error: Exception | None = None
    tracking: dict[str, Any] = field(default_factory=dict)


class Interrupted(KeyboardInterrupt):
    """The user stopped the sweep; what was done is kept."""

    def __init__(self, outcome: Outcome) -> None:
        """Carries what there is."""
        super().__init__()
        self.outcome = outcome


def prepare(config: SweepConfig, where: str = "config", trials_per_shard: int | None = None) -> Work:
    """Load the data and plan the trials; nothing is written.

    Args:
        config: the sweep.
        where: what messages call it.
        trials_per_shard: of a plan that was made before; by default what the config says, or what suits this machine.

    Raises:
        ConfigError, DataError: the input cannot be used.
    """
    task = task_loader.load_task(config.task)
    try:
        check_task(task, config.training.dtype, config.training.batch_size)
        return Work(config, task, make_plan(config, task, where, trials_per_shard))
    except InvalidTask as error:
        raise ConfigError(where, [f"task: {error}"]) from error


def create(
    work: Work,
    store: Store,
    executor: Executor,
    tracker: Tracker,
    fresh: bool = False,
    sweep_id: str | None = None,
    tags: dict[str, str] | None = None,
) -> SweepFiles:
    """Bring up the executor, try the tracker, and make a new sweep's folder; its plan is packed for the executor.

    Args:
        work: the sweep.
        store: where to.
        executor: what is to run it.
        tracker: what is to log it.
        fresh: compute also what earlier sweeps of the store have computed.
        sweep_id: the new sweep's; by default one of its own.
        tags: kept with the plan, and on MLflow's parent run.

    Raises:
        InputError: the store, the executor or the tracking URI cannot be used; nothing was written.
    """
    store.check_writable()
    _start(tracker, executor, work)
    work = replace(work, plan=packed(work.plan, work.config, work.task, executor.cores))
    sweep_id = sweep_id or secrets.token_hex(4)
    files = store.create(sweep_id, work.config.to_yaml(), _manifest(work, sweep_id, fresh) | {"tags": tags or {}})
    event("sweep planned", sweep_id, name=work.config.name, trials=len(work.plan), shards=len(work.plan.shards()))
    return files


def run(files: SweepFiles, work: Work, executor: Executor, tracker: Tracker, progress: Progress) -> Outcome:
    """Run a sweep that was created, in the shards that its folder says; the caller holds its lease.

    Raises:
        Interrupted: by Ctrl-C.
        ClusterLost: what the executor runs on is gone; what was done is kept.
    """
    size = int(files.manifest()["trials_per_shard"])
    if size != work.plan.trials_per_shard:
        work = replace(work, plan=replace(work.plan, trials_per_shard=size))
    return _finish(Outcome(files, work), executor, tracker, progress)


def resume(files: SweepFiles, executor: Executor, tracker: Tracker, progress: Progress) -> Outcome:
    """Compute and log what a sweep still lacks; the caller holds its lease.

    Raises:
        InputError: as create(), or the data has changed since.
        ClusterLost: as run().
    """
    work = reopen(files)
    files.remove_pieces()
    event("sweep resumed", files.sweep_id, name=work.config.name, stored=len(files.done()))
    _start(tracker, executor, work)
    return _finish(Outcome(files, work), executor, tracker, progress)


def log(files: SweepFiles, tracker: Tracker, progress: Progress, writer: WriterName | None = None) -> Outcome:
    """Log what a sweep has computed, or complete what is logged of it; the caller holds its lease.

    Args:
        files: the sweep.
        tracker: where to.
        progress: who shows how far it is.
        writer: instead of the one that the sweep file names.

    Raises:
        InputError: there is nothing to log yet, or the tracking URI cannot be used; nothing was written.
        Interrupted: by Ctrl-C.
    """
    work = reopen(files)
    missing = files.missing(work.plan.shards())
    given_up = {failure.index for failure in files.failures()}
    config = work.config.tracking
    if not files.done():
        raise StoreError(f"sweep {files.sweep_id}: nothing is computed yet: sweeps resume {files.sweep_id}")
    if not _is_final_at_once(work) and any(shard.index not in given_up for shard in missing):
        known = "which trials are the best" if config.trials.startswith("top:") else "their verdicts"
        raise StoreError(
            f"sweep {files.sweep_id}: {known} can be said when all trials are computed: sweeps resume {files.sweep_id}"
        )
    tracker.check(writer or config.writer)
    tracker.open(work.config.experiment or work.config.name)
    return _finish(Outcome(files, work, failed_trials=sum(map(len, missing))), None, tracker, progress)


def reopen(files: SweepFiles) -> Work:
    """The work of a stored sweep.

    Raises:
        StoreError: its data set is not what it was.
    """
    manifest = files.manifest()
    work = prepare(files.config(), files.config_location, int(manifest["trials_per_shard"]))
    if work.plan.context != manifest["context"]:
        raise StoreError(f"sweep {files.sweep_id}: its data set has changed since the sweep was planned")
    return work


def _start(tracker: Tracker, executor: Executor, work: Work) -> None:
    """Both take seconds to come up, most of it waiting, so side by side."""
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(tracker.check, work.config.tracking.writer)
        executor.start()
        executor.check(work.config.training.device)
        checked.result()
    tracker.open(work.config.experiment or work.config.name)


def _is_final_at_once(work: Work) -> bool:
    """Whether a shard's trials can be logged before all shards are there."""
    # The verdicts of other tasks are held against the best of the sweep.
    return work.config.tracking.trials == "all" and work.task.is_quadratic


def _finish(outcome: Outcome, executor: Executor | None, tracker: Tracker, progress: Progress) -> Outcome:
    """Compute what is missing, if there is an executor, and log all."""
    files, work = outcome.files, outcome.work
    sweep = Sweep(files, work.config, files.manifest(), work.plan.parameter_names)
    to_compute, results = _results(outcome, executor) if executor else (0, None)
    to_log = wanted(work.config.tracking.trials, len(work.plan) - outcome.failed_trials)
    event("sweep started", files.sweep_id, to_compute=to_compute, to_log=to_log, tracking=tracker.uri)
    progress.begin(to_compute, to_log)
    files.write_tracking({"uri": tracker.uri, "complete": False})
    pipeline = Pipeline(tracker, sweep, progress.logged)
    pipeline.start()
    try:
        if _is_final_at_once(work):
            for index in sorted(files.done()):
                pipeline.put(index)
        if results is not None:
            with closing(results):
                _compute(outcome, results, progress, pipeline)
        to_log = _log_rest(outcome, pipeline)
        pipeline.join()
        _keep_tracking(outcome, tracker, pipeline, to_log)
    except KeyboardInterrupt:
        pipeline.interrupt()
        event("sweep interrupted", files.sweep_id, level=logging.WARNING, logged=pipeline.trials)
        raise Interrupted(outcome) from None
    except Exception:
        pipeline.interrupt()
        raise
    finally:
        progress.end()
    failed, unlogged = outcome.failed_trials, outcome.unlogged_trials
    event("sweep finished", files.sweep_id, logged=pipeline.trials, failed=failed, unlogged=unlogged)
    return outcome


def _compute(outcome: Outcome, results: Generator[Result, None, None], progress: Progress, pipeline: Pipeline) -> None:
    """Store each shard as it comes, unless its worker has, and log it where its verdicts are final."""
    files, at_once = outcome.files, _is_final_at_once(outcome.work)
    for result in results:
        files.check_lease()
        if isinstance(result, ShardFailure):
            files.write_failure(result)
            outcome.failed_trials += len(result.shard)
            progress.failed(len(result.shard))
            why = result.traceback.strip().splitlines()[-1]
            event("shard failed", files.sweep_id, level=logging.ERROR, shard=result.shard.index, reason=why)
            continue
        if isinstance(result, ShardResult):
            files.write_shard(result)
            if result.unstored:
                outcome.unstored[result.unstored] += len(result.shard)
        progress.computed(len(result.shard))
        seconds = round(result.seconds, 3)
        event("shard stored", files.sweep_id, shard=result.shard.index, trials=len(result.shard), seconds=seconds)
        if at_once:
            pipeline.put(result.shard.index)


def _log_rest(outcome: Outcome, pipeline: Pipeline) -> int:
    """Log what had to wait for all shards; returns how many trials are to be in MLflow in all."""
    files, work = outcome.files, outcome.work
    policy, trials = work.config.tracking.trials, len(work.plan) - outcome.failed_trials
    if not work.task.is_quadratic:
        settle(files, Thresholds(**work.config.verdict.model_dump()))
    if policy.startswith("top:"):
        best = best_trials(files, work.config.metric.name, wanted(policy, len(work.plan)))
        pipeline.amend(best)
        for index, numbers in best.items():
            pipeline.put(index, numbers)
        return sum(map(len, best.values()))  # fewer where more diverged
    if policy == "all" and not _is_final_at_once(work):
        pipeline.amend()
        for index in sorted(files.done()):
            pipeline.put(index)
    return wanted(policy, trials)


def _keep_tracking(outcome: Outcome, tracker: Tracker, pipeline: Pipeline, to_log: int) -> None:
    """Keep where the sweep is logged, and how far."""
    outcome.tracking_error = pipeline.error
    outcome.unlogged_trials = to_log - pipeline.trials
    outcome.tracking = {"uri": tracker.uri, **pipeline.run, "complete": False, "logged": pipeline.trials}
    if pipeline.error is not None:
        outcome.tracking["error"] = reason(pipeline.error)
    outcome.files.write_tracking(outcome.tracking)


def _results(outcome: Outcome, executor: Executor) -> tuple[int, Generator[Result, None, None]]:
    """How many trials are missing, and what computes them or takes them from earlier sweeps."""
    files, work = outcome.files, outcome.work
    missing = files.missing(work.plan.shards())
    allowed = executor.on_cpu(work.config.training.device) and not files.manifest().get("fresh")
    earlier = Earlier(replace(work, store=files.for_workers()), files, allowed)
    outcome.reused = earlier.reused
    return sum(map(len, missing)), earlier.run(executor, missing)


def publish(outcome: Outcome, tracker: Tracker, results: Results | None = None) -> None:
    """Close the sweep's parent run: counts, the best trial and its model, a page to look at, shards and report.

    Args:
        outcome: of the sweep, all of whose trials are logged.
        tracker: where to.
        results: the sweep's, where somebody has them already.
    """
    from sweeps.report.run_page import parent_page
    from sweeps.results.results import load_results as load_results

    files, work = outcome.files, outcome.work
    sweep = Sweep(files, work.config, files.manifest(), work.plan.parameter_names)
    best = best_trials(files, work.config.metric.name, 1)
    metrics, tags = _totals(files, work.config.metric.name, best)
    complete = outcome.failed_trials == 0
    try:
        model = _log_best_model(outcome, tracker, best) if work.config.tracking.model == "best" else None
        page = parent_page(results or load_results(files), tracker, outcome.tracking, model)
        tracker.finish(sweep, metrics, tags, complete, page)
    except Exception as error:  # noqa: BLE001 - as in the pipeline: the result is in the store, resume logs it
        outcome.tracking_error = error
        return
    outcome.tracking["complete"] = complete
    files.write_tracking(outcome.tracking)


def _log_best_model(outcome: Outcome, tracker: Tracker, best: dict[int, list[int]]) -> ModelPlace | None:
    """Log the best trial's model, if all trials but those that were given up say which it is."""
    from sweeps.pipeline.best_model import best_model

    files, work = outcome.files, outcome.work
    for shard, [trial] in best.items():
        model = best_model(files, work, shard, trial)
        run_id = tracker.runs_of({model.trial_id: trial}).get(model.trial_id)
        return tracker.log_model(model, run_id, work.config.registered_name)
    return None


def reason(error: Exception) -> str:
    """What a tracking fault was, in a line, without passwords."""
    return redacted(" ".join(str(error).split()))[:300] or type(error).__name__


def _totals(files: SweepFiles, metric: str, best: dict[int, list[int]]) -> tuple[dict[str, float], dict[str, str]]:
    counts = dict.fromkeys(VERDICTS, 0)
    for table in files.tables(["verdict"]):
        for entry in pc.value_counts(table["verdict"]).to_pylist():
            counts[entry["values"]] += entry["counts"]
    trials = sum(counts.values())
    metrics = {"trials": float(trials), **{f"trials/{verdict}": float(n) for verdict, n in counts.items()}}
    tags = {TRIAL_COUNT: str(trials)}
    for index, [trial] in best.items():
        table = files.read_shard(index, ["trial", "trial_id", metric])
        [row] = table.filter(pc.equal(table["trial"], trial)).to_pylist()
        metrics[f"best/{metric}"] = row[metric]
        tags[BEST_TRIAL] = row["trial_id"]
    return metrics, tags


def _manifest(work: Work, sweep_id: str, fresh: bool) -> dict[str, Any]:
    packages = ("numpy", "numba", "torch", "ray", "mlflow", "pyarrow")
    return {
        "sweep_id": sweep_id,
        "name": work.config.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **work.plan.summary(),
        "results": results_key(work),
        "fresh": fresh,
        "data": {
            "digest": work.task.dataset.digest,
            "samples": work.task.samples,
            "features": list(work.task.dataset.feature_names),
            "validation": len(work.task.dataset.validation) if work.task.dataset.validation else 0,
        },
        "versions": {
            "sweeps": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    }


def tracker_for(
    store: Store, uri: str | None, files: SweepFiles | None = None, database: str | None = None
) -> MlflowTracker:
    """The tracker of a URI: by default where the sweep was tracked before, else the store's embedded MLflow.

    Args:
        store: whose MLflow it is by default.
        uri: where to.
        files: the sweep, if it was tracked before.
        database: the URI of the database behind the tracking server, or the variable that holds it, as $NAME; of no
            use, and so not looked at, where there is no server.

    Raises:
        TrackingError: the sweep was tracked at a URI with a password, which is not kept; or there is no such variable,
            or no such URI in it; or the store has no MLflow of its own, and none is named.
    """
    from sweeps.tracking.mlflow.tracker import MlflowTracker

    known = files.tracking().get("uri") if files else None
    own = None if store.is_shared else redacted(store.tracking_uri)
    if uri is None and known not in (None, own):
        if REDACTED in known:
            raise TrackingError(f"the sweep is tracked at {known}: pass it again with its password (--tracking-uri)")
        uri = known
    if uri is None:
        return MlflowTracker(store.tracking_uri, store.artifacts)
    return MlflowTracker(uri, None, database_uri(database) if database and is_server(uri) else None)


def database_uri(given: str) -> str:
    """The URI of a database: as given, or what the variable holds whose name is given as $NAME.

    Raises:
        TrackingError: there is no such variable, or no such URI in it.
    """
    name = given.removeprefix("$")
    uri = given if name == given else os.environ.get(name)
    if not uri:
        raise TrackingError(f"tracking.database: the environment variable {name} is not set")
    if not re.match(r"(postgresql|sqlite)(\+\w+)?://", uri):
        raise TrackingError("tracking.database: a postgresql:// or sqlite:/// URI is needed")
    return uri


def executor_for(kind: str, address: str | None) -> Executor:
    """The executor of a name."""
    if kind == "inline":
        from sweeps.execution.inline import InlineExecutor

        return InlineExecutor()
    from sweeps.execution.ray import RayExecutor

    return RayExecutor(address)
