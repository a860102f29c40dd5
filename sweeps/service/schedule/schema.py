"""The schema of the schedules file: which sweeps run when and where, and how late or failed runs are handled."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from sweeps.config import strict_yaml
from sweeps.config.base import Model
from sweeps.config.loader import load as load_config
from sweeps.config.loader import read_text
from sweeps.config.messages import problem_lines, shown
from sweeps.config.types import CUSTOM, Count, FilePath, Flag, Positive, Text, Variable
from sweeps.errors import ConfigError
from sweeps.verification.regression import LATEST, Limits

LOCAL = "local"
_NAME = r"^[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?$"
_MACROS = {  # as in cron
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d+)?)\s*(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _name(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(_NAME, value):
        return value
    raise PydanticCustomError(CUSTOM, "must have 1 to 50 lower-case letters, digits and inner dashes")


def _cron(value: str) -> str:
    try:
        value = _MACROS.get(value.strip().lower(), value)
        if len(value.split()) != 5:
            raise CronSimError("must have five fields")
        next(CronSim(value, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        reason = str(error).lower() or "never occurs"
        raise PydanticCustomError(
            CUSTOM,
            "{reason}; the fields are minute hour day month weekday, such as '0 2 * * *' or @daily",
            {"reason": reason},
        ) from error
    return value


def _zone(value: str) -> str:
    if value not in _zones():
        raise PydanticCustomError(CUSTOM, "must be an IANA time zone, such as Europe/Berlin or UTC")
    return value


@lru_cache(1)
def _zones() -> set[str]:
    return available_timezones()


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise PydanticCustomError(CUSTOM, "must be seconds, or a duration such as 90s, 15m, 2h or 3d")


def _address(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"local|https?://[^\s@]+|\$[A-Za-z_][A-Za-z0-9_]*", value):
        return value
    raise PydanticCustomError(
        CUSTOM, "must be local, a Jobs API address without password, such as http://HOST:8265, or $NAME of a variable"
    )


def _check(value: Any) -> Any:
    if not isinstance(value, dict):
        raise PydanticCustomError(CUSTOM, "must be a mapping of baseline and limits")
    baseline = value.get("baseline", LATEST)
    if not isinstance(baseline, str) or not re.fullmatch(r"latest|[0-9a-f]{1,32}", baseline):
        raise PydanticCustomError(CUSTOM, "baseline: must be latest or a sweep id")
    try:
        Limits.of({key: limit for key, limit in value.items() if key != "baseline"}, "check")
    except ConfigError as error:
        raise PydanticCustomError(CUSTOM, "{problem}", {"problem": error.problems[0]}) from error
    return value


ScheduleName = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": _NAME})]
Cron = Annotated[str, Field(max_length=200), AfterValidator(_cron)]
Zone = Annotated[str, Field(max_length=100), AfterValidator(_zone)]
Seconds = Annotated[float, BeforeValidator(_seconds), WithJsonSchema({"type": ["number", "string"]})]
Address = Annotated[str, BeforeValidator(_address), WithJsonSchema({"type": "string"})]
CheckMapping = Annotated[dict[str, Any], BeforeValidator(_check)]


class Misfire(Model):
    """The handling of ticks that were due while no scheduler was running.

    A tick that is at most ``grace`` late runs normally. Of the later ones, ``catch_up`` runs none, the last or all.
    """

    grace: Seconds = 300.0
    """How late a tick still runs normally: seconds, or a duration such as 15m."""
    catch_up: Literal["none", "last", "all"] = "last"
    """Which of the later ticks to run."""


class Retention(Model):
    """The number of a schedule's sweeps, or of days, to keep; older sweeps are deleted after each run."""

    sweeps: Count | None = None
    """The number of sweeps to keep."""
    days: Positive | None = None
    """The number of days to keep a sweep."""


class Schedule(Model):
    """A sweep that runs repeatedly.

    ``address`` is the Jobs API of a cluster, or ``local`` for a process on this machine. ``store`` and
    ``tracking_uri`` are as seen from there, with defaults from its environment. ``check`` compares each sweep with
    limits and a baseline: ``latest`` (the schedule's newest sweep that passed) or a sweep id. ``webhook`` names the
    environment variable that holds the address to which failures and regressions are reported.
    """

    name: ScheduleName
    """The name of the schedule."""
    cron: Cron
    """When to run: minute hour day month weekday."""
    timezone: Zone = "UTC"
    """The IANA time zone of the times."""
    config: FilePath
    """The sweep file, relative to this file."""
    set: tuple[Text, ...] = ()
    """Overrides of the sweep file, KEY=VALUE."""
    address: Address = LOCAL
    """The Jobs API of a cluster, $NAME of a variable that holds it, or local."""
    store: FilePath | None = None
    """The store, as seen from there."""
    tracking_uri: Text | None = None
    """The MLflow to log to, as seen from there."""
    fresh: Flag = False
    """Whether to train all trials again."""
    overlap: Literal["skip", "queue", "replace"] = "skip"
    """What to do with a tick while the sweep before it runs."""
    misfire: Misfire = Misfire()
    """How to treat ticks that were due while no scheduler was running."""
    retention: Retention = Retention()
    """Which sweeps to keep."""
    check: CheckMapping | None = None
    """The baseline and the limits that each sweep must keep."""
    webhook: Variable | None = None
    """$NAME of the variable that holds the address for reports of failures."""

    @property
    def limits(self) -> Limits:
        """The limits for each sweep."""
        return Limits.of({key: limit for key, limit in (self.check or {}).items() if key != "baseline"})

    @property
    def baseline(self) -> str:
        """The sweep to compare with: an id, or ``latest``."""
        return str((self.check or {}).get("baseline", LATEST))

    def cluster(self) -> str | None:
        """Return the address of the Jobs API; None for this machine.

        Raises:
            ConfigError: the variable that holds it is not set.
        """
        if self.address == LOCAL:
            return None
        return _from_environment(self.address, f"schedule {self.name}: address")

    def webhook_address(self) -> str | None:
        """Return the address for reports of failures; None if there is no webhook.

        Raises:
            ConfigError: the variable that holds it is not set.
        """
        return _from_environment(self.webhook, f"schedule {self.name}: webhook") if self.webhook else None

    def ticks(self, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
        """Yield the ticks after ``after``, up to and including ``until``, in UTC.

        Daylight saving time is handled as in Debian's cron: a time that is skipped runs right after the change, a time
        that occurs twice runs once, and hours or minutes given by ``*`` follow elapsed time.
        """
        last = after
        for local in CronSim(self.cron, after.astimezone(ZoneInfo(self.timezone))):
            tick = local.astimezone(UTC)
            if until is not None and tick > until:
                return
            if tick > last:  # CronSim repeats the first tick of an hour that occurs twice
                yield tick
                last = tick

    def late(self, now: datetime, tick: datetime) -> bool:
        """Return whether a tick is later than the grace period."""
        return now - tick > timedelta(seconds=self.misfire.grace)


class SchedulesFile(Model):
    """The schedules file."""

    schedules: Annotated[tuple[Schedule, ...], Field(min_length=1, max_length=1000)]
    """The schedules."""


def load(path: Path) -> tuple[Schedule, ...]:
    """Read and validate a schedules file and its sweep files, whose paths are relative to its folder.

    Raises:
        ConfigError: a file is invalid, with one line per problem.
    """
    document = strict_yaml.read(read_text(path), str(path))
    try:
        schedules = SchedulesFile.model_validate(document).schedules
    except ValidationError as error:
        raise ConfigError(str(path), problem_lines(error, SchedulesFile)) from error
    names = [schedule.name for schedule in schedules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(str(path), [f"schedules: the name {name} is duplicated" for name in twice])
    found = tuple(s.model_copy(update={"config": os.path.realpath(path.parent / s.config)}) for s in schedules)
    for schedule in found:
        load_config(Path(schedule.config), list(schedule.set))
        schedule.cluster()
        schedule.webhook_address()
    return found


def _from_environment(given: str, where: str) -> str:
    name = given.removeprefix("$")
    if name == given:
        return given
    if not (value := os.environ.get(name)):
        raise ConfigError(where, [f"the environment variable {shown(name)} is not set"])
    return value
