"""The tick table: the state of every tick, in a database that all schedulers share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from sweeps.errors import StoreError
from sweeps.text.redact import first_line, redact_uri

DUE, CLAIMED, RUNNING, ENDED, FINISHING = "due", "claimed", "running", "ended", "finishing"
DONE, SKIPPED, MISSED = "done", "skipped", "missed"  # final states
OPEN = (DUE, CLAIMED, RUNNING, ENDED, FINISHING)
_ACTIVE = (CLAIMED, RUNNING)
_CLAIM_SECONDS = 120.0  # after which the owner of a claim is considered dead
_PATIENCE_SECONDS = 60
_MAKING = 0x53_57_45_45_50_53  # the key of the PostgreSQL lock that guards the creation of the tables

_metadata = sa.MetaData()
_ticks = sa.Table(
    "ticks",
    _metadata,
    sa.Column("schedule", sa.String(50), primary_key=True),
    sa.Column("scheduled_at", sa.String(20), primary_key=True),  # UTC, 2026-11-28T02:00:00Z
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False, default=""),
    sa.Column("note", sa.String(1000), nullable=False, default=""),
    sa.Column("exit_code", sa.Integer),
    sa.Column("submission_id", sa.String(100), nullable=False, default=""),
    sa.Column("sweep_id", sa.String(32), nullable=False, default=""),
    sa.Column("owner", sa.String(200), nullable=False, default=""),  # the scheduler that has claimed or started it
    sa.Column("claimed_until", sa.Float),  # seconds since 1970
)
_schedules = sa.Table(
    "schedules",
    _metadata,
    sa.Column("name", sa.String(50), primary_key=True),
    sa.Column("paused", sa.Boolean, nullable=False, default=False),
    sa.Column("filled_until", sa.String(20), nullable=False),  # ticks up to this time are in the table
)


@dataclass(frozen=True)
class Tick:
    """One time at which a schedule is due."""

    schedule: str
    scheduled_at: str
    state: str = DUE
    outcome: str = ""  # ok, failed, regression, replaced, or empty
    note: str = ""
    exit_code: int | None = None
    submission_id: str = ""
    sweep_id: str = ""
    owner: str = ""
    claimed_until: float | None = None


class TickTable:
    """The tick table in SQLite or PostgreSQL. Every method is one transaction.

    Args:
        uri: the database's SQLAlchemy URI.

    Raises:
        StoreError: the database cannot be opened.
    """

    def __init__(self, uri: str) -> None:
        """Open the database, and create missing tables."""
        is_sqlite = uri.startswith("sqlite")
        options = {"timeout": _PATIENCE_SECONDS} if is_sqlite else {}
        self.uri = redact_uri(uri)
        try:
            self._engine = sa.create_engine(uri, connect_args=options)
            self._insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
            if is_sqlite:
                sa.event.listen(self._engine, "connect", _no_implicit_begin)
                sa.event.listen(self._engine, "begin", _begin_immediate)
            with self._begin() as connection:
                if not is_sqlite:  # two concurrent CREATE TABLE would fail in PostgreSQL
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
                _metadata.create_all(connection)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise StoreError(f"{self.uri}: the schedules' database cannot be used: {first_line(error)}") from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def filled_until(self, schedule: str, now: datetime) -> datetime:
        """Return the time up to which a schedule's ticks are in the table; a new schedule starts at ``now``."""
        with self._begin() as connection:
            new = {"name": schedule, "paused": False, "filled_until": stamp(now)}
            connection.execute(self._insert(_schedules).values(new).on_conflict_do_nothing())
            query = sa.select(_schedules.c.filled_until).where(_schedules.c.name == schedule)
            return moment(connection.execute(query).scalar_one())

    def fill(self, schedule: str, ticks: Iterable[Tick], until: datetime) -> None:
        """Add missing ticks, and record the time up to which the table is filled."""
        rows = [_row(tick) for tick in ticks]
        known = sa.update(_schedules).where(_schedules.c.name == schedule, _schedules.c.filled_until < stamp(until))
        with self._begin() as connection:
            if rows:
                connection.execute(self._insert(_ticks).on_conflict_do_nothing(), rows)
            connection.execute(known.values(filled_until=stamp(until)))

    def add(self, tick: Tick) -> bool:
        """Add a tick. Return whether it is new."""
        with self._begin() as connection:
            added = connection.execute(self._insert(_ticks).values(_row(tick)).on_conflict_do_nothing())
            return bool(added.rowcount)

    def paused(self) -> set[str]:
        """Return the names of the paused schedules."""
        with self._begin() as connection:
            return set(connection.execute(sa.select(_schedules.c.name).where(_schedules.c.paused)).scalars())

    def pause(self, schedule: str, paused: bool, now: datetime) -> None:
        """Pause or resume a schedule. Ticks during a pause are dropped."""
        self.filled_until(schedule, now)
        with self._begin() as connection:
            values = {"paused": paused, "filled_until": stamp(now)}
            connection.execute(sa.update(_schedules).where(_schedules.c.name == schedule).values(values))

    def get(self, schedule: str, scheduled_at: str) -> Tick | None:
        """Return a tick; None if the table does not have it."""
        return next(iter(self._select(_ticks.c.schedule == schedule, _ticks.c.scheduled_at == scheduled_at)), None)

    def of(self, schedule: str, *states: str, newest: int | None = None) -> list[Tick]:
        """Return a schedule's ticks in these states (default: all), oldest first; or the ``newest`` N, newest first."""
        where = [_ticks.c.schedule == schedule, *([_ticks.c.state.in_(states)] if states else [])]
        return self._select(*where, newest=newest)

    def claim(self, tick: Tick, owner: str, now: datetime) -> bool:
        """Claim a due tick for a limited time. Return False if it is already claimed, or another tick is running."""
        free = sa.or_(_ticks.c.state == DUE, sa.and_(_ticks.c.state == CLAIMED, _ticks.c.claimed_until < _epoch(now)))
        with self._begin() as connection:
            # The row lock serialises claims of the same schedule.
            lock = sa.select(_schedules.c.name).where(_schedules.c.name == tick.schedule).with_for_update()
            connection.execute(lock)
            others = sa.select(sa.func.count()).where(
                _ticks.c.schedule == tick.schedule,
                _ticks.c.scheduled_at != tick.scheduled_at,
                _ticks.c.state.in_(_ACTIVE),
            )
            if connection.execute(others).scalar_one():
                return False
            return self._take(connection, tick, free, CLAIMED, owner, now)

    def claim_end(self, tick: Tick, owner: str, now: datetime) -> bool:
        """Claim a tick whose sweep has ended, for a limited time, to finish it. Return False if already claimed."""
        free = sa.or_(
            _ticks.c.state == ENDED, sa.and_(_ticks.c.state == FINISHING, _ticks.c.claimed_until < _epoch(now))
        )
        with self._begin() as connection:
            return self._take(connection, tick, free, FINISHING, owner, now)

    def move(self, tick: Tick, before: str | tuple[str, ...], after: str, **values: Any) -> bool:
        """Move a tick from one state to another. Return False if it was not in the first state."""
        states = (before,) if isinstance(before, str) else before
        if "note" in values:
            values["note"] = redact_uri(" ".join(str(values["note"]).split()))[:1000]
        change = sa.update(_ticks).where(*_is(tick), _ticks.c.state.in_(states)).values(state=after, **values)
        with self._begin() as connection:
            return bool(connection.execute(change).rowcount)

    def _take(self, connection: sa.Connection, tick: Tick, free: Any, state: str, owner: str, now: datetime) -> bool:
        values = {"state": state, "owner": owner, "claimed_until": _epoch(now) + _CLAIM_SECONDS}
        return bool(connection.execute(sa.update(_ticks).where(*_is(tick), free).values(values)).rowcount)

    def _select(self, *where: Any, newest: int | None = None) -> list[Tick]:
        column = _ticks.c.scheduled_at
        query = sa.select(_ticks).where(*where).order_by(column if newest is None else column.desc()).limit(newest)
        with self._begin() as connection:
            return [Tick(**row) for row in connection.execute(query).mappings()]

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"{self.uri}: the schedules' database cannot be used: {first_line(error)}") from error


def stamp(moment: datetime) -> str:
    """Format a time as stored in the table."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(stamp: str) -> datetime:
    """Parse a time stored in the table."""
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _row(tick: Tick) -> dict[str, Any]:
    return dict(tick.__dict__)


def _is(tick: Tick) -> tuple[Any, Any]:
    return _ticks.c.schedule == tick.schedule, _ticks.c.scheduled_at == tick.scheduled_at


def _epoch(now: datetime) -> float:
    return now.timestamp()


def _no_implicit_begin(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # sqlite3 would begin late, and without a write lock
    connection.execute(f"PRAGMA busy_timeout={1000 * _PATIENCE_SECONDS}")


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
