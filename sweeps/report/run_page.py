"""The content of a sweep's parent run in MLflow: a note, figures, a table and a curve."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sweeps.report.figures.static import stills
from sweeps.report.mlflow_note import note
from sweeps.report.trial_tables import best_trials
from sweeps.results.results import Results
from sweeps.store.store import SweepFiles
from sweeps.tracking.base import ModelPlace, RunPage

if TYPE_CHECKING:
    from sweeps.tracking.base import Tracker

TABLE = "best_trials.json"
_TABLE_ROWS = 100
_MAX_POINTS = 500  # points of a curve; MLflow accepts up to 1,000 per call


def run_page(
    results: Results, tracker: Tracker, place: dict[str, Any], model: Callable[[], ModelPlace | None]
) -> RunPage:
    """Build the page of a sweep from its stored trials.

    Args:
        results: Results of the sweep.
        tracker: Tracker that logged the trials' runs.
        place: The parent run's ``experiment_id`` and ``run_id``.
        model: Returns the best trial's model, if it is logged; called once the figures are drawn.
    """
    artifacts = {f"figures/{name}": content for name, content in stills(results).items()}
    logged = model()
    table = best_trials(results, _TABLE_ROWS)
    numbers = {str(row["trial_id"]): int(row["trial"]) for row in results.ids(table["trial"].tolist())}
    runs = {numbers[trial_id]: run_id for trial_id, run_id in tracker.runs_of(numbers).items()}
    if len(table):
        artifacts[TABLE] = _table(table.assign(run_id=table["trial"].map(runs)))
    metric = results.metric
    complete = results.stored == results.planned  # later trials could change the curve
    return RunPage(
        note=note(results, place, runs, logged, list(artifacts)),
        curves={f"best_so_far/{metric}": best_so_far(results.files, metric)} if complete else {},
        artifacts=artifacts,
        tables=(TABLE,) if len(table) else (),
    )


def best_so_far(files: SweepFiles, metric: str) -> list[tuple[int, float]]:
    """Return (trial, metric) of each trial that did not diverge and beats all before it, and of the last trial."""
    points: list[tuple[int, float]] = []
    last = 0
    for table in files.shards.tables(["trial", "verdict", metric]):
        last = pc.max(table["trial"]).as_py()
        table = table.filter(pc.and_(pc.not_equal(table["verdict"], "diverged"), pc.is_valid(table[metric])))
        values = table[metric].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False)
        before = np.minimum.accumulate(np.concatenate([[points[-1][1] if points else np.inf], values]))[:-1]
        better = values < before
        points += zip(table["trial"].to_numpy()[better].tolist(), values[better].tolist(), strict=True)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MAX_POINTS)).round().astype(int))
    points = [points[i] for i in chosen]
    return [*points, (last, points[-1][1])] if points and points[-1][0] < last else points


def _table(frame: pd.DataFrame) -> bytes:
    """Serialise a table in the format of ``mlflow.log_table``, readable by ``mlflow.load_table``, with all digits."""
    known = frame.replace([np.inf, -np.inf], np.nan).notna()  # a clipping that is off has the limit inf
    rows = frame.astype(object).where(known, None).to_numpy().tolist()
    return json.dumps({"columns": list(frame), "data": rows}, ensure_ascii=False, allow_nan=False).encode()
