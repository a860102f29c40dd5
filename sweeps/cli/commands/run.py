"""Commands that plan, run and log sweeps: plan, run, resume, log."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sweeps.cli import interrupts
from sweeps.cli.app import app
from sweeps.cli.options import (
    DEFAULT_STORE,
    RAY_ADDRESS,
    AddressOption,
    ConfigPath,
    DatabaseOption,
    ExecutorName,
    ExecutorOption,
    IdOption,
    JsonOption,
    SetOption,
    StoreOption,
    SweepId,
    TagOption,
    TrackingOption,
    WriterChoice,
    database_of,
    executor_choice,
    executor_of,
    find,
    prepare_sweep_file,
    stopping,
)
from sweeps.cli.outcome import (
    again_with,
    conclude,
    conclude_whole,
    ending_with_json,
    keeping,
    say_tracking,
    show_results,
    unlogged,
    write_report,
    write_report_early,
)
from sweeps.cli.supervisor import supervise
from sweeps.errors import NotLogged, TrialsFailed

if TYPE_CHECKING:
    from sweeps.config.datasets import FileData
    from sweeps.config.schema import WriterName
    from sweeps.execution.executor import Executor
    from sweeps.pipeline.outcome import SweepOutcome
    from sweeps.planning.prediction import Forecast
    from sweeps.planning.prepared import PreparedSweep
    from sweeps.store.store import Store, SweepFiles
    from sweeps.tracking.base import Tracker
    from sweeps.tracking.mlflow.tracker import MlflowTracker

_WHY_POINTS = ", each a pass over all data; the default takes at most a quarter of the training (record.points sets it)"


@app.command()
def plan(config: ConfigPath, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what a sweep would run, without writing anything."""
    from sgdcore.kernels.dispatch import planned as planned_kernel
    from sweeps.cli.terminal import say, show_frame, show_json
    from sweeps.config.datasets import FileData
    from sweeps.config.messages import listed
    from sweeps.planning.prediction import forecast
    from sweeps.planning.prepared import data_summary

    prepared = prepare_sweep_file(config, set_, as_json=as_json)
    summary = prepared.plan.summary()
    points = len(prepared.recording.steps(0, prepared.plan.steps))
    expected = forecast(prepared)
    choice = executor_choice(ExecutorName.auto, os.environ.get(RAY_ADDRESS), prepared)
    kernel = planned_kernel(prepared.task, prepared.config.training.device)
    if as_json:
        predicted = asdict(expected) if expected else None
        chosen = {
            name: dict(zip(("name", "reason"), pair, strict=True))
            for name, pair in (("executor", choice), ("kernel", kernel))
        }
        show_json(summary | chosen | {"data": data_summary(prepared.task), "predicted": predicted})
        return
    say(f"{prepared.config.name}: {_trials(prepared)} of {_steps(prepared)}")
    say(
        f"task: {prepared.config.task.dataset.kind} data, {prepared.task.samples:,} samples; "
        f"parameters {', '.join(prepared.plan.parameter_names[:8])}"
    )
    file = prepared.config.task.dataset if isinstance(prepared.config.task.dataset, FileData) else None
    say(f"features: {listed(prepared.task.dataset.feature_names)}{f'; {_targets(file)}' if file else ''}")
    if file:
        say(f"first row: {_first_row(prepared)}")
    say(f"curves: {points:,} points{'' if prepared.task.is_quadratic else _WHY_POINTS}")
    say(f"shards: {summary['shards']:,} of up to {prepared.plan.trials_per_shard:,} trials")
    say("executor: {} ({})".format(*choice))
    if prepared.config.early_terminate is not None:
        say(f"early termination: {_rungs(prepared)}")
    say("kernel: {} ({})".format(*kernel))
    for what, aggregate in (("dropped", prepared.plan.dropped), ("merged", prepared.plan.merged)):
        for reason, count in aggregate.items():
            say(f"{what}: {count:,} ({reason})")
    _say_forecast(prepared, expected)
    show_frame(_axes(prepared), False, "axes")


@app.command()
def run(
    config: ConfigPath,
    set_: SetOption = None,
    executor: ExecutorOption = ExecutorName.auto,
    address: AddressOption = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train all trials; do not reuse results of earlier sweeps.")
    ] = False,
    id_: IdOption = None,
    tag: TagOption = None,
    copy_data: Annotated[bool, typer.Option("--copy-data", help="Copy the data file into the store.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON, all else to standard error.")
    ] = False,
) -> None:
    """Train all trials, log them to MLflow and write the report."""
    _attend(executor)
    from sweeps.cli.terminal import complain, keep_output_for_json, progress, say
    from sweeps.pipeline import run as pipeline
    from sweeps.pipeline.factories import tracker_for
    from sweeps.pipeline.rerun import check_id, tags_of
    from sweeps.service.monitoring.progress_file import report_progress
    from sweeps.store.store import Store
    from sweeps.store.warm_start import read_warm_start
    from sweeps.tracking.process import in_own_process

    if as_json:
        keep_output_for_json()
    ending = ending_with_json if as_json else nullcontext
    tags = tags_of(tag)
    if id_ is not None:
        check_id(id_)
    home = Store(store)
    prepared = prepare_sweep_file(config, set_, home if copy_data else None)
    if id_ is not None and (files := home.get(id_)) is not None:
        with ending(files):
            _run_again(files, prepared, executor, address, tracking_uri, tracking_database)
        return
    tracker = tracker_for(home, tracking_uri, None, database_of(tracking_database, prepared.config))
    say(f"{prepared.config.name}: {_trials(prepared)} of {_steps(prepared)}")
    with executor_of(executor, address, prepared) as where:
        late = pipeline.tracks_late(prepared, where, tracker)
        files = pipeline.create(prepared, home, where, tracker, fresh, id_, tags, late=late)
        if prepared.config.warm_start is not None:
            say(f"warm start: {read_warm_start(files)}")
        tracking = in_own_process(tracker) if late else nullcontext(tracker)
        with ending(files), files.lease(), tracking as logger, keeping(files):
            reported = report_progress(progress(), files, where, complain)
            report = write_report_early if late else None
            outcome = pipeline.run(files, prepared, where, logger, reported, show_results, report)
            _conclude(outcome, home, where, logger)


@app.command()
def resume(
    sweep_id: SweepId,
    executor: ExecutorOption = ExecutorName.auto,
    address: AddressOption = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
) -> None:
    """Compute and log what a sweep is missing; retry failures."""
    _attend(executor)
    from sweeps.pipeline.factories import tracker_for

    home, files = find(store, sweep_id)
    with files.lease():
        tracker = tracker_for(home, tracking_uri, files, database_of(tracking_database, files.config()))
        _go_on(files, tracker, executor, address)


@app.command()
def log(
    sweep_id: SweepId,
    writer: Annotated[
        WriterChoice | None, typer.Option("--writer", help="Use this writer instead of the sweep file's.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
) -> None:
    """Log a computed sweep to any MLflow; add only what is missing."""
    from sweeps.cli.terminal import complain, progress
    from sweeps.pipeline import run as pipeline
    from sweeps.pipeline.factories import tracker_for
    from sweeps.pipeline.publish import publish
    from sweeps.service.monitoring.progress_file import report_progress

    home, files = find(store, sweep_id)
    with files.lease():
        tracker = tracker_for(home, tracking_uri, files, database_of(tracking_database, files.config()))
        again = again_with(files, "log") + (f" --tracking-uri {shlex.quote(tracker.uri)}" if tracking_uri else "")
        try:
            reported = report_progress(progress(), files, None, complain)
            outcome = pipeline.log(files, tracker, reported, cast("WriterName | None", writer and writer.value))
            if not files.report.is_written():
                write_report(outcome)
            if outcome.tracking_error is None:
                publish(outcome, tracker)
        except KeyboardInterrupt:
            tracker.interrupt()
            raise KeyboardInterrupt(f"continue with: {again}") from None
        say_tracking(outcome, home, tracker)
        if outcome.tracking_error is not None:
            raise NotLogged(unlogged(outcome, again))
        if outcome.failed_trials:
            raise TrialsFailed(
                f"{outcome.failed_trials:,} of {len(outcome.prepared.plan):,} trials are neither computed nor logged; "
                f"compute them with: {again_with(files, 'resume')}; then log them with: {again}"
            )


def _attend(executor: ExecutorName) -> None:
    """Watch over the sweep from here on: in a parent process if it may run on Ray, else in a thread."""
    if executor is ExecutorName.inline:
        interrupts.watch()
    else:
        supervise()


def _run_again(
    files: SweepFiles,
    prepared: PreparedSweep,
    executor: ExecutorName,
    address: str | None,
    tracking_uri: str | None,
    tracking_database: str | None,
) -> None:
    """Resume a sweep that was requested before, or print its outcome if it is complete."""
    from sweeps.cli.terminal import say
    from sweeps.pipeline.factories import tracker_for
    from sweeps.pipeline.outcome import SweepOutcome
    from sweeps.pipeline.rerun import check_same, is_whole
    from sweeps.store.store import Store

    check_same(files, prepared)
    with files.lease():
        database = database_of(tracking_database, prepared.config)
        tracker = tracker_for(Store.of(files), tracking_uri, files, database)
        if is_whole(files, tracker.uri):
            say(f"{prepared.config.name}: sweep {files.sweep_id} is in the store and complete")
            [place] = [place for place in files.tracking_record.places() if place["uri"] == tracker.uri]
            conclude_whole(SweepOutcome(files, prepared, tracking=place), tracker)
        else:
            say(f"{prepared.config.name}: sweep {files.sweep_id} is in the store; resuming it")
            _go_on(files, tracker, executor, address)


def _go_on(files: SweepFiles, tracker: MlflowTracker, executor: ExecutorName, address: str | None) -> None:
    """Compute, log and report what is missing; the caller holds the lease."""
    from sweeps.cli.terminal import complain, progress, say
    from sweeps.pipeline import run as pipeline
    from sweeps.service.monitoring.progress_file import report_progress
    from sweeps.store.reopen import reopen
    from sweeps.store.store import Store

    prepared = reopen(files)
    with keeping(files), executor_of(executor, address, prepared) as where:
        if failures := files.shards.failures():
            tries = sum(files.shards.tries(failure.index) for failure in failures)
            say(f"retrying {len(failures):,} failed shards, after {tries:,} tries")
        reported = report_progress(progress(), files, where, complain)
        outcome = pipeline.resume(files, where, tracker, reported, show_results, prepared)
        _conclude(outcome, Store.of(files), where, tracker)


def _conclude(outcome: SweepOutcome, store: Store, executor: Executor, tracker: Tracker) -> None:
    """Report the outcome, and stop the executor meanwhile: nothing is left to compute."""
    where = executor.description
    with stopping(executor):
        conclude(outcome, store, where, tracker)


def _say_forecast(prepared: PreparedSweep, expected: Forecast | None) -> None:
    """Print what theory predicts for the plan, or why it predicts nothing."""
    from sweeps.cli.terminal import say
    from sweeps.planning.prediction import prediction

    if expected is None:
        say(f"predicted: {prediction(prepared)}")
        return
    of = "" if expected.trials == len(prepared.plan) else f" {expected.trials:,} sampled"
    say(f"predicted: {expected.stable_share:.0%} of the{of} trials are stable ({expected.kind} below 1)")
    swept = [f"{name} {_word(name, value)}" for name, value in expected.best.items() if name in prepared.plan.swept]
    if swept:
        seen, total = expected.settings, expected.settings_in_all
        among = "" if seen == total else f"; {seen:,} of {total:,} settings evaluated"
        say(f"best predicted: {', '.join(swept)} ({expected.best['growth']:.3g} per epoch{among})")
    for edge in expected.edges:
        say(str(edge))


def _targets(data: FileData) -> str:
    """Return the columns of a data file that are not features."""
    from sweeps.config.messages import listed

    targets = f"target{'s' if len(data.targets) > 1 else ''}: {listed(data.targets)}"
    return targets + (f"; weights: {data.weights}" if data.weights is not None else "")


def _first_row(prepared: PreparedSweep) -> str:
    """Return the first row of a data file as it is understood, in its own units."""
    from sweeps.config.messages import listed
    from sweeps.planning.task_loader import load_raw

    data = load_raw(prepared.config.task.dataset.model_copy(update={"validation": 0.0}))
    cells = listed(tuple(f"{name} {value:g}" for name, value in zip(data.feature_names, data.inputs[0], strict=True)))
    if data.weights is not None:
        cells += f"; weight {data.weights[0]:g}"
    if data.target_count == 1:
        return f"{cells}; target: {data.targets[0]:g}"
    named = zip(data.target_names, data.targets[0], strict=True)
    return f"{cells}; targets: {listed(tuple(f'{name} {value:g}' for name, value in named))}"


def _axes(prepared: PreparedSweep) -> Any:
    import numpy as np
    import pandas as pd

    rows: list[dict[str, Any]] = []
    drawn = {name: axis for mapping in prepared.config.mappings() for name, axis in mapping.items()}
    for name in prepared.plan.trial_sets[0].names:
        if name in drawn and not drawn[name].is_listed:
            low, *_, high = drawn[name].points().tolist()
            between = f"{_word(name, low)} to {_word(name, high)}"
            rows.append({"axis": name, "values": drawn[name].distribution_name, "from": between})
            continue
        everything = np.unique(np.concatenate([trials[name] for trials in prepared.plan.trial_sets]))
        values = everything[~np.isnan(everything)]
        if not len(values):
            continue  # all trials start from the model's initialisation
        shown = [_word(name, v) for v in values[:6]] + ([f"... {_word(name, values[-1])}"] if len(values) > 6 else [])
        if len(values) < len(everything):
            shown.insert(0, "the model's initialisation")
        rows.append({"axis": name, "values": len(everything), "from": ", ".join(shown)})
    return pd.DataFrame(rows)


def _word(axis: str, value: float) -> str:
    """Return an axis value as a sweep file writes it."""
    return str(bool(value)).lower() if axis == "nesterov" else f"{value:g}"


def _trials(prepared: PreparedSweep) -> str:
    most, first = prepared.most_trials, len(prepared.plan)
    if prepared.config.method == "boundary":
        return f"{first:,} trials in the scan, and more in every bracket of an edge,"
    return f"{first:,} trials" if most == first else f"up to {most:,} trials in rounds of {first:,},"


def _rungs(prepared: PreparedSweep) -> str:
    """Return the rungs with their most trials, and what early termination saves at least, without overflows."""
    from sweeps.search.early_termination import most_trials, rungs

    rule, epochs = prepared.config.early_terminate, prepared.config.training.epochs
    assert rule is not None
    trials = len(prepared.plan)
    ends = rungs(rule, epochs)
    most = most_trials(rule, len(ends), trials, prepared.config.search_seed)
    work = sum(count * (end - before) for count, end, before in zip(most, ends, [0, *ends], strict=False))
    steps = ", ".join(f"{count:,} trials to epoch {end}" for count, end in zip(most, ends, strict=True))
    return f"{steps}; at most {work:,} epochs in all, {trials * epochs / work:.3g} times fewer than without"


def _steps(prepared: PreparedSweep) -> str:
    return f"{'up to ' if prepared.config.is_divided else ''}{prepared.plan.steps:,} steps"
