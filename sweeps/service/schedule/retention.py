"""Retention: a schedule's old sweeps are deleted from the store, never one that runs or is a baseline."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sweeps.errors import StoreError, SweepHeld
from sweeps.service.schedule.schema import Retention
from sweeps.store.store import Store, SweepFiles

TAG = "schedule"  # that a schedule's sweeps bear, with its name


def sweeps_of(store: Store, schedule: str) -> list[SweepFiles]:
    """The store's sweeps of a schedule, the newest first; damaged ones are nobody's."""
    return [files for files in store.sweeps() if _schedule(files) == schedule]


def prune(store: Store, schedule: str, retention: Retention, keep: Collection[str], now: datetime) -> list[str]:
    """Delete what is too old, or too many.

    Args:
        store: where.
        schedule: whose sweeps.
        retention: how many, or for how many days.
        keep: ids, or their starts, of sweeps that others are held against.
        now: when.

    Returns:
        The ids of the sweeps that are gone.
    """
    removed = []
    for place, files in enumerate(sweeps_of(store, schedule)):
        many = retention.sweeps is not None and place >= retention.sweeps
        old = retention.days is not None and datetime.fromisoformat(files.created) < now - timedelta(retention.days)
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
