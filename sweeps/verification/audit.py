"""Audit a sweep: check the store against the plan, MLflow against the store, and a sample against torch.optim.SGD."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from sweeps.errors import StoreError, SweepHeld
from sweeps.planning.prepared import prepare
from sweeps.results.ranking import best_trial
from sweeps.store.reopen import stored_config, with_stored_stages
from sweeps.store.store import SweepFiles
from sweeps.tracking.base import Tracker
from sweeps.verification.differences import Audit
from sweeps.verification.sample_audit import sample_differences
from sweeps.verification.store_audit import plan_differences, stage_differences, store_differences, verdict_differences
from sweeps.verification.tracking_audit import tracking_differences

_SAMPLE = 20  # default number of trials to recompute
# Maximum torch steps of the default sample: half a minute, or seven times that if all trials amplify rounding.
_SAMPLE_STEPS = 100_000


def verify(files: SweepFiles, tracker: Tracker, sample: int | None = None, seed: int = 0) -> Audit:
    """Audit a sweep without writing anything.

    Args:
        files: Files of the sweep.
        tracker: Tracker to which the sweep is logged.
        sample: Number of trials to retrain with torch.optim.SGD; by default 20, or fewer if they take many steps.
        seed: Seed for choosing the sample.

    Raises:
        SweepHeld: another process holds the sweep.
        InputError: the plan cannot be read, or the tracking URI cannot be reached.
    """
    if (holder := files.holder()) is not None:
        raise SweepHeld(f"sweep {files.sweep_id} is held by {holder}; verify it when that process is done")
    manifest = files.manifest()
    prepared = prepare(stored_config(files), files.config_location, files.planned().stages[0].trials_per_shard)
    changed = list(plan_differences(prepared, manifest))
    if not changed:
        prepared = with_stored_stages(prepared, files)
    audit = Audit(files.sweep_id, trials=len(prepared.plan), steps=prepared.plan.steps)
    if sample is None:
        sample = min(_SAMPLE, _SAMPLE_STEPS // max(1, prepared.plan.steps))
        audit.curtailed = sample < min(_SAMPLE, len(prepared.plan))
    audit.differences += changed
    if audit.differences:
        return audit  # the store cannot be compared with a different plan
    tracker.check_readable()
    audit.differences += store_differences(prepared, files, audit)
    if not audit.differences:
        audit.differences += stage_differences(prepared, files)
    if not (prepared.task.is_quadratic or audit.differences):
        audit.differences += verdict_differences(prepared, files)
    with suppress(StoreError):  # a damaged shard, which store_differences() reports
        best = best_trial(files, prepared.config)
        audit.best = best.value if best is not None else None
    audit.differences += tracking_differences(prepared, files, tracker, audit)
    audit.differences += sample_differences(prepared, files, audit, np.random.default_rng(seed), sample)
    return audit
