"""Stores for tests: computed sweeps, and the content of their files."""

from __future__ import annotations

import json

from sweeps.execution.worker import run_shard
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import ShardResult
from sweeps.store.store import Store, SweepFiles


def without_key(files: SweepFiles, text: str) -> None:
    """Remove text from a stored config, as if written by an earlier version, whose plan has no digest of it."""
    config, plan = files.config_path, json.loads(files.plan_path.read_text())
    assert text in config.read_text()
    config.write_text(config.read_text().replace(text, ""))
    plan.pop("config", None)
    files.plan_path.write_text(json.dumps(plan))


def computed_into(
    store: Store,
    sweep_id: str,
    prepared: PreparedSweep,
    created: str = "2026-01-01T00:00:00+00:00",
    **facts: object,
) -> SweepFiles:
    """Compute a sweep without logging it; ``facts`` are stored in its manifest."""
    manifest = {"sweep_id": sweep_id, "name": prepared.config.name, "created": created}
    manifest |= {**prepared.plan.summary(), "data": {"digest": prepared.task.dataset.digest}, **facts}
    files = store.create(sweep_id, prepared.config.to_yaml(), manifest)
    for shard in prepared.plan.shards():
        result = run_shard(prepared, shard)
        assert isinstance(result, ShardResult), result
        files.shards.write(result)
    return files


def contents(files: SweepFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files.shards.folder.iterdir()}
