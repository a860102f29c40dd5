"""Sweeps of several stages: planned from stored results, the same however often they are killed, and verified."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeps.config.loader import load
from sweeps.config.schema import SweepConfig
from sweeps.errors import StoreError
from sweeps.execution.executor import ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import Interrupted
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard, ShardFailure
from sweeps.report.tables import report_tables
from sweeps.results.results import load_results
from sweeps.search import grid
from sweeps.search.base import NoHistory, SearchSpace, search_method
from sweeps.store.reopen import reopen
from sweeps.store.store import Store, SweepFiles
from sweeps.tracking.mlflow.tracker import MlflowTracker
from sweeps.verification.audit import verify
from tests.support import two_stages as two_stages_method
from tests.support.documents import ROOT, document
from tests.support.doubles import Silent, Untracked
from tests.support.forked import Forked
from tests.support.processes import until
from tests.support.stores import contents
from tests.support.two_stages import BEST, FACTORS, TwoStages

FIRST = 12  # trials of tests.support.documents.document()
SECOND = BEST * (len(FACTORS) - 1)
SIZE = 4  # trials per shard
TWO_STAGES = "from tests.support.two_stages import main; main()"


@pytest.fixture(autouse=True)
def two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "METHOD", TwoStages())


class Killed(InlineExecutor):
    """An executor that is interrupted after some shards, of all stages together."""

    def __init__(self, shards: int) -> None:
        self.left = shards

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        for outcome in islice(super().run(prepared, shards), self.left):
            self.left -= 1
            yield outcome
        if self.left == 0:
            raise KeyboardInterrupt


class Failing(InlineExecutor):
    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        first, *rest = shards
        yield ShardFailure(first, "RuntimeError: no")
        yield from super().run(prepared, rest)


def started(store: Store, prepared: PreparedSweep, sweep_id: str) -> SweepFiles:
    return create(prepared, store, InlineExecutor(), Untracked(), fresh=True, sweep_id=sweep_id)


def swept(store: Store, prepared: PreparedSweep, sweep_id: str = "aa") -> SweepFiles:
    files = started(store, prepared, sweep_id)
    run(files, prepared, InlineExecutor(), Untracked(), Silent())
    return files


def stages_of(files: SweepFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*files.folder.glob("stages/*"), files.folder / "stages.json"]}


def test_the_second_stage_follows_from_the_first(store: Store, make_prepared: Callable[..., PreparedSweep]) -> None:
    files = swept(store, make_prepared())
    planned = files.planned()
    assert [stage.trials for stage in planned.stages] == [FIRST, SECOND]
    assert planned.is_complete
    assert planned.stages[1].merged == {"the same trial more than once": BEST}
    table = pa.concat_tables(files.shards.tables())
    assert table["trial"].to_pylist() == list(range(FIRST + SECOND))
    assert len(set(table["trial_id"].to_pylist())) == FIRST + SECOND
    first, second = table.slice(0, FIRST), table.slice(FIRST)
    best = first.sort_by([("final_loss", "ascending")]).slice(0, BEST)
    new = sorted(lr * factor for lr in best["lr"].to_pylist() for factor in FACTORS if factor != 1)
    np.testing.assert_allclose(sorted(second["lr"].to_pylist()), new)
    assert reopen(files).plan.ids(reopen(files).plan.trials(0, FIRST + SECOND)) == table["trial_id"].to_pylist()
    assert files.state() == "computed"


@pytest.mark.parametrize("shards", range(1, 6))
def test_a_sweep_killed_in_any_stage_resumes_to_the_same_trials(
    store: Store, make_prepared: Callable[..., PreparedSweep], shards: int
) -> None:
    prepared = make_prepared()
    undisturbed, files = swept(store, prepared), started(store, prepared, "bb")
    with pytest.raises(Interrupted):
        run(files, prepared, Killed(shards), Untracked(), Silent())
    if shards < 5:  # with the last shard the sweep is complete
        assert files.state() == "interrupted"
    outcome = resume(files, InlineExecutor(), Untracked(), Silent())
    assert (outcome.failed_trials, len(outcome.prepared.plan)) == (0, FIRST + SECOND)
    assert contents(files) == contents(undisturbed)
    assert stages_of(files) == stages_of(undisturbed)


def test_a_kill_between_a_stages_table_and_its_record(
    store: Store, make_prepared: Callable[..., PreparedSweep]
) -> None:
    prepared = make_prepared()
    undisturbed, files = swept(store, prepared), started(store, prepared, "bb")
    with pytest.raises(Interrupted):
        run(files, prepared, Killed(3), Untracked(), Silent())
    (files.folder / "stages").mkdir()
    pq.write_table(pa.table({"lr": [1.0]}), files.folder / "stages" / "00001.parquet")  # not recorded: written again
    resume(files, InlineExecutor(), Untracked(), Silent())
    assert stages_of(files) == stages_of(undisturbed)


def test_no_stage_follows_one_that_lacks_a_shard(store: Store, make_prepared: Callable[..., PreparedSweep]) -> None:
    prepared = make_prepared()
    files = started(store, prepared, "aa")
    outcome = run(files, prepared, Failing(), Untracked(), Silent())
    assert (outcome.failed_trials, len(files.planned().stages)) == (SIZE, 1)
    assert files.state() == "failed"
    assert resume(files, InlineExecutor(), Untracked(), Silent()).failed_trials == 0
    assert contents(files) == contents(swept(store, prepared, "bb"))


def test_networks_and_best_trials_of_all_stages(store: Store, make_config: Callable[..., SweepConfig]) -> None:
    """Verdicts depend on the whole sweep, and are judged when its last stage is stored."""
    config = make_config(
        task={"dataset": {"kind": "sine", "n": 9}, "model": {"kind": "mlp", "hidden": [3]}},
        training={"epochs": 4, "batch_size": 3},
        parameters={"lr": {"min": 0.01, "max": 1, "count": 6}, "weight_decay": {"values": [0, 0.1]}},
        tracking={"trials": "top:5", "model": "none"},
    )
    prepared, tracker = prepare(config), MlflowTracker(store.tracking_uri, store.artifacts)
    files = create(prepared, store, InlineExecutor(), tracker)
    outcome = run(files, prepared, InlineExecutor(), tracker, Silent())
    assert outcome.tracking_error is None
    audit = verify(files, tracker, sample=4)
    unpublished = [found for found in audit.differences if found.where != "parent run"]
    assert (audit.trials, audit.stored, audit.logged, unpublished) == (FIRST + SECOND, FIRST + SECOND, 5, [])


def test_verify_finds_a_stage_that_does_not_follow(
    store: Store, make_prepared: Callable[..., PreparedSweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = swept(store, make_prepared(tracking={"trials": "none"}))
    tracker = MlflowTracker(store.tracking_uri)
    assert [found for found in verify(files, tracker).differences if found.what == "stage"] == []
    with monkeypatch.context() as patch:
        patch.setattr(two_stages_method, "FACTORS", (0.5, 0.8, 1.0, 1.1))
        [found] = [found for found in verify(files, tracker).differences if found.what == "stage"]
        assert str(found) == f"stage (stage 1): expected {SECOND} trials, found {SECOND} different trials"
    path = files.folder / "stages" / "00001.parquet"
    table = pq.read_table(path)
    doubled = pa.array(2 * table["lr"].to_numpy())
    pq.write_table(table.set_column(table.column_names.index("lr"), "lr", doubled), path)
    assert any(found.what.startswith("lr of trial") for found in verify(files, tracker).differences)
    path.unlink()
    with pytest.raises(StoreError, match=r"00001\.parquet: cannot be read"):
        verify(files, tracker)


def test_the_report_speaks_of_stages(store: Store, make_prepared: Callable[..., PreparedSweep]) -> None:
    results = load_results(swept(store, make_prepared()))
    assert (results.planned, results.stored) == (FIRST + SECOND, FIRST + SECOND)
    [table] = [table for table in report_tables(results) if table.key == "stages"]
    assert table.frame["trials"].tolist() == [FIRST, SECOND]
    best = [min(results.trials["final_loss"][part]) for part in (slice(0, FIRST), slice(FIRST, None))]
    np.testing.assert_array_equal(table.frame["best"], best)


def test_a_grid_has_one_stage(
    store: Store, make_config: Callable[..., SweepConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "METHOD", grid.GridSearch())
    config = make_config()
    files = swept(store, prepare(config))
    assert [stage.trials for stage in files.planned().stages] == [FIRST]
    assert not (files.folder / "stages.json").exists()
    assert "stages" not in {table.key for table in report_tables(load_results(files))}
    space = SearchSpace.of(config, ("weight", "bias"))
    stage = search_method("grid").next_stage(space, NoHistory())
    assert stage is not None
    assert sum(map(len, stage.trials)) == FIRST
    assert set(stage.trials[0].names) == set(space.columns)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_a_killed_process_resumes_in_its_second_stage(tmp_path: Path, store: Store, executor: str) -> None:
    """The command line with the method of two stages: SIGKILL when the second is planned, resume, verify."""
    parameters = {"lr": {"min": 0.001, "max": 0.03, "count": 12}, "momentum": {"values": [0, 0.9]}}
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(document(parameters=parameters, execution={"trials_per_shard": 1})))

    def start(*arguments: object) -> Forked:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"SWEEPS_STORE": str(store.root), "PYTHONPATH": str(ROOT)}
        return Forked([str(argument) for argument in arguments], tmp_path, environment, TWO_STAGES)

    def finished(*arguments: object) -> str:
        process = start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        return out

    killed = start("run", path, "--id", "aa", "--executor", executor)
    files = SweepFiles(store.root / "sweeps" / "aa")
    try:
        until(lambda: killed.poll() is not None or (files.exists() and len(files.planned().stages) == 2), pause=0.01)
        assert killed.poll() is None, killed.communicate()
    finally:
        killed.kill()
        killed.communicate(timeout=60)
    assert len(files.shards.done()) >= 24
    finished("resume", "aa", "--executor", executor)
    assert files.planned().is_complete
    assert len(files.shards.done()) == 24 + SECOND
    assert verify(files, MlflowTracker(store.tracking_uri), sample=4).differences == []
    assert contents(files) == contents(swept(store, prepare(load(path)), "bb"))
