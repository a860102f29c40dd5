"""The schedules file, validated: which sweep when, where, and what if it is late, overlaps, fails or regresses."""

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
_DURATION = re.compile(r"(\d{1,9}(?:\.\d+)?)\s*(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _name(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(_NAME, value):
        return value
    raise PydanticCustomError(CUSTOM, "up to 50 lower-case letters, digits and dashes are needed")


def _cron(value: str) -> str:
    try:
        if len(value.split()) != 5:
            raise CronSimError("five fields are needed")
        next(CronSim(value, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        told = str(error).lower() or "it never comes"
        raise PydanticCustomError(
            CUSTOM, "{told}; minute hour day month weekday is needed, such as '0 2 * * *'", {"told": told}
        ) from error
    return value


def _zone(value: str) -> str:
    if value not in _zones():
        raise PydanticCustomError(CUSTOM, "an IANA time zone is needed, such as Europe/Berlin or UTC")
    return value


@lru_cache(1)
def _zones() -> set[str]:
    return available_timezones()


def _seconds(value: Any) -> Any:
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise PydanticCustomError(CUSTOM, "seconds, or a time such as 90s, 15m, 2h or 3d, are needed")


def _address(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"local|https?://[^\s@]+|\$[A-Za-z_][A-Za-z0-9_]*", value):
        return value
    raise PydanticCustomError(
        CUSTOM, "local, a Jobs API without password such as http://HOST:8265, or the variable that names one is needed"
    )


def _check(value: Any) -> Any:
    if not isinstance(value, dict):
        raise PydanticCustomError(CUSTOM, "a mapping with baseline and limits is needed")
    baseline = value.get("baseline", LATEST)
    if not isinstance(baseline, str) or not re.fullmatch(r"latest|[0-9a-f]{1,32}", baseline):
        raise PydanticCustomError(CUSTOM, "baseline: latest or a sweep's id is needed")
    try:
        Limits.of({key: limit for key, limit in value.items() if key != "baseline"}, "check")
    except ConfigError as error:
        raise PydanticCustomError(CUSTOM, "{told}", {"told": error.problems[0]}) from error
    return value


ScheduleName = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": _NAME})]
Cron = Annotated[str, Field(max_length=200), AfterValidator(_cron)]
Zone = Annotated[str, Field(max_length=100), AfterValidator(_zone)]
Seconds = Annotated[float, BeforeValidator(_seconds), WithJsonSchema({"type": ["number", "string"]})]
Address = Annotated[str, BeforeValidator(_address), WithJsonSchema({"type": "string"})]
CheckMapping = Annotated[dict[str, Any], BeforeValidator(_check)]


class Misfire(Model):
    """What is done about ticks that came while no scheduler ran.

    Up to ``grace`` late a tick is run as if in time; of later ones none, the last or all are made up for.
    """

    grace: Seconds = 300.0
    catch_up: Literal["none", "last", "all"] = "last"


class Retention(Model):
    """How many of a schedule's sweeps stay in the store, or for how many days; the rest is deleted after each run."""

    sweeps: Count | None = None
    days: Positive | None = None


class Schedule(Model):
    """One sweep, again and again.

    ``address`` is the cluster whose Jobs API is submitted to, or ``local``: a process of this machine. ``store`` and
    ``tracking_uri`` are as that place sees them; by default its environment says. ``check`` holds each sweep against
    limits and a baseline: ``latest``, the schedule's newest sweep that kept to them, or a sweep's id. ``webhook``
    names the environment variable that holds the address to tell of failures and regressions.
    """

    name: ScheduleName
    cron: Cron
    timezone: Zone = "UTC"
    config: FilePath
    set: tuple[Text, ...] = ()
    address: Address = LOCAL
    store: FilePath | None = None
    tracking_uri: Text | None = None
    fresh: Flag = False
    overlap: Literal["skip", "queue", "replace"] = "skip"
    misfire: Misfire = Misfire()
    retention: Retention = Retention()
    check: CheckMapping | None = None
    webhook: Variable | None = None

    @property
    def limits(self) -> Limits:
        """What each sweep must keep to."""
        return Limits.of({key: limit for key, limit in (self.check or {}).items() if key != "baseline"})

    @property
    def baseline(self) -> str:
        """The sweep that each is held against: an id, or ``latest``."""
        return str((self.check or {}).get("baseline", LATEST))

    def cluster(self) -> str | None:
        """The address of the Jobs API; None for this machine.

        Raises:
            ConfigError: it is named by a variable that is not set.
        """
        if self.address == LOCAL:
            return None
        return _from_environment(self.address, f"schedule {self.name}: address")

    def webhook_address(self) -> str | None:
        """Where failures are told of.

        Raises:
            ConfigError: its variable is not set.
        """
        return _from_environment(self.webhook, f"schedule {self.name}: webhook") if self.webhook else None

    def ticks(self, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
        """When it is due, in UTC, later than ``after`` and no later than ``until``.

        As in Debian's cron: a time that the clocks skip comes when they have gone forward, one that comes twice is
        taken once, and hours or minutes given by ``*`` keep to the time that passes.
        """
        last = after
        for local in CronSim(self.cron, after.astimezone(ZoneInfo(self.timezone))):
            tick = local.astimezone(UTC)
            if until is not None and tick > until:
                return
            if tick > last:  # between the two passes of an hour that comes twice, the first is told again
                yield tick
                last = tick

    def late(self, now: datetime, tick: datetime) -> bool:
        """Whether it is too late for a tick to be run as if in time."""
        return now - tick > timedelta(seconds=self.misfire.grace)


class SchedulesFile(Model):
    """The whole file."""

    schedules: Annotated[tuple[Schedule, ...], Field(min_length=1, max_length=1000)]


def load(path: Path) -> tuple[Schedule, ...]:
    """Read and validate a schedules file, and the sweep files that it names, whose paths are taken from its folder.

    Raises:
        ConfigError: with one line a problem.
    """
    document = strict_yaml.read(read_text(path), str(path))
    try:
        schedules = SchedulesFile.model_validate(document).schedules
    except ValidationError as error:
        raise ConfigError(str(path), problem_lines(error)) from error
    names = [schedule.name for schedule in schedules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(str(path), [f"schedules: the name {name} stands twice" for name in twice])
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
