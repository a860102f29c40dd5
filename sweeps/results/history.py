"""The history of a store: one row per finished sweep, in order of creation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from sgdcore.verdict import VERDICTS
from sweeps.errors import StoreError, SweepsError
from sweeps.results.key_metrics import KeyMetrics
from sweeps.results.results import load_results
from sweeps.store.store import Store, SweepFiles

FINISHED = ("failed", "computed", "logged", "reported")  # the states of a sweep that has figures
_COLUMNS = ("id", "name", "created", "state", "tags", "trials", "metric", "best", "stable_share", *VERDICTS)


def history(store: Store, name: str | None = None, tags: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return the key metrics of each finished sweep, oldest first.

    Args:
        store: The store to read.
        name: Include only sweeps with this name.
        tags: Include only sweeps that have all of these tags.

    Returns:
        One row per sweep: id, name, created (UTC), state, tags (a dict), trials (the number stored), metric and its
        best value (NaN if every trial diverged), stable_share, and the number of trials by verdict. A sweep with a
        damaged file has the state ``damaged`` and no figures.
    """
    rows = [row for files in reversed(store.sweeps()) if (row := _row(files, name, tags or {})) is not None]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    frame["created"] = pd.to_datetime(frame["created"], utc=True, errors="coerce", format="ISO8601")
    counts = dict.fromkeys(("trials", *VERDICTS), "Int64")
    return frame.astype({"best": "float64", "stable_share": "float64", **counts})


def _row(files: SweepFiles, name: str | None, tags: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the sweep's row, or None if it is filtered out or not finished."""
    try:
        manifest = files.manifest()
    except StoreError:
        return None if name or tags else {"id": files.sweep_id, "state": "damaged"}
    own: dict[str, str] = manifest.get("tags", {})
    if name not in (None, manifest["name"]) or any(own.get(key) != value for key, value in tags.items()):
        return None
    row = {"id": files.sweep_id, "name": manifest["name"], "created": manifest["created"], "tags": own}
    try:
        state = files.state()
        return row | {"state": state} | _figures(files) if state in FINISHED else None
    except SweepsError:
        return row | {"state": "damaged"}


def _figures(files: SweepFiles) -> dict[str, Any]:
    figures = KeyMetrics.of(load_results(files))
    return {
        "trials": figures.stored,
        "metric": figures.metric,
        "best": math.nan if figures.best is None else figures.best,
        "stable_share": figures.stable_share,
        **figures.verdicts,
    }
