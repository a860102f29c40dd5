"""The command line: parse, call, print. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from sweeps.errors import CheckFailed, InputError, NotLogged, SweepsError, TrialsFailed

if TYPE_CHECKING:
    from sweeps.config import SweepConfig, WriterName
    from sweeps.forecast import Forecast
    from sweeps.report.expected import ExpectedOutcome
    from sweeps.report.results import Results
    from sweeps.run import Outcome
    from sweeps.store import Store, SweepFiles
    from sweeps.worker import Work


class _Commands(TyperGroup):
    """A user's mistake is one line and exit code 2, never a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        from sweeps import terminal

        try:
            return super().invoke(ctx)
        except SweepsError as error:
            terminal.complain(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            terminal.err.print(_interrupted(interrupt))
            raise typer.Exit(130) from interrupt


app = typer.Typer(
    name="sweeps",
    cls=_Commands,
    help="Hyperparameter sweeps of SGD: thousands of exact trials at a time, tracked in MLflow, judged and reported.",
    epilog="Exit codes: 0 done; 2 wrong input, or another process holds the sweep; 3 some trials could not be run; "
    "4 a check failed; 5 all trials are computed and reported, but not all are in MLflow yet (sweeps resume ID logs "
    "them); 130 interrupted, what was done is kept.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class ExecutorName(StrEnum):
    """Where shards run."""

    ray = "ray"
    inline = "inline"


class WriterChoice(StrEnum):
    """Who writes the trials into MLflow."""

    auto = "auto"
    bulk = "bulk"
    client = "client"


class ReportFormat(StrEnum):
    """What a report can be printed as."""

    html = "html"
    md = "md"
    csv = "csv"
    json = "json"


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The sweep file (YAML).")]
SweepId = Annotated[str, typer.Argument(metavar="ID", help="A sweep's id, or the start of it.")]
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="SWEEPS_STORE", metavar="DIR", help="The folder that holds all sweeps.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as training.epochs=5.")
]
ExecutorOption = Annotated[ExecutorName, typer.Option("--executor", help="Where the trials run.")]
AddressOption = Annotated[str | None, typer.Option("--address", metavar="ADDR", help="Join a running Ray cluster.")]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        metavar="URI",
        help="Where MLflow is; by default a database in the store.",
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-database",
        envvar="SWEEPS_TRACKING_DATABASE",
        metavar="URI",
        help="The tracking server's database, for writing in bulk; or $NAME, the variable that holds its URI.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_DEFAULT_STORE = Path("sweep-store")


@app.command()
def plan(config: ConfigPath, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Show what a sweep would run; nothing is written."""
    from sweeps.forecast import forecast
    from sweeps.terminal import say, show_frame, show_json

    work = _prepare(config, set_)
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
    store: StoreOption = _DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train also what earlier sweeps of the store have; networks always are.")
    ] = False,
) -> None:
    """Train all trials, track them in MLflow and report."""
    from sweeps import run as road
    from sweeps.store import Store
    from sweeps.terminal import progress, say

    work = _prepare(config, set_)
    home = Store(store)
    with _executor(executor, address) as where:
        tracker = road.tracker_for(home, tracking_uri, None, _database(tracking_database, work.config))
        say(f"{work.config.name}: {len(work.plan):,} trials of {work.plan.steps:,} steps")
        files = road.create(work, home, where, tracker, fresh)
        with files.lease():
            outcome = road.run(files, work, where, tracker, progress())
            _conclude(outcome, home, where.description, tracker)


@app.command()
def resume(
    sweep_id: SweepId,
    executor: ExecutorOption = ExecutorName.ray,
    address: AddressOption = None,
    store: StoreOption = _DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
) -> None:
    """Compute and log what a sweep still lacks, also what could not be run before."""
    from sweeps import run as road
    from sweeps.config import load
    from sweeps.terminal import progress, say

    home, files = _find(store, sweep_id)
    with files.lease(), _executor(executor, address) as where:
        if failures := files.failures():
            tries = sum(files.tries(int(path.stem)) for path in failures)
            say(f"trying again what was given up before: {len(failures):,} shards, after {tries:,} tries")
        tracker = road.tracker_for(home, tracking_uri, files, _database(tracking_database, load(files.config_path)))
        outcome = road.resume(files, where, tracker, progress())
        _conclude(outcome, home, where.description, tracker)


@app.command()
def log(
    sweep_id: SweepId,
    writer: Annotated[WriterChoice | None, typer.Option("--writer", help="Instead of the sweep file's.")] = None,
    store: StoreOption = _DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    tracking_database: DatabaseOption = None,
) -> None:
    """Log what a sweep has computed to any MLflow, or complete what is logged there; nothing is logged twice."""
    from sweeps import run as road
    from sweeps.config import load
    from sweeps.terminal import progress

    home, files = _find(store, sweep_id)
    with files.lease():
        tracker = road.tracker_for(home, tracking_uri, files, _database(tracking_database, load(files.config_path)))
        again = _again(files, "log") + (f" --tracking-uri {shlex.quote(tracker.uri)}" if tracking_uri else "")
        try:
            outcome = road.log(files, tracker, progress(), cast("WriterName | None", writer and writer.value))
            if not (files.report_folder / "report.html").exists():
                _write_report(outcome)
            if outcome.tracking_error is None:
                road.publish(outcome, tracker)
        except KeyboardInterrupt:
            tracker.interrupt()
            raise KeyboardInterrupt(f"go on with: {again}") from None
        _say_tracking(outcome, home, tracker)
        if outcome.tracking_error is not None:
            raise NotLogged(_unlogged(outcome, again))
        if outcome.failed_trials:
            raise TrialsFailed(
                f"{outcome.failed_trials:,} of {len(outcome.work.plan):,} trials are not computed, and so not logged; "
                f"compute them: {_again(files, 'resume')}; then log them: {again}"
            )


@app.command(name="list")
def list_(store: StoreOption = _DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List the store's sweeps, the newest first."""
    import pandas as pd

    from sweeps.store import Store
    from sweeps.terminal import say, show_frame

    home = Store(store)
    rows = [_listed(files) for files in home.sweeps()]
    if not rows and not as_json:
        say(f"no sweeps in {home.root}")
        return
    show_frame(pd.DataFrame(rows), as_json)


@app.command()
def show(sweep_id: SweepId, store: StoreOption = _DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """Show a sweep: its state, where it is stable, its verdicts and its best trials."""
    from sweeps.report import results, summary
    from sweeps.terminal import out, say, show_json, show_table
    from sweeps.terminal_map import show_map

    _, files = _find(store, sweep_id)
    loaded = results.load(files)
    tables = {
        "verdicts": summary.verdict_counts(loaded),
        "best trials": summary.best_trials(loaded),
        "diverged trials": summary.diverged_trials(loaded),
        "overshoots": summary.overshoots(loaded),
    }
    if as_json:
        records = {name: frame.to_dict(orient="records") for name, frame in tables.items()}
        show_json(_standing(files) | {"headline": summary.headline(loaded), **records})
        return
    say(f"{loaded.manifest['name']} {files.sweep_id}: {files.state()}, {loaded.stored:,} trials")
    if (holder := files.holder()) is not None:
        say(f"held by {holder}")
    for path in files.failures():
        say(f"failed: {path}")
    for place in files.places():
        say(f"logged to {place['uri']}{'' if place.get('complete') else ', not all of it'}")
    for line in summary.lead_sentences(loaded):
        say(line)
    if loaded.panels:
        say()
        show_map(loaded.panels, out)
    for name, frame in tables.items():
        if len(frame):
            say()
            show_table(frame, name)


@app.command()
def report(
    sweep_id: SweepId,
    store: StoreOption = _DEFAULT_STORE,
    format_: Annotated[ReportFormat | None, typer.Option("--format", help="Print it in this format.")] = None,
) -> None:
    """Write a sweep's report anew, or print it in one format."""
    from sweeps import report as reports
    from sweeps.run import reopen
    from sweeps.terminal import say

    _, files = _find(store, sweep_id)
    with nullcontext() if format_ else files.lease():
        loaded = reports.load(files)
        expected = reports.check(reopen(files), loaded) if loaded.config.expected and files.done() else None
        if format_ is ReportFormat.csv:
            reports.write_csv(loaded, sys.stdout)
        elif format_ is not None:
            sys.stdout.write(reports.render(loaded, format_.value, expected=expected))
        else:
            say(f"report: {reports.write(loaded, expected=expected)}")


@app.command()
def replay(
    sweep_id: SweepId,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="A trial's number or id, or the start of its id.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="How many steps to show.")] = 20,
    store: StoreOption = _DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Step through a trial beside torch.optim.SGD."""
    from sweeps.replay import replay_trial
    from sweeps.terminal import say, show_json, show_table

    _, files = _find(store, sweep_id)
    replayed = replay_trial(files, trial)
    if as_json:
        show_json({**replayed.facts, "steps": replayed.frame.to_dict(orient="records")})
        return
    say(replayed.title)
    show_table(replayed.frame.head(steps))
    if len(replayed.frame) > steps:
        say(f"... {len(replayed.frame) - steps:,} more steps (--steps)")
    say(replayed.conclusion)
    if not replayed.agrees:
        raise CheckFailed("the engine and torch.optim.SGD differ")


@app.command()
def verify(
    sweep_id: SweepId,
    sample: Annotated[int, typer.Option("--sample", min=0, metavar="N", help="How many trials to train again.")] = 20,
    store: StoreOption = _DEFAULT_STORE,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold the store against the plan, MLflow against the store, and a sample of trials against torch.optim.SGD."""
    from sweeps.run import tracker_for
    from sweeps.terminal import say, show_json
    from sweeps.verify import verify as audited

    home, files = _find(store, sweep_id)
    tracker = tracker_for(home, tracking_uri, files)
    audit = audited(files, tracker, sample)
    if as_json:
        show_json(asdict(audit) | {"tracking": tracker.uri, "clean": not audit.differences})
    else:
        for difference in audit.differences:
            say(str(difference))
        say(f"store:    {audit.stored:,} of {audit.trials:,} trials are as planned")
        say(f"tracking: {audit.logged:,} trials are as stored, at {tracker.uri}")
        say(f"sample:   {audit.recomputed:,} trials trained by torch.optim.SGD, {audit.exact:,} are equal bit for bit")
    if audit.differences:
        count = len(audit.differences)
        raise CheckFailed(f"sweep {files.sweep_id}: {count:,} difference{'s' * (count != 1)}")


@app.command()
def ui(
    store: StoreOption = _DEFAULT_STORE,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 5000,
) -> None:
    """Serve the store's MLflow UI on this machine until Ctrl-C."""
    from contextlib import suppress

    from sweeps.errors import TrackingError
    from sweeps.store import Store
    from sweeps.terminal import say
    from sweeps.tracking.ui import serve

    home = Store(store)
    home.check_writable()
    with serve(home, port) as (address, server):
        say(f"MLflow UI: {address} (Ctrl-C ends it)")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.wait()
            raise TrackingError(f"MLflow's server ended, with exit code {server.returncode}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of sweep files, for editors."""
    from sweeps.config import SweepConfig
    from sweeps.terminal import show_json

    show_json(SweepConfig.model_json_schema())


def main() -> None:
    """Run a command; a polite kill is an interrupt, so that what was done is kept and named."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


def _database(option: str | None, config: SweepConfig) -> str | None:
    """What the command line says, be it nothing, goes before the sweep file."""
    return config.tracking.database if option is None else option


def _prepare(config: Path, overrides: list[str] | None) -> Work:
    from sweeps.config import load
    from sweeps.run import prepare

    return prepare(load(config, overrides), str(config))


def _listed(files: SweepFiles) -> dict[str, Any]:
    from sweeps.errors import StoreError

    try:
        manifest = files.manifest()
    except StoreError:
        nothing = {"trials": None, "shards": "", "failed shards": None, "created": ""}
        return {"id": files.sweep_id, "name": "", "state": "damaged", **nothing}
    return {
        "id": files.sweep_id,
        "name": manifest["name"],
        "state": files.state(),
        "trials": manifest["trials"],
        "shards": f"{len(files.done())}/{manifest['shards']}",
        "failed shards": len(files.failures()),
        "created": manifest["created"],
    }


def _standing(files: SweepFiles) -> dict[str, Any]:
    """Where a sweep stands."""
    holder = files.holder()
    return {
        "manifest": files.manifest(),
        "state": files.state(),
        "held by": str(holder) if holder else None,
        "failed shards": [str(path) for path in files.failures()],
        "logged to": files.places(),
    }


def _find(store: Path, sweep_id: str) -> tuple[Store, SweepFiles]:
    from sweeps.store import Store

    home = Store(store)
    return home, home.find(sweep_id)


@contextmanager
def _executor(kind: ExecutorName, address: str | None) -> Iterator[Any]:
    from sweeps.run import executor_for

    if kind is ExecutorName.inline and address is not None:
        raise InputError("--address goes with --executor ray")
    executor = executor_for(kind.value, address)
    try:
        yield executor
    finally:
        executor.stop()


def _conclude(outcome: Outcome, store: Store, where: str, tracker: Any) -> None:
    """Report, close the parent run, and say how it went; raises what the exit code stands for."""
    from sweeps.run import Interrupted

    try:
        _finish(outcome, store, where, tracker)
    except KeyboardInterrupt:
        tracker.interrupt()
        raise Interrupted(outcome) from None


def _finish(outcome: Outcome, store: Store, where: str, tracker: Any) -> None:
    from sweeps import report as reports
    from sweeps.run import publish
    from sweeps.terminal import say, show_table

    files = outcome.files
    loaded, expected, page = _write_report(outcome)
    if outcome.tracking_error is None:
        publish(outcome, tracker)
    if expected:
        show_table(reports.expected_table(expected))
        for line in reports.sentences(expected):
            say(line)
        say()
    say(reports.headline(loaded))
    show_table(reports.verdict_counts(loaded))
    if (finding := reports.finding(loaded)) is not None:
        say(f"finding: {finding}")
    say()
    for earlier, trials in outcome.reused.most_common():
        say(f"reused {trials:,} of {len(outcome.work.plan):,} trials of sweep {earlier}")
    say(f"sweep:    {files.sweep_id} ({where})")
    say(f"report:   {page}")
    _say_tracking(outcome, store, tracker)
    _raise_for(outcome, expected)


def _write_report(outcome: Outcome) -> tuple[Results, list[ExpectedOutcome] | None, Path]:
    from sweeps import report as reports

    loaded = reports.load(outcome.files)
    expected = reports.check(outcome.work, loaded) if outcome.work.config.expected and outcome.files.done() else None
    return loaded, expected, reports.write(loaded, expected=expected)


def _say_tracking(outcome: Outcome, store: Store, tracker: Any) -> None:
    from sweeps.terminal import say

    embedded = "  ('sweeps ui' shows it)" if tracker.uri == store.tracking_uri else ""
    say(f"tracking: {tracker.uri}{embedded}")
    if outcome.tracking.get("writer"):
        say(f"writer:   {outcome.tracking['writer']} ({outcome.tracking['writer_reason']})")


def _raise_for(outcome: Outcome, expected: list[ExpectedOutcome] | None) -> None:
    again = _again(outcome.files, "resume")
    unlogged = _unlogged(outcome, again) if outcome.tracking_error is not None else None
    if outcome.failed_trials:
        first = outcome.files.failures()[0]
        failed = f"{outcome.failed_trials:,} trials could not be run; see {first}; try again: {again}"
        raise TrialsFailed("\n".join(filter(None, [failed, unlogged])))
    if unlogged is not None:
        raise NotLogged(f"all trials are computed and reported, but {unlogged}")
    missed = [e.case for e in expected or [] if not e.matches]
    if missed:
        raise CheckFailed(f"not as expected: {', '.join(missed)}")


def _unlogged(outcome: Outcome, again: str) -> str:
    """What a tracking fault has left, and the command that logs it."""
    from sweeps.run import reason

    assert outcome.tracking_error is not None
    missing = f"{outcome.unlogged_trials:,} trials are" if outcome.unlogged_trials else "the sweep's own run is"
    return f"{missing} not in MLflow yet: {reason(outcome.tracking_error)}; log what is missing: {again}"


def _interrupted(interrupt: KeyboardInterrupt) -> str:
    outcome = getattr(interrupt, "outcome", None)
    if outcome is None:
        return "; ".join(filter(None, ["interrupted", str(interrupt)]))
    done, total = len(outcome.files.done()), outcome.files.manifest()["shards"]
    return f"interrupted: {done:,} of {total:,} shards are in the store; go on with: {_again(outcome.files, 'resume')}"


def _again(files: SweepFiles, command: str) -> str:
    """The command that goes on with a sweep, from here."""
    root = files.folder.parents[1]
    default = Path(os.environ.get("SWEEPS_STORE", _DEFAULT_STORE)).expanduser().absolute()
    where = "" if root == default else f" --store {shlex.quote(str(root))}"
    return f"sweeps {command} {files.sweep_id}{where}"


def _say_forecast(work: Work, told: Forecast | None) -> None:
    """What theory says of the plan, in lines."""
    from sweeps.forecast import prediction
    from sweeps.terminal import say

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
