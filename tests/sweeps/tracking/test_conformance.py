"""What every tracker does, whatever it writes to: one run per trial, the same after a kill, in line with the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.config.schema import SweepConfig
from sweeps.errors import TrackingError
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.publish import publish
from sweeps.pipeline.run import create, log, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.base import TrackedSweep, Tracker
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support.documents import TASKS
from tests.support.doubles import Silent, Stopped
from tests.support.json_lines_tracker import JsonLinesTracker

pytestmark = pytest.mark.usefixtures("no_figures")

MakeTracker = Callable[[], Tracker]
POLICIES = {"all": 1.0, "none": 0.0, "top:5": 5.0}


@pytest.fixture(params=["json lines", "MLflow by bulk", "MLflow by its client"])
def make_tracker(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> MakeTracker:
    """A new tracker of the same place, as another process would make it."""
    if request.param == "json lines":
        return lambda: JsonLinesTracker(tmp_path / "runs.jsonl")
    return lambda: MlflowTracker(store.tracking_uri, store.artifacts)


@pytest.fixture
def config(request: pytest.FixtureRequest, make_config: Callable[..., SweepConfig]) -> Callable[..., SweepConfig]:
    writer = "client" if "client" in request.node.callspec.params["make_tracker"] else "auto"

    def make(task: str = "line", **tracking: Any) -> SweepConfig:
        return make_config(tracking={"writer": writer, "model": "none"} | tracking, **TASKS[task])

    return make


def tracked(files: SweepFiles, prepared: PreparedSweep) -> TrackedSweep:
    return TrackedSweep.of(files, prepared)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("task", ["line", "network"])
def test_a_killed_sweep_is_logged_once_and_as_stored(
    config: Callable[..., SweepConfig], store: Store, make_tracker: MakeTracker, policy: str, task: str
) -> None:
    prepared = prepare(config(task, trials=policy))
    files = create(prepared, store, InlineExecutor(), make_tracker())
    with pytest.raises(Interrupted):
        run(files, prepared, Stopped(list, 1), make_tracker(), Silent())
    [parent] = [each for each in make_tracker().logged_runs(tracked(files, prepared)) if not each.trial_id]
    assert parent.facts["status"] == "KILLED"
    tracker = make_tracker()
    outcome = resume(files, InlineExecutor(), tracker, Silent())
    publish(outcome, tracker)
    assert (outcome.tracking_error, outcome.unlogged_trials) == (None, 0)
    audit = verify(files, make_tracker(), sample=2)
    wanted = {"all": audit.trials, "none": 0, "top:5": 5}[policy]
    assert (audit.differences, audit.logged) == ([], wanted)
    log(files, tracker := make_tracker(), Silent())  # again: nothing is logged twice
    assert len(list(tracker.logged_runs(tracked(files, prepared)))) == 1 + wanted
    assert all(run.not_finite == [] for run in tracker.logged_runs(tracked(files, prepared)))


def test_the_best_trials_model_is_logged_to_its_run(
    config: Callable[..., SweepConfig], store: Store, make_tracker: MakeTracker
) -> None:
    prepared, tracker = prepare(config(model="best")), make_tracker()
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    publish(outcome, tracker)
    assert outcome.tracking_error is None
    best = best_row(files)
    assert best["trial_id"] in tracker.runs_of({best["trial_id"]: best["trial"]})
    [run_id] = tracker.runs_of({best["trial_id"]: best["trial"]}).values()
    assert tracker.read_run(run_id).facts["status"] == "FINISHED"
    assert files.tracking_record.first()["complete"]


def best_row(files: SweepFiles) -> dict[str, Any]:
    rows = [row for table in files.shards.tables() for row in table.to_pylist() if row["verdict"] != "diverged"]
    return min(rows, key=lambda row: (row["final_loss"], row["steps_to_tolerance"] or 1e9, row["trial"]))


def test_a_place_that_is_not_there_is_refused_before_anything_is_computed(
    store: Store, make_prepared: Callable[..., PreparedSweep], tmp_path: Path
) -> None:
    for tracker in (
        JsonLinesTracker(tmp_path / "nowhere" / "runs.jsonl"),
        MlflowTracker(f"sqlite:///{tmp_path}/nowhere/m.db"),
    ):
        with pytest.raises(TrackingError):
            create(make_prepared(), store, InlineExecutor(), tracker)
        assert store.sweeps() == []
