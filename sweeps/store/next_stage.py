"""The next stage of a stored sweep, as chosen by its search method."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from sweeps.planning.packing import Workers
from sweeps.planning.plan import Plan, PlanStage
from sweeps.planning.planner import plan_stage
from sweeps.planning.prepared import PreparedSweep
from sweeps.search.base import History, SearchSpace, search_method
from sweeps.store.sweep_files import SweepFiles
from sweeps.store.warm_start import read_warm_start

_CHANGING = ("verdict", "steps_to_tolerance")  # depend on the sweep's best trial, so later stages can change them


class StoredHistory(History):
    """The stored results of the first ``stages`` stages of a plan."""

    def __init__(self, files: SweepFiles, plan: Plan, stages: int, is_warm: bool = False) -> None:
        """Access the results without reading them; ``is_warm``: the sweep also learns from an earlier one."""
        self._is_warm = is_warm
        self._files, self._stages = files, stages
        self._shards = [len(replace(plan, stages=plan.stages[:n]).shards()) if n else 0 for n in range(stages + 1)]

    @property
    def earlier(self) -> pa.Table | None:
        """The settings of an earlier sweep, if this one learns from it.

        Raises:
            StoreError: their file is missing or damaged.
        """
        return read_warm_start(self._files).settings if self._is_warm else None

    def __len__(self) -> int:
        """Return the number of stages."""
        return self._stages

    def __getitem__(self, index: int) -> pa.Table:  # type: ignore[override]
        """Return the results of a stage.

        Raises:
            StoreError: a shard of it is missing or damaged.
        """
        place = range(self._stages)[index]
        indices = range(self._shards[place], self._shards[place + 1])
        schema = self._files.shards.schema(indices[0])
        scalars = [f.name for f in schema if not pa.types.is_list(f.type) and f.name not in _CHANGING]
        tables = [table.replace_schema_metadata() for table in self._files.shards.read_many(indices, scalars)]
        return pa.concat_tables(tables)


def next_stage(
    files: SweepFiles, prepared: PreparedSweep, stages: int, workers: Workers | None = None
) -> PlanStage | None:
    """Return the stage that follows the first ``stages`` stages of a sweep, or None if the search is complete.

    All shards of those stages must be stored.

    Args:
        files: the sweep.
        prepared: the same sweep, with at least those stages in its plan.
        stages: the number of stages that have run.
        workers: what computes the stage; by default this machine's cores, a shard on each.

    Raises:
        StoreError: a shard is damaged.
        ConfigError: the search method returns too many trials.
    """
    config, plan = prepared.config, replace(prepared.plan, stages=prepared.plan.stages[:stages])
    method = search_method(config.method)
    if not method.is_adaptive:
        return None
    history = StoredHistory(files, plan, stages, is_warm=config.warm_start is not None)
    stage = method.next_stage(SearchSpace.of(config, plan.starts), history)
    if stage is None:
        return None
    planned = plan_stage(plan, stage, config, prepared.task, files.config_location, workers=workers)
    return planned if len(planned) else None  # no trials: the sweep already has them all
