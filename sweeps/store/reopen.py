"""Reopen stored sweeps from their own files."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from sweeps.config.datasets import FileData, LinearData
from sweeps.config.loader import with_data
from sweeps.config.schema import SweepConfig
from sweeps.errors import StoreError
from sweeps.planning.data_columns import is_unnamed
from sweeps.planning.plan import DECIMAL_RANGES
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.task_loader import load_dataset
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
    config = _with_numpy_data(config, manifest)
    if manifest.get("ranges") == DECIMAL_RANGES:
        return config
    data, features = config.task.dataset, manifest.get("data", {}).get("features") or ()
    if isinstance(data, FileData) and data.features is None and any(map(is_unnamed, features)):
        config = with_data(config, features=tuple(features))  # earlier versions trained on index columns
    return _with_numpy_ranges(config, files)


def _with_numpy_data(config: SweepConfig, manifest: dict[str, Any]) -> SweepConfig:
    """Return the config whose generated data are the stored ones; those of earlier versions depend on the processor."""
    data, digest = config.task.dataset, manifest.get("data", {}).get("digest")
    if not isinstance(data, LinearData) or not data.depends_on_processor:
        return config
    here = data.with_processor_powers()
    if load_dataset(data).digest != digest and load_dataset(here).digest == digest:
        return config.model_copy(update={"task": config.task.model_copy(update={"dataset": here})})
    return config


def _with_numpy_ranges(config: SweepConfig, files: SweepFiles) -> SweepConfig:
    """Return the config with numpy's points; of those that depend on the processor, the ones in the stored shards."""
    usual, here = config.with_numpy_ranges("libm"), config.with_numpy_ranges("processor")
    ours, theirs = _values(usual), _values(here)
    for index in sorted(files.shards.done()) if ours != theirs else ():
        with suppress(StoreError):  # a damaged shard; where it matters, it is reported
            table = files.shards.read(index, _axes(config, files.shards.schema(index).names))
            stored = {value for column in table.columns for value in column.to_pylist()}
            if stored & (ours ^ theirs):
                return here if stored & (theirs - ours) else usual
    return usual


def _values(config: SweepConfig) -> set[float]:
    return {value for mapping in config.mappings() for axis in mapping.values() for value in axis.points().tolist()}


def _axes(config: SweepConfig, columns: list[str]) -> list[str]:
    """Return the columns that hold values of axes; an axis of start values can be that of several columns."""
    axes = {name for mapping in config.mappings() for name in mapping}
    return [name for name in columns if name in axes or name.startswith("init.")]


def with_stored_stages(prepared: PreparedSweep, files: SweepFiles) -> PreparedSweep:
    """Return the sweep with the stages that are stored after its first.

    Raises:
        StoreError: a stage's file is damaged.
    """
    plan = prepared.plan
    return replace(prepared, plan=replace(plan, stages=(*plan.stages, *files.stages.read_all())))
