"""The scheduler: it fills the tick table, looks after what runs, finishes what ended, starts what is due.

It remembers nothing between turns that the table does not hold, so any number of schedulers may run, and each may die
between any two steps: a claim that its owner does not honour runs out, and whatever is started again is started once,
because its id is made from the schedule and the tick.
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
_MOST_TICKS = 1000  # of a schedule that are caught up with in one turn
_log = logging.getLogger(__name__)


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Scheduler:
    """Runs schedules.

    Args:
        schedules: of the schedules file.
        table: what is due.
        store: where local sweeps are kept, and sweeps are looked for to be checked and pruned.
        clock: says the time.
        place_of: where a schedule's sweeps run; by default as it says.
    """

    def __init__(
        self,
        schedules: tuple[Schedule, ...],
        table: TickTable,
        store: Store,
        clock: Callable[[], datetime] = now,
        place_of: Callable[[Schedule], Launcher] | None = None,
    ) -> None:
        """Nothing is touched yet."""
        self.schedules, self.table, self.store, self.clock = schedules, table, store, clock
        self.owner = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        self._place_of = place_of or self._place
        self._clusters: dict[str, ClusterLauncher] = {}
        self._told: dict[str, str] = {}  # the fault of a schedule that was told last

    def turn(self) -> None:
        """Do whatever there is to do now. A schedule's fault does not keep the others from theirs."""
        paused = self.table.paused()
        for schedule in self.schedules:
            try:
                self.fill(schedule, schedule.name in paused)
                self.look_after(schedule)
            except SweepsError as error:
                if self._told.get(schedule.name) != str(error):
                    _log.error("%s: %s", schedule.name, error)
                self._told[schedule.name] = str(error)
            else:
                self._told.pop(schedule.name, None)

    def fill(self, schedule: Schedule, paused: bool = False) -> None:
        """Put into the table what has become due since it was filled."""
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
        """A tick, whose sweep's ids are made from the schedule and the time."""
        submission_id = f"{schedule.name}-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        sweep_id = Submission(submission_id, "", "", "").sweep_id
        return Tick(schedule.name, stamp(at), state, submission_id=submission_id, sweep_id=sweep_id)

    def look_after(self, schedule: Schedule) -> None:
        """Take a schedule's ticks on, each as far as it goes."""
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
        standing = place.look(tick.submission_id)
        if standing is None:  # its cluster or process is gone: the store goes on with what there is
            self._run(schedule, tick, RUNNING)
        elif standing.exit_code is not None:
            self.table.move(tick, RUNNING, ENDED, exit_code=standing.exit_code, note=standing.note)

    def _start(self, schedule: Schedule, tick: Tick) -> bool:
        """Start a due tick, unless another runs that it has to wait for, or to give way to; whether it was its turn."""
        others = [other for other in self.table.of(schedule.name, CLAIMED, RUNNING) if other != tick]
        running = [other for other in others if other.scheduled_at != tick.scheduled_at]
        if running and schedule.overlap == "skip" and tick.state == DUE:
            if self.table.move(tick, DUE, SKIPPED, note=f"that of {running[0].scheduled_at} still runs"):
                _log.info("%s: skipped: that of %s still runs", tick.submission_id, running[0].scheduled_at)
            return False
        if running and schedule.overlap == "replace":
            for other in running:
                if other.scheduled_at < tick.scheduled_at and self.table.move(
                    other, RUNNING, DONE, outcome=REPLACED, note=f"replaced by that of {tick.scheduled_at}"
                ):
                    self._place_of(schedule).stop(other.submission_id)
        if not self.table.claim(tick, self.owner, self.clock()):
            return False
        try:
            self._run(schedule, tick, CLAIMED)
        except ExecutorError as error:  # the cluster is away: again next turn
            self.table.move(tick, CLAIMED, DUE, note=str(error))
            raise
        return True

    def _run(self, schedule: Schedule, tick: Tick, state: str) -> None:
        """Start a tick's sweep; what cannot be started has ended.

        Raises:
            ExecutorError: the cluster is away.
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
        """A sweep has ended, and this scheduler has claimed what is left: check it, tell of it, prune."""
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
        """What the sweep does not keep to."""
        from sweeps.verification.regression import check

        if (files := self.store.get(tick.sweep_id)) is None:
            return [f"sweep {tick.sweep_id} cannot be checked: it is not in the store {self.store.where}"]
        try:
            checks = check(files, self._baseline(schedule, tick), schedule.limits)
            return [entry.message for entry in checks if not entry.passed]
        except SweepsError as error:
            return [f"sweep {tick.sweep_id} cannot be checked: {error}"]

    def _baseline(self, schedule: Schedule, tick: Tick | None = None) -> SweepFiles | None:
        """What a schedule's sweeps are held against: that of an id, or its newest that was well, before ``tick``."""
        if schedule.baseline != LATEST:
            return self.store.find(schedule.baseline)
        well = [other for other in self.table.of(schedule.name, DONE) if other.outcome == OK]
        earlier = [other for other in well if tick is None or other.scheduled_at < tick.scheduled_at]
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
            _log.info("%s: sweep %s is deleted, as its retention says", schedule.name, sweep_id)

    def _submission(self, schedule: Schedule, tick: Tick) -> Submission:
        """What runs for a tick; the sweep file is read anew."""
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
        """Make a schedule due now; :meth:`look_after` starts it."""
        at = self.clock()
        self.table.filled_until(schedule.name, at)
        tick = self.tick(schedule, at)
        self.table.add(tick)
        return tick

    def until_next(self) -> float:
        """Seconds until something is due."""
        at = self.clock()
        ahead = [next(schedule.ticks(at)) for schedule in self.schedules]
        return max(0.0, (min(ahead) - at).total_seconds())
