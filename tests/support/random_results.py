"""Sweeps of made-up trials, for tests that compare sweeps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sgdcore.verdict import VERDICTS
from sweeps.config.loader import parse
from sweeps.planning.shards import Shard, ShardResult
from sweeps.store.store import Store, SweepFiles
from tests.support.documents import document

SETTING = ["lr", "momentum", "weight_decay", "dampening", "nesterov", "seed"]


def trials(seed: int = 0, share: float = 1.0, context: str = "same") -> pd.DataFrame:
    """Return some trials of a grid of 60, with random outcomes; ids are hashes of context and setting."""
    rng = np.random.default_rng(seed)
    lr, momentum, run_seed = (
        part.ravel() for part in np.meshgrid([0.01, 0.02, 0.04, 0.08, 0.16], [0, 0.5, 0.9], range(4), indexing="ij")
    )
    frame = pd.DataFrame({"lr": lr, "momentum": momentum, "seed": run_seed.astype(np.int64)})
    frame = frame[rng.random(len(frame)) < share].reset_index(drop=True)
    frame = frame.assign(weight_decay=0.0, dampening=0.0, nesterov=False, trial=np.arange(len(frame)))
    named = [f"{context} {row.lr} {row.momentum} {row.seed}" for row in frame.itertuples()]
    frame["trial_id"] = [hashlib.blake2b(name.encode(), digest_size=16).hexdigest() for name in named]
    frame["verdict"] = rng.choice(VERDICTS, len(frame))
    frame["final_loss"] = rng.choice([0.0, 1e-9, 0.5, 0.75, 1e9], len(frame))
    lost = (frame["verdict"] == "diverged") & (rng.random(len(frame)) < 0.3)
    return frame.assign(final_loss=frame["final_loss"].mask(lost))


def stored(
    store: Store, sweep_id: str, rows: pd.DataFrame, cuts: Sequence[int] = (), missing: int = 0, **facts: Any
) -> SweepFiles:
    """Store a sweep of these rows, in shards that end at the cuts; the last ``missing`` shards are left out.

    Shard files are numbered in the order of trials; ``facts`` are keys of its manifest, ``config`` of its sweep file.
    """
    config = parse(document(**facts.pop("config", {})), "test.yaml")
    bounds = sorted({0, *(cut for cut in cuts if 0 < cut < len(rows)), len(rows)})
    manifest = {"sweep_id": sweep_id, "name": config.name, "created": "2026-01-02T03:04:05+00:00", "context": "same"}
    manifest |= {"trials": len(rows), "shards": len(bounds) - 1, "swept": ["lr", "seed", "momentum"], "steps": 20}
    files = store.create(sweep_id, config.to_yaml(), manifest | facts)
    metadata = {"steps": "[0, 20]", "parameters": '["weight", "bias"]', "kernel": "made up", "device": "cpu"}
    for index, (start, stop) in enumerate(list(pairwise(bounds))[: len(bounds) - 1 - missing]):
        table = _table(rows.iloc[start:stop]).replace_schema_metadata(metadata)
        files.shards.write(ShardResult(Shard(index, start, stop), table, 0.0))
    return files


def _table(rows: pd.DataFrame) -> pa.Table:
    nothing = np.full(len(rows), np.nan)
    loss = rows["final_loss"].to_numpy()
    return pa.table(
        {
            "trial": rows["trial"].to_numpy(),
            "trial_id": rows["trial_id"].tolist(),
            **{name: rows[name].to_numpy() for name in SETTING},
            "verdict": rows["verdict"].tolist(),
            "initial_loss": np.ones(len(rows)),
            "final_loss": pa.array(loss, mask=np.isnan(loss)),
            "best_loss": pa.array(loss, mask=np.isnan(loss)),
            **{
                name: pa.array(nothing, mask=np.isnan(nothing)).cast(pa.int64())
                for name in ("best_step", "first_nonfinite_step", "steps_to_tolerance", "peak_step")
            },
            **{
                name: pa.array(nothing, mask=np.isnan(nothing))
                for name in ("overshoot_percent", "peak_value", "predicted_radius")
            },
            "overshoot_parameter": pa.nulls(len(rows), pa.string()),
            "final": [[0.5, 0.5]] * len(rows),
            "loss": [[1.0, float(value)] for value in np.nan_to_num(loss)],
        }
    )
