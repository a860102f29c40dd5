"""Commands for schedules: run, list, next, history, trigger, pause, resume."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from sweeps.cli.app import app
from sweeps.cli.options import DEFAULT_STORE, JsonOption, StoreOption
from sweeps.errors import InputError, SweepsError

if TYPE_CHECKING:
    from sweeps.service.schedule.scheduler import Scheduler
    from sweeps.service.schedule.schema import Schedule
    from sweeps.service.schedule.tick_table import Tick

_LOOK_SECONDS = 5.0  # between checks of running sweeps
_WAIT_SECONDS = 1.0  # the same while a command waits
_DEFAULT_FILE = Path("configs/schedules.yaml")
_VARIABLE = "SWEEPS_SCHEDULES"

schedule = typer.Typer(no_args_is_help=True, help="Run sweeps on a schedule; each tick runs exactly once.")
app.add_typer(schedule, name="schedule")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", envvar=_VARIABLE, help="The schedules file (YAML).")]
FileOption = Annotated[
    Path, typer.Option("--file", envvar=_VARIABLE, metavar="FILE", help="The schedules file (YAML).")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A schedule's name.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="SWEEPS_SCHEDULES_DATABASE",
        metavar="URI",
        help="Keep ticks in this database; default: SQLite in the store (one host only).",
    ),
]


@schedule.command()
def run(
    file: FileArgument = _DEFAULT_FILE,
    once: Annotated[bool, typer.Option("--once", help="Handle what is due now, then exit (for cron).")] = False,
    store: StoreOption = DEFAULT_STORE,
    database: DatabaseOption = None,
) -> None:
    """Run due sweeps until Ctrl-C."""
    from sweeps.cli.terminal import say
    from sweeps.service.monitoring import event_log

    if not event_log.is_set_up():
        event_log.set_up("text", "info")
    scheduler = _scheduler(file, store, database)
    if once:
        scheduler.turn()
        return
    say(f"{len(scheduler.schedules)} schedules from {file}; ticks are kept in {scheduler.table.uri}")
    try:
        while True:
            try:
                scheduler.turn()
            except SweepsError as error:  # the database is unavailable: the next turn tries again
                logging.getLogger(__name__).error("%s", error)
            time.sleep(min(_LOOK_SECONDS, scheduler.until_next()) or _WAIT_SECONDS)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("running sweeps continue; the next scheduler picks them up") from None


@schedule.command(name="list")
def list_(
    file: FileArgument = _DEFAULT_FILE,
    store: StoreOption = DEFAULT_STORE,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """List schedules with their next tick and last outcome."""
    scheduler = _scheduler(file, store, database)
    paused = scheduler.table.paused()
    rows = []
    for entry in scheduler.schedules:
        last = next(iter(scheduler.table.of(entry.name, newest=1)), None)
        rows.append(
            {
                "name": entry.name,
                "cron": entry.cron,
                "timezone": entry.timezone,
                "where": entry.address,
                "next": "paused" if entry.name in paused else _local(entry, next(entry.ticks(scheduler.clock()))),
                "last": last.scheduled_at if last else "",
                "state": last.state if last else "",
                "outcome": last.outcome if last else "",
                "sweep": last.sweep_id if last else "",
            }
        )
    _show(rows, as_json)


@schedule.command(name="next")
def next_(
    file: FileArgument = _DEFAULT_FILE,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Show this many ticks each.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Show upcoming ticks in each schedule's time zone and in UTC."""
    from sweeps.service.schedule.schema import load

    at = datetime.now(UTC)
    coming = [(tick, entry) for entry in load(file) for tick in islice(entry.ticks(at), count)]
    rows = [
        {"name": entry.name, "local": _local(entry, tick), "utc": tick.isoformat().replace("+00:00", "Z")}
        for tick, entry in sorted(coming, key=lambda pair: pair[0])
    ]
    _show(rows, as_json)


@schedule.command()
def history(
    name: NameArgument,
    last: Annotated[int, typer.Option("--last", min=1, max=10_000, help="Show this many ticks.")] = 20,
    file: FileOption = _DEFAULT_FILE,
    store: StoreOption = DEFAULT_STORE,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a schedule's ticks and their outcomes, newest first."""
    scheduler = _scheduler(file, store, database)
    _named(scheduler, name)
    _show([_row(tick) for tick in scheduler.table.of(name, newest=last)], as_json)


@schedule.command()
def trigger(
    name: NameArgument,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the sweep is done and checked; exit with its exit code.")
    ] = False,
    file: FileOption = _DEFAULT_FILE,
    store: StoreOption = DEFAULT_STORE,
    database: DatabaseOption = None,
) -> None:
    """Run a schedule's sweep now.

    A running scheduler, or --wait, checks it and reports its outcome.
    """
    from sweeps.cli.terminal import say
    from sweeps.service.schedule import tick_table

    scheduler = _scheduler(file, store, database)
    entry = _named(scheduler, name)
    tick = scheduler.trigger(entry)
    while True:
        scheduler.look_after(entry)
        now = scheduler.table.get(tick.schedule, tick.scheduled_at)
        assert now is not None
        if now.state in (tick_table.DONE, tick_table.SKIPPED):
            break
        if not wait and now.state != tick_table.DUE:
            say(f"{now.submission_id}: {now.state} (sweep {now.sweep_id})")
            return
        time.sleep(_WAIT_SECONDS)
    say(f"{now.submission_id}: {now.outcome or now.state} (sweep {now.sweep_id}){': ' * bool(now.note)}{now.note}")
    if code := _exit_code(now):
        raise typer.Exit(code)


@schedule.command()
def pause(
    name: NameArgument,
    file: FileOption = _DEFAULT_FILE,
    store: StoreOption = DEFAULT_STORE,
    database: DatabaseOption = None,
) -> None:
    """Pause a schedule.

    Ticks during the pause are dropped; a running sweep continues.
    """
    _pause(name, file, store, database, True)


@schedule.command()
def resume(
    name: NameArgument,
    file: FileOption = _DEFAULT_FILE,
    store: StoreOption = DEFAULT_STORE,
    database: DatabaseOption = None,
) -> None:
    """Resume a paused schedule."""
    _pause(name, file, store, database, False)


def _pause(name: str, file: Path, store: str, database: str | None, paused: bool) -> None:
    from sweeps.cli.terminal import say

    scheduler = _scheduler(file, store, database)
    entry = _named(scheduler, name)
    scheduler.table.pause(name, paused, scheduler.clock())
    coming = _local(entry, next(entry.ticks(scheduler.clock())))
    say(f"{name} is paused" if paused else f"{name} is resumed; next tick at {coming}")


def _scheduler(file: Path, store: str, database: str | None) -> Scheduler:
    from sweeps.service.schedule.scheduler import Scheduler
    from sweeps.service.schedule.schema import load
    from sweeps.service.schedule.tick_table import TickTable
    from sweeps.store.store import Store

    schedules, home = load(file), Store(store)
    home.check_writable()
    return Scheduler(schedules, TickTable(database or home.schedules_uri), home)


def _named(scheduler: Scheduler, name: str) -> Schedule:
    from sweeps.config.messages import hint, shown

    names = [entry.name for entry in scheduler.schedules]
    if name not in names:
        raise InputError(f"{shown(name)}: no such schedule{hint(name, names)}")
    return scheduler.schedules[names.index(name)]


def _exit_code(tick: Tick) -> int:
    from sweeps.service.schedule import scheduler

    if tick.outcome == scheduler.OK:
        return 0
    return {scheduler.FAILED: tick.exit_code or 3, scheduler.REGRESSION: 4, scheduler.REPLACED: 130}.get(
        tick.outcome, 2
    )


def _local(entry: Schedule, tick: datetime) -> str:
    return tick.astimezone(ZoneInfo(entry.timezone)).isoformat(timespec="minutes")


def _row(tick: Tick) -> dict[str, Any]:
    return {
        "scheduled at": tick.scheduled_at,
        "state": tick.state,
        "outcome": tick.outcome,
        "exit code": tick.exit_code,
        "sweep": tick.sweep_id,
        "job": tick.submission_id,
        "note": tick.note,
    }


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    import pandas as pd

    from sweeps.cli.terminal import say, show_json, show_table

    if as_json:
        show_json(rows)
    elif rows:
        shown = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
        show_table(pd.DataFrame(shown))
    else:
        say("nothing yet")
