"""Reopen stored sweeps from their own files."""

from __future__ import annotations

from dataclasses import replace

from sweeps.errors import StoreError
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.store.store import SweepFiles


def reopen(files: SweepFiles) -> PreparedSweep:
    """Load a stored sweep's data and plan, with the stages as they were stored.

    Raises:
        StoreError: its data set has changed.
    """
    manifest, planned = files.manifest(), files.planned()
    prepared = prepare(files.config(), files.config_location, planned.stages[0].trials_per_shard)
    if prepared.plan.context != manifest.get("context"):
        raise StoreError(f"sweep {files.sweep_id}: its data set has changed since the sweep was planned")
    return with_stored_stages(prepared, files)


def with_stored_stages(prepared: PreparedSweep, files: SweepFiles) -> PreparedSweep:
    """Return the sweep with the stages that are stored after its first.

    Raises:
        StoreError: a stage's file is damaged.
    """
    plan = prepared.plan
    return replace(prepared, plan=replace(plan, stages=(*plan.stages, *files.stages.read_all())))
