"""Two schedulers on one database that are killed at random, repeatedly: forks of one process, which is fast.

Arguments: a folder, the database's URI, a sweep file and the number of kills. Their cluster accepts a job id once, as
Ray does; the time is a number in a file.
"""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sweeps.service.jobs.submission import Submission
from sweeps.service.schedule.launchers import LaunchStatus
from sweeps.service.schedule.scheduler import Scheduler
from sweeps.service.schedule.schema import Schedule
from sweeps.service.schedule.tick_table import TickTable
from sweeps.store.store import Store

START = datetime(2026, 11, 28, 1, 59, 30, tzinfo=UTC)
MINUTES = 5  # between two kills by the schedulers' clock: longer than a claim


class Jobs:
    """Jobs that are files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, submission: Submission) -> None:
        with suppress(FileExistsError):
            (self.folder / submission.submission_id).open("x").close()

    def look(self, submission_id: str) -> LaunchStatus | None:
        return LaunchStatus(0) if (self.folder / submission_id).exists() else None

    def stop(self, submission_id: str) -> None:
        raise AssertionError(submission_id)


def schedule(folder: Path, uri: str, config: str) -> int:
    """Start a scheduler in a separate process and return its process id."""
    if pid := os.fork():
        return pid
    try:
        entry = Schedule.model_validate(
            {
                "name": "nightly",
                "cron": "* * * * *",
                "config": config,
                "overlap": "queue",
                "misfire": {"catch_up": "all"},
            }
        )
        jobs = Jobs(folder / "jobs")

        def clock() -> datetime:
            return datetime.fromtimestamp(float((folder / "clock").read_text()), UTC)

        scheduler = Scheduler((entry,), TickTable(uri), Store(folder / "store"), clock, lambda _: jobs)
        while True:
            scheduler.turn()
            (folder / "turned").touch()
    finally:
        os._exit(1)


def set_clock(folder: Path, minutes: int) -> None:
    (folder / "clock.new").write_text(str((START + timedelta(minutes=minutes)).timestamp()))
    (folder / "clock.new").rename(folder / "clock")


def await_done(uri: str, ticks: int) -> None:
    table = TickTable(uri)
    until = time.monotonic() + 300
    while len(table.of("nightly", "done")) < ticks:
        if time.monotonic() > until:
            raise SystemExit(f"{[(tick.scheduled_at, tick.state) for tick in table.of('nightly')]}")
        time.sleep(0.05)


def main() -> None:
    folder, uri, config, kills = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    rng = random.Random(1)
    set_clock(folder, 0)
    running = [schedule(folder, uri, config) for _ in range(2)]
    try:
        while not (folder / "turned").exists():
            time.sleep(0.01)
        for number in range(1, kills + 1):
            set_clock(folder, MINUTES * number)
            time.sleep(rng.uniform(0, 0.1))  # not a wait for anything: it varies the moment of the kill
            victim = rng.randrange(2)
            os.kill(running[victim], signal.SIGKILL)
            os.waitpid(running[victim], 0)
            running[victim] = schedule(folder, uri, config)
        set_clock(folder, MINUTES * (kills + 1))
        await_done(uri, MINUTES * (kills + 1))
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
