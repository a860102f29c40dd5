"""The scheduler: fill the tick table, start due sweeps, follow running ones and finish ended ones.

All state is in the tick table, so any number of schedulers can run, and each can die at any point: the claim of a dead
scheduler expires, and a sweep that is started twice runs once, because its id is derived from the schedule and the
tick.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from sweeps.errors import ExecutorError, SweepsError
from sweeps.service.jobs.ray_jobs import Cluster
from sweeps.service.jobs.submission import Destination, Submission, prepare
from sweeps.service.schedule import retention, webhook
from sweeps.service.schedule.launchers import ClusterLauncher, Launcher, LocalLauncher
from sweeps.service.schedule.schema import Schedule
from sweeps.service.schedule.tick_table import (
    CLAIMED,
    DONE,
    DUE,
    ENDED,
    FINISHING,
    MISSED,
    RUNNING,
    SKIPPED,
    Tick,
    TickTable,
    stamp,
)
from sweeps.store.store import Store, SweepFiles
from sweeps.verification.regression import LATEST

OK, FAILED, REGRESSION, REPLACED = "ok", "failed", "regression", "replaced"
_MOST_TICKS = 1000  # ticks of a schedule to fill in per turn
_log = logging.getLogger(__name__)


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Scheduler:
    """A scheduler that runs the sweeps of schedules.

    Args:
        schedules: the schedules of the schedules file.
        table: the tick table.
        store: the store of local sweeps, in which sweeps are also checked and pruned.
        clock: returns the current time.
        place_of: returns a schedule's launcher; by default the one for its address.
    """

    def __init__(
        self,
        schedules: tuple[Schedule, ...],
        table: TickTable,
        store: Store,
        clock: Callable[[], datetime] = now,
        place_of: Callable[[Schedule], Launcher] | None = None,
    ) -> None:
        """Create the scheduler without accessing the table or the store."""
        self.schedules, self.table, self.store, self.clock = schedules, table, store, clock
        self.owner = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._place_of = place_of or self._place
        self._clusters: dict[str, ClusterLauncher] = {}
        self._logged_errors: dict[str, str] = {}  # each schedule's last error, to log it only once

    def turn(self) -> None:
        """Do all work that is due now. An error in one schedule is logged and does not affect the others."""
        paused = self.table.paused()
        for schedule in self.schedules:
            try:
                self.fill(schedule, schedule.name in paused)
                self.look_after(schedule)
            except SweepsError as error:
                if self._logged_errors.get(schedule.name) != str(error):
                    _log.error("%s: %s", schedule.name, error)
                self._logged_errors[schedule.name] = str(error)
            else:
                self._logged_errors.pop(schedule.name, None)

    def fill(self, schedule: Schedule, paused: bool = False) -> None:
        """Add the ticks to the table that have become due since it was last filled; none while paused."""
        at = self.clock().replace(microsecond=0)
        after = self.table.filled_until(schedule.name, at)
        self.table.fill(schedule.name, () if paused else self._due(schedule, after, at), at)

    def _due(self, schedule: Schedule, after: datetime, at: datetime) -> Iterator[Tick]:
        ticks = list(islice(schedule.ticks(after, at), 100 * _MOST_TICKS))[-_MOST_TICKS:]
        made_up = {"none": 0, "last": 1, "all": len(ticks)}[schedule.misfire.catch_up]
        for ahead, tick in enumerate(reversed(ticks)):
            missed = schedule.late(at, tick) and ahead >= made_up
            yield self.tick(schedule, tick, MISSED if missed else DUE)

    def tick(self, schedule: Schedule, at: datetime, state: str = DUE) -> Tick:
        """Return a tick; its job id and sweep id are derived from the schedule's name and the time."""
        submission_id = f"{schedule.name}-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        sweep_id = Submission(submission_id, "", "", "").sweep_id
        return Tick(schedule.name, stamp(at), state, submission_id=submission_id, sweep_id=sweep_id)

    def look_after(self, schedule: Schedule) -> None:
        """Advance all open ticks of a schedule as far as possible."""
        for tick in self.table.of(schedule.name, RUNNING):
            self._look(schedule, tick)
        for tick in self.table.of(schedule.name, ENDED, FINISHING):
            if self.table.claim_end(tick, self.owner, self.clock()):
                self._finish(schedule, tick)
        for tick in self.table.of(schedule.name, DUE, CLAIMED):
            if not self._start(schedule, tick) and schedule.overlap == "queue":
                break

    def _look(self, schedule: Schedule, tick: Tick) -> None:
        place = self._place_of(schedule)
        status = place.look(tick.submission_id)
        if status is None:  # the cluster or process was lost: the sweep resumes from the store
            self._run(schedule, tick, RUNNING)
        elif status.exit_code is not None:
            self.table.move(tick, RUNNING, ENDED, exit_code=status.exit_code, note=status.note)

    def _start(self, schedule: Schedule, tick: Tick) -> bool:
        """Start a due tick unless the overlap policy prevents it. Return whether it was started."""
        others = [other for other in self.table.of(schedule.name, CLAIMED, RUNNING) if other != tick]
        running = [other for other in others if other.scheduled_at != tick.scheduled_at]
        if running and schedule.overlap == "skip" and tick.state == DUE:
            if self.table.move(tick, DUE, SKIPPED, note=f"the sweep of {running[0].scheduled_at} is still running"):
                _log.info("%s: skipped: the sweep of %s is still running", tick.submission_id, running[0].scheduled_at)
            return False
        if running and schedule.overlap == "replace":
            for other in running:
                if other.scheduled_at < tick.scheduled_at and self.table.move(
                    other, RUNNING, DONE, outcome=REPLACED, note=f"replaced by the sweep of {tick.scheduled_at}"
                ):
                    self._place_of(schedule).stop(other.submission_id)
        if not self.table.claim(tick, self.owner, self.clock()):
            return False
        try:
            self._run(schedule, tick, CLAIMED)
        except ExecutorError as error:  # the cluster is unavailable: the next turn tries again
            self.table.move(tick, CLAIMED, DUE, note=str(error))
            raise
        return True

    def _run(self, schedule: Schedule, tick: Tick, state: str) -> None:
        """Start a tick's sweep. A sweep that cannot be started counts as ended.

        Raises:
            ExecutorError: the cluster is unavailable.
        """
        try:
            self._place_of(schedule).start(self._submission(schedule, tick))
        except ExecutorError:
            raise
        except SweepsError as error:
            self.table.move(tick, state, ENDED, exit_code=error.exit_code, note=str(error))
            _log.error("%s: cannot be started: %s", tick.submission_id, error)
        else:
            self.table.move(tick, state, RUNNING, note="")
            _log.info("%s: started (sweep %s)", tick.submission_id, tick.sweep_id)

    def _finish(self, schedule: Schedule, tick: Tick) -> None:
        """Check an ended sweep, report a failure or regression, and prune. The caller has claimed the tick."""
        found = self.table.get(tick.schedule, tick.scheduled_at) or tick
        outcome, note = (OK if found.exit_code == 0 else FAILED), found.note
        if outcome == OK and schedule.check is not None and (failed := self._check(schedule, found)):
            outcome, note = REGRESSION, "; ".join(failed)
        if outcome != OK and (address := schedule.webhook_address()):
            event = self._event(found, outcome, note)
            if problem := webhook.tell(address, event, f"{found.submission_id} {outcome}"):
                note = f"{note}; {problem}" if note else problem
        self.table.move(found, FINISHING, DONE, outcome=outcome, note=note)
        _log.log(logging.INFO if outcome == OK else logging.WARNING, "%s: %s", found.submission_id, outcome)
        self._prune(schedule)

    def _check(self, schedule: Schedule, tick: Tick) -> list[str]:
        """Return a message for each limit that the sweep violates."""
        from sweeps.verification.regression import check

        if (files := self.store.get(tick.sweep_id)) is None:
            return [f"sweep {tick.sweep_id} cannot be checked: it is not in the store {self.store.where}"]
        try:
            checks = check(files, self._baseline(schedule, tick), schedule.limits)
            return [entry.message for entry in checks if not entry.passed]
        except SweepsError as error:
            return [f"sweep {tick.sweep_id} cannot be checked: {error}"]

    def _baseline(self, schedule: Schedule, tick: Tick | None = None) -> SweepFiles | None:
        """Return the baseline: the sweep with the configured id, or the newest successful one before ``tick``."""
        if schedule.baseline != LATEST:
            return self.store.find(schedule.baseline)
        succeeded = [other for other in self.table.of(schedule.name, DONE) if other.outcome == OK]
        earlier = [other for other in succeeded if tick is None or other.scheduled_at < tick.scheduled_at]
        return next(filter(None, (self.store.get(other.sweep_id) for other in reversed(earlier))), None)

    def _event(self, tick: Tick, outcome: str, note: str) -> dict[str, Any]:
        return {
            "event": outcome,
            "schedule": tick.schedule,
            "scheduled_at": tick.scheduled_at,
            "job": tick.submission_id,
            "sweep_id": tick.sweep_id,
            "exit_code": tick.exit_code,
            "message": note,
        }

    def _prune(self, schedule: Schedule) -> None:
        keep = {other.baseline for other in self.schedules if other.baseline != LATEST}
        if schedule.baseline == LATEST and (files := self._baseline(schedule)) is not None:
            keep.add(files.sweep_id)
        keep |= {tick.sweep_id for tick in self.table.of(schedule.name, CLAIMED, RUNNING, ENDED, FINISHING)}
        for sweep_id in retention.prune(self.store, schedule.name, schedule.retention, keep, self.clock()):
            _log.info("%s: deleted sweep %s (retention)", schedule.name, sweep_id)

    def _submission(self, schedule: Schedule, tick: Tick) -> Submission:
        """Return the submission for a tick. The sweep file is read again for every tick."""
        return prepare(
            Path(schedule.config),
            list(schedule.set),
            tick.submission_id,
            Destination(schedule.store, schedule.tracking_uri),
            {retention.TAG: schedule.name, "scheduled_at": tick.scheduled_at},
            schedule.fresh,
            send_files=schedule.cluster() is not None,
        )

    def _place(self, schedule: Schedule) -> Launcher:
        address = schedule.cluster()
        if address is None:
            return self._local
        return self._clusters.setdefault(address, ClusterLauncher(Cluster(address)))

    @cached_property
    def _local(self) -> LocalLauncher:
        return LocalLauncher(self.store, Path.cwd())

    def trigger(self, schedule: Schedule) -> Tick:
        """Add a tick that is due now; :meth:`look_after` starts it."""
        at = self.clock()
        self.table.filled_until(schedule.name, at)
        tick = self.tick(schedule, at)
        self.table.add(tick)
        return tick

    def until_next(self) -> float:
        """Return the seconds until the next tick of any schedule."""
        at = self.clock()
        ahead = [next(schedule.ticks(at)) for schedule in self.schedules]
        return max(0.0, (min(ahead) - at).total_seconds())
