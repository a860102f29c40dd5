"""Reopen stored sweeps from their own files."""

from __future__ import annotations

from dataclasses import replace

from sweeps.config.datasets import FileData
from sweeps.config.loader import with_data
from sweeps.config.schema import SweepConfig
from sweeps.errors import StoreError
from sweeps.planning.data_columns import is_unnamed
from sweeps.planning.plan import DECIMAL_RANGES
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.store.store import SweepFiles


def reopen(files: SweepFiles) -> PreparedSweep:
    """Load a stored sweep's data and plan, with the stages as they were stored.

    Raises:
        StoreError: its data set has changed.
    """
    manifest, planned = files.manifest(), files.planned()
    prepared = prepare(stored_config(files), files.config_location, planned.stages[0].trials_per_shard)
    if prepared.plan.context != manifest.get("context"):
        raise StoreError(f"sweep {files.sweep_id}: its data set has changed since the sweep was planned")
    return with_stored_stages(prepared, files)


def stored_config(files: SweepFiles) -> SweepConfig:
    """Return the config of a stored sweep, with the points and the features of the version that planned the sweep.

    Raises:
        StoreError: the config or the manifest cannot be read.
        ConfigError: the config is invalid.
    """
    config, manifest = files.config(), files.manifest()
    if manifest.get("ranges") == DECIMAL_RANGES:
        return config
    data, features = config.task.dataset, manifest.get("data", {}).get("features") or ()
    if isinstance(data, FileData) and data.features is None and any(map(is_unnamed, features)):
        config = with_data(config, features=tuple(features))  # earlier versions trained on index columns
    return config.with_numpy_ranges()


def with_stored_stages(prepared: PreparedSweep, files: SweepFiles) -> PreparedSweep:
    """Return the sweep with the stages that are stored after its first.

    Raises:
        StoreError: a stage's file is damaged.
    """
    plan = prepared.plan
    return replace(prepared, plan=replace(plan, stages=(*plan.stages, *files.stages.read_all())))
