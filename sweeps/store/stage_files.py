"""Stage files: the trials of all stages after the first, stored before they run.

The first stage follows from the config alone, and plan.json describes it. A sweep with an adaptive search method also
has a file stages.json, which lists the later stages, and a table stages/00001.parquet ... for each of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sweeps.errors import StoreError
from sweeps.planning.plan import PlanStage
from sweeps.planning.shards import Shards
from sweeps.search.trial_table import TrialTable
from sweeps.store.json_files import write_json
from sweeps.store.manifest import StagesFile, read_document
from sweeps.store.shard_files import read_table, write_table
from sweeps.store.sweep_part import SweepPart

STAGES = "stages.json"


@dataclass(frozen=True)
class StageRecord:
    """The description of a planned stage without its trials."""

    trials: int
    trials_per_shard: int
    swept: tuple[str, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    merged: dict[str, int] = field(default_factory=dict)
    parts: tuple[int, ...] = ()  # numbers of trials of one batch size each, as in PlanStage

    @property
    def packs(self) -> tuple[tuple[int, int], ...]:
        """The number of trials of each part, and the most trials of its shards."""
        return tuple((trials, self.trials_per_shard) for trials in self.parts or (self.trials,))

    @property
    def shards(self) -> int:
        """The number of shards."""
        return len(Shards(self.packs))


class StageFiles(SweepPart):
    """The stages of one sweep after its first."""

    def records(self) -> tuple[list[StageRecord], bool]:
        """Return the stages after the first, and whether the search is complete.

        Raises:
            StoreError: stages.json is damaged.
        """
        if not self._storage.exists(STAGES):
            return [], True
        _, file = read_document(self._storage, STAGES, StagesFile)
        found = [
            StageRecord(
                stage.trials,
                stage.trials_per_shard,
                tuple(stage.swept),
                stage.dropped,
                stage.merged,
                tuple(stage.parts),
            )
            for stage in file.stages
        ]
        return found, file.complete

    def read_all(self) -> list[PlanStage]:
        """Return the stages after the first.

        Raises:
            StoreError: stages.json or a table is damaged.
        """
        return [self._read(index, record) for index, record in enumerate(self.records()[0], start=1)]

    def add(self, stage: PlanStage) -> None:
        """Store the next stage: first its table, then its record.

        Raises:
            StoreError: it cannot be written.
        """
        records, _ = self.records()
        table = TrialTable.of(stage.trials)
        self._check_lease()
        write_table(self._storage, _table(len(records) + 1), pa.table(dict(table.columns)))
        facts = stage.swept, stage.dropped, stage.merged, stage.parts
        record = StageRecord(len(stage), stage.trials_per_shard, *facts)
        self._write([*records, record], complete=False)

    def complete(self) -> None:
        """Record that the search is complete."""
        records, complete = self.records()
        if not complete:
            self._write(records, complete=True)

    def _read(self, index: int, record: StageRecord) -> PlanStage:
        table = read_table(self._storage, _table(index))
        columns = {name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in table.column_names}
        trials = TrialTable(columns)
        if len(trials) != record.trials:
            where = self._storage.locate(_table(index))
            raise StoreError(f"{where}: damaged: {len(trials):,} trials instead of {record.trials:,}")
        facts = record.dropped, record.merged, record.swept, record.parts
        return PlanStage((trials,), record.trials_per_shard, *facts)

    def _write(self, records: list[StageRecord], complete: bool) -> None:
        self._check_lease()
        write_json(self._storage, STAGES, stages_document(records, complete), indent=2)


def stages_document(records: list[StageRecord], complete: bool) -> dict[str, Any]:
    """Return the content of stages.json."""
    return {"stages": [asdict(record) for record in records], "complete": complete}


def _table(index: int) -> str:
    return f"stages/{index:05}.parquet"
