"""Publishing of a sweep: close its parent run in MLflow with totals, model, page and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.compute as pc

from sgdcore.verdict import VERDICTS
from sweeps.pipeline.outcome import SweepOutcome
from sweeps.results.ranking import best_trials
from sweeps.store.store import SweepFiles
from sweeps.tracking.base import ModelPlace, TrackedSweep, Tracker
from sweeps.tracking.names import BEST_TRIAL, TRIAL_COUNT

if TYPE_CHECKING:
    from sweeps.results.results import Results


def publish(outcome: SweepOutcome, tracker: Tracker, results: Results | None = None) -> None:
    """Close the sweep's parent run: log counts, the best trial and its model, a page, the shards and the report.

    A tracking error is recorded in the outcome, not raised.

    Args:
        outcome: the outcome of a sweep whose trials are all logged.
        tracker: the tracker.
        results: the sweep's results, if they are already loaded.
    """
    from sweeps.report.run_page import run_page
    from sweeps.results.results import load_results

    files, prepared = outcome.files, outcome.prepared
    if "deleted" in outcome.tracking:
        files.tracking_record.write(outcome.tracking | {"complete": True})
        return
    sweep = TrackedSweep.of(files, prepared)
    best = best_trials(files, prepared.config.metric.name, 1)
    metrics, tags = _totals(files, prepared.config.metric.name, best)
    complete = outcome.failed_trials == 0
    try:
        model = _log_best_model(outcome, tracker, best) if prepared.config.tracking.model == "best" else None
        page = run_page(results or load_results(files), tracker, outcome.tracking, model)
        tracker.finish(sweep, metrics, tags, complete, page)
    except Exception as error:  # noqa: BLE001 - the results are in the store, and resume logs the rest
        outcome.tracking_error = error
        return
    outcome.tracking["complete"] = complete
    files.tracking_record.write(outcome.tracking)


def _log_best_model(outcome: SweepOutcome, tracker: Tracker, best: dict[int, list[int]]) -> ModelPlace | None:
    """Log the best trial's model. Return its location; None if there is no best trial."""
    from sweeps.pipeline.best_model import best_model

    files, prepared = outcome.files, outcome.prepared
    for shard, [trial] in best.items():
        model = best_model(files, prepared, shard, trial)
        run_id = tracker.runs_of({model.trial_id: trial}).get(model.trial_id)
        return tracker.log_model(model, run_id, prepared.config.registered_name)
    return None


def _totals(files: SweepFiles, metric: str, best: dict[int, list[int]]) -> tuple[dict[str, float], dict[str, str]]:
    counts = dict.fromkeys(VERDICTS, 0)
    for table in files.shards.tables(["verdict"]):
        for entry in pc.value_counts(table["verdict"]).to_pylist():
            counts[entry["values"]] += entry["counts"]
    trials = sum(counts.values())
    metrics = {"trials": float(trials), **{f"trials/{verdict}": float(n) for verdict, n in counts.items()}}
    tags = {TRIAL_COUNT: str(trials)}
    for index, [trial] in best.items():
        table = files.shards.read(index, ["trial", "trial_id", metric])
        [row] = table.filter(pc.equal(table["trial"], trial)).to_pylist()
        metrics[f"best/{metric}"] = row[metric]
        tags[BEST_TRIAL] = row["trial_id"]
    return metrics, tags
