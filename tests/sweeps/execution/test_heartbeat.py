"""Heartbeats: how far a shard is can be seen before it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.cli.terminal import LineProgress
from sweeps.execution.executor import Executor
from sweeps.execution.inline import InlineExecutor
from sweeps.execution.progress import Counts
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.run import create, run
from sweeps.planning.prepared import PreparedSweep
from sweeps.planning.shards import ShardResult
from sweeps.service.monitoring import progress_file
from sweeps.service.monitoring.progress_file import ProgressReporter
from sweeps.store.store import Store
from tests.support.doubles import Silent, Untracked
from tests.support.processes import until

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"kind": "mlp", "hidden": [3]},
    "module": {"kind": "module", "module": "tests.support.network_modules:small"},
}


class Seen(Silent):
    def __init__(self) -> None:
        self.trials: list[float] = []

    def training(self, trials: float) -> None:
        self.trials.append(trials)


@pytest.mark.parametrize("model", MODELS)
def test_a_long_shard_is_seen_to_move_and_ctrl_c_ends_it(
    model: str, make_prepared: Callable[..., PreparedSweep], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its only shard would take days; Ctrl-C is pressed as soon as steps are counted."""
    monkeypatch.setattr(progress_file, "_SECONDS", 0.01)
    prepared = make_prepared(
        task={"dataset": {"kind": "linear", "n": 8, "d": 2}, "model": MODELS[model]},
        training={"epochs": 10**9, "batch_size": 4},
        parameters={"lr": {"values": [0.01, 0.02, 0.03]}},
        execution={"trials_per_shard": 3},
    )
    assert len(prepared.plan.shards()) == 1
    executor, shown = InlineExecutor(), Seen()
    counts: list[Counts] = []

    def interrupt(now: Counts) -> None:
        counts.append(now)
        if now.trial_steps and not any(before.trial_steps for before in counts[:-1]):
            signal.raise_signal(signal.SIGINT)

    files = create(prepared, store, executor, Untracked())  # type: ignore[arg-type]
    sinks = {"interrupt": interrupt}
    progress = ProgressReporter(shown, files, executor, sinks, print)
    with pytest.raises(Interrupted):
        run(files, prepared, executor, Untracked(), progress)  # type: ignore[arg-type]
    assert max(shown.trials) > 0
    assert max(now.trial_steps for now in counts) > 0
    assert {now.computed for now in counts} == {0}
    assert counts[0].trial_steps_planned == 3 * 2 * 10**9


@dataclass(frozen=True)
class Gate:
    """A shard writer that lets a shard end when a file appears."""

    path: Path

    def write(self, result: ShardResult) -> None:
        until(self.path.exists)


def test_any_executor_counts_the_steps_of_a_shard_that_has_not_ended(
    executor: Executor, make_prepared: Callable[..., PreparedSweep], tmp_path: Path
) -> None:
    prepared = make_prepared(execution={"trials_per_shard": 12})
    gated = replace(prepared, shard_writer=Gate(tmp_path / "open"))
    [shard] = prepared.plan.shards()
    results = executor.run(gated, [shard])
    outcomes: list[Any] = []
    thread = threading.Thread(target=lambda: outcomes.extend(results))
    thread.start()
    try:
        until(lambda: executor.trial_steps)
        assert executor.trial_steps == len(shard) * prepared.plan.steps
        assert outcomes == []
    finally:
        (tmp_path / "open").touch()
        thread.join()
    assert [outcome.shard for outcome in outcomes] == [shard]
    assert executor.trial_steps == 0


def test_lines_show_the_trials_in_training_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.cli.terminal._LINE_SECONDS", 0.0)
    progress = LineProgress()
    progress.begin(64, 0)
    progress.training(3.5)
    progress.computed(3)
    progress.end()
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("computed 0 of 64 (3.5 more in training, ")
    assert first.endswith(" s left)")
    assert second.startswith("computed 3 of 64 (0.5 more in training, ")
    assert last.startswith("computed 3 of 64 (")
    assert "training" not in last
