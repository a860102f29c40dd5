"""Sweep files for tests: the shipped ones, and small ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


SWEEP_FILES = sorted((ROOT / "configs").glob("*.yaml"))


def document(tracking: Mapping[str, object] | None = None, **changes: object) -> dict[str, object]:
    """Return a small sweep file: the 5-point line, 12 trials in 3 shards; ``changes`` replace keys.

    No model is logged unless ``tracking`` says so, because that takes longer than the trials.
    """
    return {
        "name": "small",
        "task": {"dataset": {"kind": "line"}, "model": {"kind": "linear"}},
        "training": {"epochs": 4},
        "parameters": {
            "lr": {"values": [0.01, 0.02, 0.03]},
            "momentum": {"values": [0, 0.9]},
            "weight_decay": {"values": [0, 0.1]},
            "init.weight": {"value": -0.5},
            "init.bias": {"value": 0.5},
        },
        "record": {"points": 4},
        "execution": {"trials_per_shard": 4},
        "tracking": {"model": "none", **(tracking or {})},
    } | changes


TASKS: dict[str, dict[str, Any]] = {
    "line": {},
    "shuffled": {
        "task": {"dataset": {"kind": "linear", "n": 12, "d": 9, "validation": 0.2}},
        "training": {"epochs": 2, "order": "shuffled", "batch_size": 3},
        "parameters": {"lr": {"min": 0.001, "max": 1, "count": 6}, "momentum": {"values": [0, 0.9]}},
        "seeds": [3, 4],
    },
    "network": {
        "task": {"dataset": {"kind": "sine", "n": 9}, "model": {"kind": "mlp", "hidden": [3]}},
        "training": {"epochs": 5, "batch_size": 3},
        "parameters": {"lr": {"min": 0.001, "max": 1, "count": 11}, "weight_decay": {"values": [0, 0.1]}},
    },
}
