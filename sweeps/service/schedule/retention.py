"""Retention: delete a schedule's old sweeps from the store, except running sweeps and baselines."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sweeps.errors import StoreError, SweepHeld
from sweeps.service.schedule.schema import Retention
from sweeps.store.store import Store, SweepFiles

TAG = "schedule"  # the tag that holds the name of a sweep's schedule


def sweeps_of(store: Store, schedule: str) -> list[SweepFiles]:
    """Return a schedule's sweeps in the store, newest first, without damaged ones."""
    return [files for files in store.sweeps() if _schedule(files) == schedule]


def prune(store: Store, schedule: str, retention: Retention, keep: Collection[str], now: datetime) -> list[str]:
    """Delete a schedule's sweeps that exceed the retention limits.

    Args:
        store: the store.
        schedule: the schedule's name.
        retention: the number of sweeps or days to keep.
        keep: ids or id prefixes of sweeps to keep, such as baselines.
        now: the current time.

    Returns:
        The ids of the deleted sweeps.
    """
    removed = []
    for place, files in enumerate(sweeps_of(store, schedule)):
        many = retention.sweeps is not None and place >= retention.sweeps
        old = retention.days is not None and _is_before(files.created, now - timedelta(retention.days))
        if not (many or old) or files.sweep_id.startswith(tuple(keep)):
            continue
        try:
            store.remove(files)
        except SweepHeld:
            continue
        removed.append(files.sweep_id)
    return removed


def _schedule(files: SweepFiles) -> str | None:
    try:
        tags = files.manifest().get("tags") or {}
    except StoreError:
        return None
    return str(tags[TAG]) if TAG in tags else None


def _is_before(created: str, limit: datetime) -> bool:
    try:
        return datetime.fromisoformat(created) < limit
    except (TypeError, ValueError):
        return False  # without a time that can be compared, a sweep is kept
