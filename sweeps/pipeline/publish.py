"""Publishing of a sweep: close its parent run in MLflow with totals, model, page and files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow.compute as pc

from sgdcore.verdict import VERDICTS
from sweeps.pipeline.outcome import SweepOutcome
from sweeps.results.ranking import BestTrial, best_trial
from sweeps.store.store import SweepFiles
from sweeps.tracking.base import ModelPlace, TrackedSweep, Tracker
from sweeps.tracking.names import BEST_TRIAL, TRIAL_COUNT


def publish(outcome: SweepOutcome, tracker: Tracker) -> None:
    """Close the sweep's parent run: log counts, the best trial and its model, a page, the shards and the report.

    A tracking error is recorded in the outcome, not raised.

    Args:
        outcome: the outcome of a sweep whose trials are all logged.
        tracker: the tracker.
    """
    from sweeps.report.run_page import run_page
    from sweeps.results.results import load_results

    files, prepared = outcome.files, outcome.prepared
    if "deleted" in outcome.tracking:
        files.tracking_record.write(outcome.tracking | {"complete": True})
        return
    sweep = TrackedSweep.of(files, prepared)
    best = best_trial(files, prepared.config)
    metrics, tags = _totals(files, prepared.config.metric_name, best)
    complete = outcome.failed_trials == 0
    try:
        with ThreadPoolExecutor(1) as pool:
            model: Callable[[], ModelPlace | None] = partial(_log_best_model, outcome, tracker, best)
            if tracker.is_embedded:  # while the figures are drawn; an interrupt would have to wait for a server
                model = pool.submit(model).result
            page = run_page(outcome.results or load_results(files), tracker, outcome.tracking, model)
        tracker.finish(sweep, metrics, tags, complete, page)
    except Exception as error:  # noqa: BLE001 - the results are in the store, and resume logs the rest
        outcome.tracking_error = error
        return
    outcome.tracking["complete"] = complete
    files.tracking_record.write(outcome.tracking)


def _log_best_model(outcome: SweepOutcome, tracker: Tracker, best: BestTrial | None) -> ModelPlace | None:
    """Log the best trial's model. Return its location; None if there is no best trial or no model is wanted."""
    files, prepared = outcome.files, outcome.prepared
    if best is None or prepared.config.tracking.model != "best":
        return None
    from sweeps.pipeline.best_model import best_model

    model = best_model(files, prepared, best.shard, best.number)
    run_id = tracker.runs_of({model.trial_id: best.number}).get(model.trial_id)
    return tracker.log_model(model, run_id, prepared.config.registered_name)


def _totals(files: SweepFiles, metric: str, best: BestTrial | None) -> tuple[dict[str, float], dict[str, str]]:
    counts = dict.fromkeys(VERDICTS, 0)
    for table in files.shards.tables(["verdict"]):
        for entry in pc.value_counts(table["verdict"]).to_pylist():
            counts[entry["values"]] += entry["counts"]
    trials = sum(counts.values())
    metrics = {"trials": float(trials), **{f"trials/{verdict}": float(n) for verdict, n in counts.items()}}
    tags = {TRIAL_COUNT: str(trials)}
    if best is not None:
        metrics[f"best/{metric}"] = best.value
        tags[BEST_TRIAL] = best.trial_id
    return metrics, tags
