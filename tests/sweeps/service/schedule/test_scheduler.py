"""Schedules: cron and clock changes, the file, and the table that makes each tick exactly once, whoever dies when."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest

from sweeps.config import strict_yaml
from sweeps.errors import ConfigError, ExecutorError, StoreError
from sweeps.planning.prepared import PreparedSweep
from sweeps.service.jobs.submission import Submission
from sweeps.service.schedule import webhook
from sweeps.service.schedule.launchers import LaunchStatus, LocalLauncher
from sweeps.service.schedule.retention import prune, sweeps_of
from sweeps.service.schedule.scheduler import Scheduler
from sweeps.service.schedule.schema import Schedule, load
from sweeps.service.schedule.tick_table import DONE, DUE, MISSED, RUNNING, SKIPPED, TickTable
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import ROOT, document
from tests.support.hypothesis_profiles import NIGHTLY
from tests.support.killed_schedulers import MINUTES, START
from tests.support.serving import serving
from tests.support.stores import computed_into


def schedule(**changes: Any) -> Schedule:
    given = {"name": "nightly", "cron": "0 * * * *", "config": str(ROOT / "configs" / "seed.yaml")} | changes
    return Schedule.model_validate(given)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


class FakePlace:
    """A cluster of which a test says how its jobs go; whatever is started twice runs once."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.ended: dict[str, int] = {}
        self.away = False

    def start(self, submission: Submission) -> None:
        if self.away:
            raise ExecutorError("the cluster cannot be reached")
        if submission.submission_id not in self.started:
            self.started.append(submission.submission_id)

    def look(self, submission_id: str) -> LaunchStatus | None:
        if submission_id not in self.started:
            return None
        return LaunchStatus(self.ended.get(submission_id))

    def stop(self, submission_id: str) -> None:
        self.stopped.append(submission_id)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place() -> FakePlace:
    return FakePlace()


@pytest.fixture
def make(tmp_path: Path, clock: Clock, place: FakePlace) -> Iterator[Callable[..., Scheduler]]:
    home = Store(tmp_path / "store")
    home.check_writable()
    made: list[Scheduler] = []

    def scheduler(*schedules: Schedule, **changes: Any) -> Scheduler:
        entries = schedules or (schedule(**changes),)
        made.append(Scheduler(entries, TickTable(home.schedules_uri), home, clock, lambda _: place))
        return made[-1]

    yield scheduler
    for scheduler_ in made:
        scheduler_.table.close()


def states(scheduler: Scheduler) -> list[tuple[str, str, str]]:
    return [(tick.scheduled_at[5:16], tick.state, tick.outcome) for tick in scheduler.table.of("nightly")]


# Cron


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("0 2 * * *", "UTC", "2026-11-28T01:59:30", ["2026-11-28T02:00", "2026-11-29T02:00"]),
        ("0 2 * * *", "Europe/Berlin", "2026-01-01T12:00", ["2026-01-02T01:00", "2026-01-03T01:00"]),
        # 2026-03-29 02:00 to 03:00 is skipped in Berlin: 02:30 comes when the clocks have gone forward, at 03:00 CEST
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
        # 2026-10-25 02:00 to 03:00 comes twice in Berlin: taken once, the first time
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
        # also for whoever looks between the two
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45", ["2026-10-26T01:30", "2026-10-27T01:30"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15", ["2026-10-26T01:30", "2026-10-27T01:30"]),
        # what runs every hour keeps to the time that passes
        (
            "15 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:30",
            ["2026-10-25T00:15", "2026-10-25T01:15", "2026-10-25T02:15"],
        ),
        ("15 * * * *", "Europe/Berlin", "2026-03-29T00:30", ["2026-03-29T01:15", "2026-03-29T02:15"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["2028-02-29T00:00"]),
        ("0 9 * * MON-FRI", "America/New_York", "2026-11-27T20:00", ["2026-11-30T14:00"]),
        ("@hourly", "UTC", "2026-03-01T10:30", ["2026-03-01T11:00", "2026-03-01T12:00"]),
        ("@daily", "Europe/Berlin", "2026-03-01T10:30", ["2026-03-01T23:00", "2026-03-02T23:00"]),
        ("@midnight", "UTC", "2026-03-01T10:30", ["2026-03-02T00:00"]),
        ("@weekly", "UTC", "2026-03-01T10:30", ["2026-03-08T00:00"]),
        ("@monthly", "UTC", "2026-03-01T10:30", ["2026-04-01T00:00"]),
        ("@yearly", "UTC", "2026-03-01T10:30", ["2027-01-01T00:00"]),
        ("@Annually", "UTC", "2026-03-01T10:30", ["2027-01-01T00:00"]),
    ],
)
def test_cron(cron: str, zone: str, after: str, expected: list[str]) -> None:
    at = datetime.fromisoformat(after).replace(tzinfo=UTC)
    ticks = schedule(cron=cron, timezone=zone).ticks(at)
    assert [f"{tick:%Y-%m-%dT%H:%M}" for tick in islice(ticks, len(expected))] == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
def test_over_a_year_each_night_is_taken_once_at_its_local_time(zone: str) -> None:
    start = datetime(2026, 1, 1, 12, tzinfo=ZoneInfo(zone))
    ticks = list(schedule(cron="30 2 * * *", timezone=zone).ticks(start, start + timedelta(days=365)))
    local = [tick.astimezone(ZoneInfo(zone)) for tick in ticks]
    assert [day.date() for day in local] == [(start + timedelta(days=n)).date() for n in range(1, 366)]
    odd = [day for day in local if (day.hour, day.minute) != (2, 30)]
    assert len(odd) <= 1  # where the clocks skip 02:30
    assert ticks == sorted(set(ticks))


# The file


def problems(tmp_path: Path, **changes: Any) -> str:
    entry = {"name": "nightly", "cron": "0 2 * * *", "config": "sweep.yaml"} | changes
    (tmp_path / "sweep.yaml").write_text(strict_yaml.write(document()))
    path = tmp_path / "schedules.yaml"
    path.write_text(
        strict_yaml.write({"schedules": [{key: value for key, value in entry.items() if value is not None}]})
    )
    with pytest.raises(ConfigError) as error:
        load(path)
    [line] = str(error.value).splitlines()
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"cron": "0 25 * * *"},
            "schedules[0].cron: given '0 25 * * *'; bad hour; the fields are minute hour day month weekday",
        ),
        ({"cron": "* * * *"}, "schedules[0].cron: given '* * * *'; must have five fields"),
        ({"cron": "@reboot"}, "schedules[0].cron: given '@reboot'; must have five fields"),
        ({"cron": "0 0 31 2 *"}, "schedules[0].cron: given '0 0 31 2 *'; bad day-of-month"),
        ({"timezone": "Mars/Olympus"}, "schedules[0].timezone: given 'Mars/Olympus'; must be an IANA time zone"),
        (
            {"name": "Nightly!"},
            "schedules[0].name: given 'Nightly!'; must have 1 to 50 lower-case letters, digits and inner dashes",
        ),
        ({"overlap": "wait"}, "schedules[0].overlap: given 'wait'; allowed: skip, queue, replace"),
        (
            {"misfire": {"grace": "soon"}},
            "schedules[0].misfire.grace: given 'soon'; must be seconds, or a duration such as 90s",
        ),
        (
            {"address": "http://me:pw@host:8265"},
            "schedules[0].address: given 'http://me:pw@host:8265'; must be local, a Jobs",
        ),
        (
            {"webhook": "https://x/secret"},
            "schedules[0].webhook: must name the environment variable that holds the URI",
        ),
        ({"webhook": "$NOT_SET_HERE"}, "schedule nightly: webhook: the environment variable 'NOT_SET_HERE' is not set"),
        ({"check": {"max_loss": 1}}, "schedules[0].check: given {'max_loss': 1}; max_loss: unknown key"),
        ({"retention": {"sweeps": 0}}, "schedules[0].retention.sweeps: given 0; must be >= 1"),
        ({"cronn": "x"}, "schedules[0].cronn: unknown key (did you mean cron?)"),
        ({"config": None}, "schedules[0].config: missing"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert problems(tmp_path, **changes).startswith(told)


def test_the_sweep_files_are_looked_at_too(tmp_path: Path) -> None:
    assert "none.yaml: cannot be read" in problems(tmp_path, config="none.yaml")
    assert "training.epochz: unknown key" in problems(tmp_path, set=["training.epochz=1"])


def test_the_shipped_file_is_valid() -> None:
    nightly, weekly = load(ROOT / "deploy" / "schedules.yaml")
    assert (nightly.misfire.grace, nightly.limits.max_loss_increase) == (3600, "1%")
    assert weekly.overlap == "queue"


# The scheduler


def test_each_tick_is_started_once(make: Callable[..., Scheduler], clock: Clock, place: FakePlace) -> None:
    scheduler, other = make(), make()
    scheduler.turn()
    assert place.started == []  # what was due before anybody asked is not made up for
    clock.forward(minutes=1)
    for one in (scheduler, other, scheduler):
        one.turn()
    assert place.started == ["nightly-20261128T020000Z"]
    assert states(scheduler) == [("11-28T02:00", RUNNING, "")]
    place.ended["nightly-20261128T020000Z"] = 0
    other.turn()
    assert states(scheduler) == [("11-28T02:00", DONE, "ok")]


@pytest.mark.parametrize(
    ("overlap", "expected", "stopped"),
    [
        ("skip", [("11-28T02:00", RUNNING, ""), ("11-28T03:00", SKIPPED, "")], []),
        ("queue", [("11-28T02:00", RUNNING, ""), ("11-28T03:00", DUE, "")], []),
        (
            "replace",
            [("11-28T02:00", DONE, "replaced"), ("11-28T03:00", RUNNING, "")],
            ["nightly-20261128T020000Z"],
        ),
    ],
)
def test_overlap(
    make: Callable[..., Scheduler],
    clock: Clock,
    place: FakePlace,
    overlap: str,
    expected: list[tuple[str, str, str]],
    stopped: list[str],
) -> None:
    scheduler = make(overlap=overlap)
    scheduler.turn()
    for _ in range(2):
        clock.forward(hours=1)
        scheduler.turn()
    assert states(scheduler) == expected
    assert place.stopped == stopped
    if overlap == "queue":
        place.ended["nightly-20261128T020000Z"] = 0
        scheduler.turn()
        assert states(scheduler) == [("11-28T02:00", DONE, "ok"), ("11-28T03:00", RUNNING, "")]


@pytest.mark.parametrize(
    ("misfire", "due"),
    [
        ({"grace": "5m", "catch_up": "none"}, []),
        ({"grace": "5m", "catch_up": "last"}, ["04:00"]),
        ({"grace": "5m", "catch_up": "all"}, ["02:00", "03:00", "04:00"]),
        ({"grace": "90m", "catch_up": "none"}, ["04:00"]),
        ({"grace": "2h", "catch_up": "last"}, ["03:00", "04:00"]),
    ],
)
def test_misfires(make: Callable[..., Scheduler], clock: Clock, misfire: dict[str, str], due: list[str]) -> None:
    scheduler = make(misfire=misfire, overlap="queue")
    scheduler.turn()
    clock.forward(hours=3)  # nobody runs
    scheduler.turn()
    found = scheduler.table.of("nightly")
    assert [tick.scheduled_at[11:16] for tick in found] == ["02:00", "03:00", "04:00"]
    assert [tick.scheduled_at[11:16] for tick in found if tick.state != MISSED] == due


def test_a_pause_is_not_made_up_for(make: Callable[..., Scheduler], clock: Clock, place: FakePlace) -> None:
    scheduler = make(misfire={"catch_up": "all"})
    scheduler.turn()
    scheduler.table.pause("nightly", True, clock())
    clock.forward(hours=2)
    make().turn()  # the pause outlives the scheduler
    scheduler.table.pause("nightly", False, clock())
    scheduler.turn()
    assert states(scheduler) == []
    clock.forward(hours=1)
    scheduler.turn()
    assert place.started == ["nightly-20261128T040000Z"]


def test_a_cluster_that_is_away_is_asked_again(
    make: Callable[..., Scheduler], clock: Clock, place: FakePlace, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make()
    scheduler.turn()
    clock.forward(minutes=1)
    place.away = True
    for _ in range(3):
        scheduler.turn()
    assert states(scheduler) == [("11-28T02:00", DUE, "")]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "nightly: the cluster cannot be reached"
    ]
    place.away = False
    scheduler.turn()
    assert states(scheduler) == [("11-28T02:00", RUNNING, "")]
    place.started.clear()  # the cluster comes back without its jobs
    scheduler.turn()
    assert place.started == ["nightly-20261128T020000Z"]


def test_a_sweep_file_that_became_wrong_is_a_failure(
    make: Callable[..., Scheduler], clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("name: [")
    scheduler = make(config=str(path))
    scheduler.turn()
    clock.forward(minutes=1)
    scheduler.turn()
    scheduler.turn()
    [tick] = scheduler.table.of("nightly")
    assert (tick.state, tick.outcome, tick.exit_code) == (DONE, "failed", 2)
    assert str(path) in tick.note


class Stops(Exception):
    """A scheduler dies here."""


@pytest.mark.parametrize("step", range(12))
def test_a_scheduler_that_dies_between_any_two_steps(
    make: Callable[..., Scheduler], clock: Clock, place: FakePlace, step: int
) -> None:
    """The table's methods and the place's are the steps; another scheduler takes over when the claim has run out."""
    dying = make()
    dying.turn()
    clock.forward(minutes=1)
    calls = itertools.count()

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(calls) == step:
                raise Stops
            return method(*arguments, **named)

        return call

    mortal = FakePlace()
    mortal.started, mortal.ended = place.started, place.ended
    for name in ("start", "look"):
        setattr(mortal, name, counted(getattr(mortal, name)))
    for name in ("paused", "filled_until", "fill", "of", "claim", "claim_end", "move", "get"):
        setattr(dying.table, name, counted(getattr(dying.table, name)))
    dying._place_of = lambda _: mortal
    try:
        dying.turn()
        place.ended["nightly-20261128T020000Z"] = 0
        dying.turn()
    except Stops:
        pass
    clock.forward(minutes=3)
    survivor = make()
    for _ in range(2):
        survivor.turn()
        place.ended["nightly-20261128T020000Z"] = 0
    survivor.turn()
    assert place.started == ["nightly-20261128T020000Z"]
    assert states(survivor) == [("11-28T02:00", DONE, "ok")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_processes_that_are_killed_at_random_start_each_tick_once(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    for folder in ("jobs", "store"):
        (tmp_path / folder).mkdir()
    uri, kills = f"sqlite:///{tmp_path / 'schedules.db'}", 12 if NIGHTLY else 6
    if kind == "postgresql":
        uri = request.getfixturevalue("postgres").new_database()
    config = ROOT / "configs" / "seed.yaml"
    command = [sys.executable, "-m", "tests.support.killed_schedulers", tmp_path, uri, config, kills]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {f"nightly-{START + timedelta(minutes=n):%Y%m%dT%H%M}00Z" for n in range(1, MINUTES * (kills + 1) + 1)}
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == expected
    table = TickTable(uri)
    ticks = table.of("nightly")
    table.close()
    assert {tick.submission_id for tick in ticks} == expected
    assert {(tick.state, tick.outcome) for tick in ticks} == {(DONE, "ok")}


# What comes after a run


class Receiver(BaseHTTPRequestHandler):
    answers: list[int]
    got: list[tuple[str | None, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.headers["Idempotency-Key"], json.loads(body)))
        self.send_response(self.answers.pop(0) if self.answers else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, type[Receiver]]]:
    handler = type("Handler", (Receiver,), {"answers": [], "got": []})
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as address:
        yield f"{address}/secret-path", handler


def test_the_webhook_is_tried_again(receiver: tuple[str, type[Receiver]]) -> None:
    address, handler = receiver
    pauses: list[float] = []
    handler.answers[:] = [500, 503]
    assert webhook.tell(address, {"a": 1}, "key", pauses.append) is None
    assert handler.got == [("key", {"a": 1})] * 3
    assert pauses == [1, 4]
    handler.answers[:] = [404, 200]
    assert webhook.tell(address, {}, "key", pauses.append) == "the webhook responded with status 404"
    handler.answers[:] = [500] * 4
    assert webhook.tell(address, {}, "key", pauses.append) == "the webhook responded with status 500"
    problem = webhook.tell("http://127.0.0.1:1/secret-path", {}, "key", pauses.append)
    assert problem == "the webhook cannot be reached: ConnectionRefusedError"
    assert webhook.tell("no address", {}, "key") == "the webhook's address is not a valid URL"


def test_a_failure_is_told_of_without_secrets(
    make: Callable[..., Scheduler],
    clock: Clock,
    place: FakePlace,
    receiver: tuple[str, type[Receiver]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, handler = receiver
    monkeypatch.setenv("TELL_ME", address)
    scheduler = make(webhook="$TELL_ME")
    scheduler.turn()
    clock.forward(minutes=1)
    scheduler.turn()
    place.ended["nightly-20261128T020000Z"] = 3
    scheduler.turn()
    [(key, event)] = handler.got
    assert key == "nightly-20261128T020000Z failed"
    assert event == {
        "event": "failed",
        "schedule": "nightly",
        "scheduled_at": "2026-11-28T02:00:00Z",
        "job": "nightly-20261128T020000Z",
        "sweep_id": scheduler.table.of("nightly")[0].sweep_id,
        "exit_code": 3,
        "message": "",
    }
    assert "secret-path" not in (scheduler.store.root / "schedules.db").read_bytes().decode("latin-1")


def test_regressions_and_retention(
    make: Callable[..., Scheduler],
    clock: Clock,
    place: FakePlace,
    make_prepared: Callable[..., PreparedSweep],
    computed: Callable[[Store, str, PreparedSweep, dict[str, str]], SweepFiles],
) -> None:
    scheduler = make(check={"max_loss_increase": "1%"}, retention={"sweeps": 2})
    scheduler.turn()
    outcomes = []
    for epochs in (8, 8, 4, 8):  # of half the training the loss is greater
        clock.forward(hours=1)
        scheduler.turn()
        tick = scheduler.table.of("nightly")[-1]
        tags = {"schedule": "nightly", "scheduled_at": tick.scheduled_at}
        computed(scheduler.store, tick.sweep_id, make_prepared(training={"epochs": epochs}), tags)
        place.ended[tick.submission_id] = 0
        scheduler.turn()
        outcomes.append(scheduler.table.of("nightly")[-1])
    assert [tick.outcome for tick in outcomes] == ["ok", "ok", "regression", "ok"]
    assert "at most 1% more than the baseline's" in outcomes[2].note
    kept = [files.sweep_id for files in sweeps_of(scheduler.store, "nightly")]
    assert kept == [tick.sweep_id for tick in outcomes[:1:-1]]  # the newest two: the regression and the last


@pytest.fixture
def computed() -> Callable[[Store, str, PreparedSweep, dict[str, str]], SweepFiles]:
    """Puts a sweep into a store, without MLflow; each a day newer than the one before."""
    days = itertools.count(1)

    def compute(store: Store, sweep_id: str, prepared: PreparedSweep, tags: dict[str, str]) -> SweepFiles:
        return computed_into(store, sweep_id, prepared, f"2026-11-{next(days):02}T02:00:00+00:00", tags=tags)

    return compute


def test_retention_leaves_what_runs_what_is_a_baseline_and_what_is_others(
    tmp_path: Path, make_prepared: Callable[..., PreparedSweep], computed: Callable[..., SweepFiles]
) -> None:
    from sweeps.service.schedule.schema import Retention

    store, prepared = Store(tmp_path / "store"), make_prepared()
    for sweep_id in ("aa", "bb", "cc", "dd"):
        computed(store, sweep_id, prepared, {"schedule": "nightly"})
    computed(store, "ee", prepared, {"schedule": "weekly"})
    computed(store, "ff", prepared, {})
    with store.find("bb").lease():
        removed = prune(store, "nightly", Retention(sweeps=1), {"c"}, START)
    assert removed == ["aa"]
    assert {path.name for path in (store.root / "sweeps").iterdir()} == {"bb", "cc", "dd", "ee", "ff"}
    assert prune(store, "nightly", Retention(days=25.5), (), START) == ["bb"]  # of 2 November
    assert prune(store, "nightly", Retention(), (), START) == []


def test_a_process_of_this_machine_outlives_its_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another place sees that it runs, does not start it again, and starts it again when it is gone."""
    store = Store(tmp_path / "store")
    gate, count = tmp_path / "gate", tmp_path / "count"
    script = f"echo x >> {count}; while [ ! -e {gate} ]; do sleep 0.02; done; exit 4"
    monkeypatch.setattr(LocalLauncher, "_command", lambda *_: ["sh", "-c", script])
    submission = Submission("nightly-1", "n", "d", "name: n\n")
    first, second = LocalLauncher(store, tmp_path), LocalLauncher(store, tmp_path)
    first.start(submission)
    assert first.look("nightly-1") == second.look("nightly-1") == LaunchStatus()
    second.start(submission)
    until = time.monotonic() + 60
    while not (count.exists() and count.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    second.stop("nightly-1")
    while (ended := first.look("nightly-1")) == LaunchStatus() and time.monotonic() < until:
        time.sleep(0.02)
    assert ended is not None
    assert ended.exit_code == 3
    assert "killed by signal 15" in ended.note
    while (gone := second.look("nightly-1")) == LaunchStatus() and time.monotonic() < until:
        time.sleep(0.02)
    assert gone is None  # and its exit code with it
    gate.touch()
    second.start(submission)
    while (ended := second.look("nightly-1")) == LaunchStatus() and time.monotonic() < until:
        time.sleep(0.02)
    assert ended == LaunchStatus(4, f"exit code 4; see {store.schedules_folder / 'nightly-1.log'}")
    assert count.read_text() == "x\nx\n"


def test_a_database_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the schedules' database cannot be used"):
        TickTable(f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}")
    with pytest.raises(StoreError, match=r"postgresql://me:\*\*\*@127\.0\.0\.1:1/x: "):
        TickTable("postgresql://me:secret@127.0.0.1:1/x")


# The command line


@pytest.mark.slow
def test_a_schedule_of_this_machine_from_end_to_end(
    cli: Cli,
    store: Store,
    tmp_path: Path,
    make_prepared: Callable[..., PreparedSweep],
    computed: Callable[[Store, str, PreparedSweep, dict[str, str]], SweepFiles],
) -> None:
    """Half the training of the baseline's: the best loss is greater."""
    computed(store, "abcd1234", make_prepared(), {})
    (tmp_path / "sweep.yaml").write_text(strict_yaml.write(document(training={"epochs": 2})))
    file = tmp_path / "schedules.yaml"
    entry: dict[str, Any] = {
        "name": "nightly",
        "cron": "0 2 * * *",
        "timezone": "Europe/Berlin",
        "config": "sweep.yaml",
    }
    entry["check"] = {"baseline": "abcd1234", "max_loss_increase": "1%"}
    file.write_text(strict_yaml.write({"schedules": [entry]}))
    where = {"SWEEPS_SCHEDULES": str(file)}
    worse = cli("schedule", "trigger", "nightly", "--wait", code=4, **where).stdout
    assert ": regression (sweep " in worse
    assert "at most 1% more than the baseline's" in worse
    [tick] = json.loads(cli("schedule", "history", "nightly", "--json", **where).stdout)
    assert (tick["state"], tick["outcome"], tick["exit code"]) == (DONE, "regression", 0)
    files = store.find(tick["sweep"])
    assert files.manifest()["tags"] == {"schedule": "nightly", "scheduled_at": tick["scheduled at"]}
    [listed] = json.loads(cli("schedule", "list", "--json", **where).stdout)
    assert (listed["last"], listed["outcome"]) == (tick["scheduled at"], "regression")
    cli("schedule", "run", "--once", **where)
    assert "nightly is paused" in cli("schedule", "pause", "nightly", **where).stdout
    assert "paused" in cli("schedule", "list", **where).stdout
    assert "nightly is resumed; next tick at " in cli("schedule", "resume", "nightly", **where).stdout
    coming = json.loads(cli("schedule", "next", "-n", 2, "--json", **where).stdout)
    assert [row["local"][11:16] for row in coming] == ["02:00", "02:00"]
    [line] = cli("schedule", "pause", "nightli", code=2, **where).stderr.splitlines()
    assert line == "error: 'nightli': no such schedule (did you mean nightly?)"


@pytest.mark.slow
def test_the_schema_describes_the_shipped_file(cli: Cli) -> None:
    schema = json.loads(cli("schema", "--schedules").stdout)
    document_ = strict_yaml.read((ROOT / "deploy" / "schedules.yaml").read_text(), "schedules.yaml")
    jsonschema.validate(document_, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schedules": [{"name": "A b", "cron": "* * * * *", "config": "x"}]}, schema)
