"""Audit of the store: plan the sweep again, and check the stages, every shard, and sweep-wide verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sgdcore import Thresholds
from sgdcore.verdict import VERDICTS
from sweeps.config.schema import HYPERPARAMETERS
from sweeps.execution.shard_table import shard_metadata
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import Shard
from sweeps.results.final_verdicts import final_verdicts
from sweeps.search.trial_table import TrialTable
from sweeps.store.next_stage import next_stage
from sweeps.store.store import SweepFiles
from sweeps.verification.differences import Audit, Difference, readable_table

_ROUNDING = 1e-9


def plan_differences(prepared: PreparedSweep, manifest: dict[str, Any]) -> Iterator[Difference]:
    """Check that plan.json describes the plan that follows from the config and the data now."""
    names = {"context": "digest of data, model and training", "data": "digest of the data"}
    facts = prepared.plan.summary() | {"data": prepared.task.dataset.digest}
    found = manifest | {"data": manifest.get("data", {}).get("digest")}
    for key in ("data", "context", "trials", "shards", "steps", "parameters"):
        if found.get(key) != facts[key]:
            yield Difference(names.get(key, key), "plan.json", str(found.get(key)), f"{facts[key]} when planned again")


def stage_differences(prepared: PreparedSweep, files: SweepFiles) -> Iterator[Difference]:
    """Check that each stage follows from the config and the results of earlier stages; requires all shards."""
    stages = prepared.plan.stages
    for index in range(1, len(stages) + 1):
        follows = next_stage(files, prepared, index)
        expected = None if follows is None else TrialTable.of(follows.trials)
        found = None if index == len(stages) else TrialTable.of(stages[index].trials)
        if not _same(expected, found):
            planned, stored = (0 if table is None else len(table) for table in (expected, found))
            yield Difference("stage", f"stage {index}", f"{planned:,} trials", f"{stored:,} different trials")
            return
    if not files.planned().is_complete:
        yield Difference("stages", "stages.json", "a complete search", "an incomplete search")


def _same(expected: TrialTable | None, found: TrialTable | None) -> bool:
    """Return whether two tables have the same trials, up to what processors round differently in a search method."""
    if expected is None or found is None:
        return expected is found
    same_shape = len(expected) == len(found) and set(expected.names) == set(found.names)
    return same_shape and all(
        np.allclose(expected[name], found[name], rtol=_ROUNDING, atol=0, equal_nan=True) for name in expected.names
    )


def store_differences(prepared: PreparedSweep, files: SweepFiles, audit: Audit) -> Iterator[Difference]:
    """Check that every planned trial is stored once, in its row, and that numbers are finite or null."""
    done = files.shards.done()
    for index in sorted(files.shards.stray()):
        yield Difference("shard", f"{index:05}.parquet", "no shard with this number", "a file")
    for shard in prepared.plan.shards():
        where = f"{shard.index:05}.parquet"
        if shard.index not in done:
            tries = files.shards.tries(shard.index)
            yield Difference(
                "shard", where, f"{len(shard)} trials", f"no file after {tries} tries" if tries else "no file"
            )
            continue
        table = readable_table(files, shard.index)
        if table is None:
            yield Difference("shard", where, f"{len(shard)} trials", "a damaged file; remove it and resume the sweep")
            continue
        found = [Difference(what, where, *facts) for what, *facts in _shard_differences(prepared, shard, table)]
        yield from found
        audit.stored += 0 if found else len(shard)
        audit.verdicts.update(table["verdict"].to_pylist())


def verdict_differences(prepared: PreparedSweep, files: SweepFiles) -> Iterator[Difference]:
    """Check verdicts that depend on the best loss of the whole sweep."""
    for index, table, judged in final_verdicts(files, Thresholds(**prepared.config.verdict.model_dump())):
        if not table.equals(judged):
            yield Difference("verdicts", f"{index:05}.parquet", "verdicts from the sweep's losses", "others")


def _shard_differences(prepared: PreparedSweep, shard: Shard, table: pa.Table) -> Iterator[tuple[str, str, str]]:
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    trials = prepared.plan.trials(shard.start, shard.stop)
    prepared = prepared.at(trials)
    for key, fact in shard_metadata(prepared, metadata.get("kernel", ""), metadata.get("device", "")).items():
        since = metadata.get(key, fact if key == "loss_scale" else None)  # earlier shards have no scale
        if since != fact:
            yield key, fact, str(metadata.get(key))
    columns: dict[str, list[Any]] = {"trial": trials.number.tolist(), "trial_id": prepared.plan.ids(trials)}
    columns |= {name: getattr(trials.hyperparams, name).tolist() for name in HYPERPARAMETERS}
    columns |= {
        name: [None if np.isinf(value) or np.isnan(value) else value for value in values.tolist()]
        for name, values in prepared.plan.options.effective(trials.hyperparams, trials.options).items()
    }
    columns["seed"] = trials.seed.tolist()
    for name, values in columns.items():
        found = table[name].to_pylist() if name in table.column_names else []
        if len(found) != len(values):
            yield f"rows of {name}", str(len(values)), str(len(found))
        elif found != values:
            row = next(row for row, pair in enumerate(zip(values, found, strict=True)) if pair[0] != pair[1])
            yield f"{name} of trial {shard.start + row}", str(values[row]), str(found[row])
    for name in table.column_names:
        flat = table[name].combine_chunks()
        flat = flat.flatten() if pa.types.is_list(flat.type) else flat
        if pa.types.is_floating(flat.type) and not pc.all(pc.is_finite(flat), min_count=0).as_py():
            yield name, "finite values or nulls", "non-finite values"
    if strange := set(table["verdict"].to_pylist()) - set(VERDICTS):
        yield "verdict", f"one of {', '.join(VERDICTS)}", ", ".join(map(str, strange))
