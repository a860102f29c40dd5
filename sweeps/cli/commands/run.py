"""Commands that make sweeps: plan, run, resume, log."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sweeps.cli.app import app
from sweeps.cli.options import (
    DEFAULT_STORE,
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
    executor_of,
    find,
    prepared,
)
from sweeps.cli.outcome import again_with, conclude, conclude_whole, keeping, say_tracking, unlogged, write_report
from sweeps.errors import NotLogged, TrialsFailed

if TYPE_CHECKING:
    from sweeps.config.schema import WriterName
    from sweeps.execution.worker import Work
    from sweeps.plan.prediction import Forecast
    from sweeps.store.store import SweepFiles
    from sweeps.tracking.mlflow.tracker import MlflowTracker


@app.command()
def plan(config: ConfigPath, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what a sweep would run; nothing is written."""
    from sweeps.cli.terminal import say, show_frame, show_json
    from sweeps.plan.prediction import forecast

    work = prepared(config, set_, as_json=as_json)
    summary = work.plan.summary()
    told = forecast(work)
    if as_json:
        show_json(summary | {"predicted": asdict(told) if told else None})
        return
    say(f"{work.config.name}: {len(work.plan):,} trials of {work.plan.steps:,} steps")
    say(
        f"task: {work.config.task.dataset.kind} data, {work.task.samples:,} samples; "
        f"parameters {', '.join(work.plan.parameter_names[:8])}"
    )
    say(f"shards: {summary['shards']:,} of up to {work.plan.trials_per_shard:,} trials")
    for what, tally in (("dropped", work.plan.dropped), ("merged", work.plan.merged)):
        for reason, count in tally.items():
            say(f"{what}: {count:,} ({reason})")
    _say_forecast(work, told)
    show_frame(_axes(work), False, "axes")


@app.command()
def run(
    config: ConfigPath,
    set_: SetOption = None,
    executor: ExecutorOption = ExecutorName.ray,
    address: AddressOption = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train also what earlier sweeps of the store have; networks always are.")
    ] = False,
    id_: IdOption = None,
    tag: TagOption = None,
    copy_data: Annotated[bool, typer.Option("--copy-data", help="Keep a copy of the data file in the store.")] = False,
) -> None:
    """Train all trials, track them in MLflow and report."""
    from sweeps.cli.terminal import complain, progress, say
    from sweeps.pipeline import run as road
    from sweeps.pipeline.rerun import check_id, tags_of
    from sweeps.service.monitoring.progress_file import followed
    from sweeps.store.store import Store

    tags = tags_of(tag)
    if id_ is not None:
        check_id(id_)
    home = Store(store)
    work = prepared(config, set_, home if copy_data else None)
    if id_ is not None and (files := home.get(id_)) is not None:
        _run_again(files, work, executor, address, tracking_uri, tracking_database)
        return
    with executor_of(executor, address) as where:
        tracker = road.tracker_for(home, tracking_uri, None, database_of(tracking_database, work.config))
        say(f"{work.config.name}: {len(work.plan):,} trials of {work.plan.steps:,} steps")
        files = road.create(work, home, where, tracker, fresh, id_, tags)
        with files.lease(), keeping(files):
            outcome = road.run(files, work, where, tracker, followed(progress(), files, where, complain))
            conclude(outcome, home, where.description, tracker)


@app.command()
def resume(
    sweep_id: SweepId,
    executor: ExecutorOption = ExecutorName.ray,
    address: AddressOption = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
) -> None:
    """Compute and log what a sweep still lacks, also what could not be run before."""
    from sweeps.pipeline import run as road

    home, files = find(store, sweep_id)
    with files.lease():
        tracker = road.tracker_for(home, tracking_uri, files, database_of(tracking_database, files.config()))
        _go_on(files, tracker, executor, address)


@app.command()
def log(
    sweep_id: SweepId,
    writer: Annotated[WriterChoice | None, typer.Option("--writer", help="Instead of the sweep file's.")] = None,
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
) -> None:
    """Log what a sweep has computed to any MLflow, or complete what is logged there; nothing is logged twice."""
    from sweeps.cli.terminal import complain, progress
    from sweeps.pipeline import run as road
    from sweeps.service.monitoring.progress_file import followed

    home, files = find(store, sweep_id)
    with files.lease():
        tracker = road.tracker_for(home, tracking_uri, files, database_of(tracking_database, files.config()))
        again = again_with(files, "log") + (f" --tracking-uri {shlex.quote(tracker.uri)}" if tracking_uri else "")
        try:
            told = followed(progress(), files, None, complain)
            outcome = road.log(files, tracker, told, cast("WriterName | None", writer and writer.value))
            loaded = None if files.is_reported() else write_report(outcome)[0]
            if outcome.tracking_error is None:
                road.publish(outcome, tracker, loaded)
        except KeyboardInterrupt:
            tracker.interrupt()
            raise KeyboardInterrupt(f"go on with: {again}") from None
        say_tracking(outcome, home, tracker)
        if outcome.tracking_error is not None:
            raise NotLogged(unlogged(outcome, again))
        if outcome.failed_trials:
            raise TrialsFailed(
                f"{outcome.failed_trials:,} of {len(outcome.work.plan):,} trials are not computed, and so not logged; "
                f"compute them: {again_with(files, 'resume')}; then log them: {again}"
            )


def _run_again(
    files: SweepFiles,
    work: Work,
    executor: ExecutorName,
    address: str | None,
    tracking_uri: str | None,
    tracking_database: str | None,
) -> None:
    """The sweep was asked for before: go on with it, or say how it went."""
    from sweeps.cli.terminal import say
    from sweeps.pipeline import run as road
    from sweeps.pipeline.rerun import check_same, is_whole

    check_same(files, work)
    with files.lease():
        database = database_of(tracking_database, work.config)
        tracker = road.tracker_for(files.store, tracking_uri, files, database)
        if is_whole(files, tracker.uri):
            say(f"{work.config.name}: sweep {files.sweep_id} is in the store, and complete")
            [place] = [place for place in files.places() if place["uri"] == tracker.uri]
            conclude_whole(road.Outcome(files, work, tracking=place), tracker)
        else:
            say(f"{work.config.name}: sweep {files.sweep_id} is in the store; going on with it")
            _go_on(files, tracker, executor, address)


def _go_on(files: SweepFiles, tracker: MlflowTracker, executor: ExecutorName, address: str | None) -> None:
    """Compute, log and report what is missing; the caller holds the lease."""
    from sweeps.cli.terminal import complain, progress, say
    from sweeps.pipeline import run as road
    from sweeps.service.monitoring.progress_file import followed

    with keeping(files), executor_of(executor, address) as where:
        if failures := files.failures():
            tries = sum(files.tries(failure.index) for failure in failures)
            say(f"trying again what was given up before: {len(failures):,} shards, after {tries:,} tries")
        outcome = road.resume(files, where, tracker, followed(progress(), files, where, complain))
        conclude(outcome, files.store, where.description, tracker)


def _say_forecast(work: Work, told: Forecast | None) -> None:
    """What theory says of the plan, in lines."""
    from sweeps.cli.terminal import say
    from sweeps.plan.prediction import prediction

    if told is None:
        say(f"predicted: {prediction(work)}")
        return
    of = "" if told.trials == len(work.plan) else f" {told.trials:,} sampled"
    say(f"predicted: {told.stable_share:.0%} of the{of} trials are stable ({told.kind} below 1)")
    swept = [f"{name} {_word(name, value)}" for name, value in told.best.items() if name in work.plan.swept]
    if swept:
        among = "" if told.settings == told.settings_in_all else f"; {told.settings:,} of {told.settings_in_all:,} seen"
        say(f"best predicted: {', '.join(swept)} ({told.best['growth']:.3g} per epoch{among})")
    for edge in told.edges:
        say(str(edge))


def _axes(work: Work) -> Any:
    import numpy as np
    import pandas as pd

    rows = []
    for name, _ in work.plan.blocks[0].axes:
        everything = np.unique(np.concatenate([block[name] for block in work.plan.blocks]))
        values = everything[~np.isnan(everything)]
        if not len(values):
            continue  # no start value is given
        shown = [_word(name, v) for v in values[:6]] + ([f"... {_word(name, values[-1])}"] if len(values) > 6 else [])
        if len(values) < len(everything):
            shown.insert(0, "the model's initialisation")
        rows.append({"axis": name, "values": len(everything), "from": ", ".join(shown)})
    return pd.DataFrame(rows)


def _word(axis: str, value: float) -> str:
    """An axis' value as the sweep file writes it."""
    return str(bool(value)).lower() if axis == "nesterov" else f"{value:g}"
