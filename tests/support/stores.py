"""Stores for tests: computed sweeps, and what their files hold."""

from __future__ import annotations

from sweeps.execution.worker import ShardResult, Work, run_shard
from sweeps.store.store import Store, SweepFiles


def computed_into(
    store: Store,
    sweep_id: str,
    work: Work,
    created: str = "2026-01-01T00:00:00+00:00",
    **facts: object,
) -> SweepFiles:
    """A sweep that is computed and not logged; ``facts`` are kept in its manifest."""
    manifest = {"sweep_id": sweep_id, "name": work.config.name, "created": created}
    manifest |= {**work.plan.summary(), "data": {"digest": work.task.dataset.digest}, **facts}
    files = store.create(sweep_id, work.config.to_yaml(), manifest)
    for shard in work.plan.shards():
        result = run_shard(work, shard)
        assert isinstance(result, ShardResult), result
        files.write_shard(result)
    return files


def contents(files: SweepFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in files.shards_folder.iterdir()}
