"""Results are shown as soon as all trials are computed, while MLflow still has to take them."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest

from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted, SweepOutcome
from sweeps.pipeline.run import create, run
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import Store
from tests.support.doubles import Silent, Untracked

NETWORK = {
    "task": {"dataset": {"kind": "line"}, "model": {"kind": "mlp", "hidden": [2]}},
    "training": {"epochs": 4, "batch_size": 2},
    "parameters": {"lr": {"values": [0.01, 0.02]}},
}


class Slow(Untracked):
    """A tracker that logs nothing before the results are shown."""

    def __init__(self) -> None:
        self.shown, self.events = threading.Event(), list[str]()

    def log_trials(self, table: pa.Table, steps: list[int]) -> Iterator[int]:
        assert self.shown.wait(60)
        self.events.append("logged")
        yield len(table)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tracking": {"trials": "top:2"}}, NETWORK],
    ids=["linear", "best trials only", "network"],
)
def test_results_are_shown_before_they_are_logged(
    store: Store, make_prepared: Callable[..., PreparedSweep], changes: dict[str, Any]
) -> None:
    prepared, tracker = make_prepared(**changes), Slow()

    def show(outcome: SweepOutcome) -> None:
        assert outcome.files.stored_trials() == len(prepared.plan)
        assert outcome.files.shards.read(0, ["verdict"])["verdict"].null_count == 0
        tracker.events.append("shown")
        tracker.shown.set()

    files = create(prepared, store, InlineExecutor(), tracker)
    run(files, prepared, InlineExecutor(), tracker, Silent(), show)
    assert tracker.events[0] == "shown"
    assert "logged" in tracker.events


def test_the_report_of_a_short_sweep_is_written_while_it_is_logged(
    store: Store, make_prepared: Callable[..., PreparedSweep]
) -> None:
    prepared, tracker = make_prepared(), Slow()

    def show(outcome: SweepOutcome) -> None:
        tracker.events.append("shown")

    def report(outcome: SweepOutcome) -> None:
        assert outcome.files.stored_trials() == len(prepared.plan)
        tracker.events.append("reported")
        tracker.shown.set()

    files = create(prepared, store, InlineExecutor(), tracker, late=True)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent(), show, report)
    assert tracker.events[:3] == ["shown", "reported", "logged"]
    assert (outcome.unlogged_trials, outcome.tracking_error) == (0, None)


@pytest.mark.parametrize("late", [False, True], ids=["while showing", "while reporting"])
def test_ctrl_c_after_the_results_keeps_everything_computed(
    store: Store, make_prepared: Callable[..., PreparedSweep], late: bool
) -> None:
    prepared, tracker = make_prepared(), Untracked()

    def interrupt(outcome: SweepOutcome) -> None:
        raise KeyboardInterrupt

    files = create(prepared, store, InlineExecutor(), tracker, late=late)
    callbacks = (None, interrupt) if late else (interrupt,)
    with pytest.raises(Interrupted) as interrupted:
        run(files, prepared, InlineExecutor(), tracker, Silent(), *callbacks)
    assert interrupted.value.outcome.files.stored_trials() == len(prepared.plan)
