"""A sweep that overlaps earlier ones has the shards of one that computed everything, byte for byte."""

import json
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from sweeps.config import strict_yaml
from sweeps.config.loader import parse
from sweeps.config.schema import SweepConfig
from sweeps.execution.executor import Executor, ShardOutcome
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.outcome import SweepOutcome
from sweeps.pipeline.run import create, resume, run
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.planning.shards import Shard, ShardResult
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.documents import TASKS, document
from tests.support.doubles import Silent, Untracked
from tests.support.hypothesis_profiles import examples
from tests.support.stores import contents

MakePrepared = Callable[..., PreparedSweep]


class Counting(InlineExecutor):
    """Counts the trials that are really computed."""

    def __init__(self) -> None:
        self.trials = 0

    def run(self, prepared: PreparedSweep, shards: Iterable[Shard]) -> Generator[ShardOutcome, None, None]:
        for result in super().run(prepared, shards):
            self.trials += len(result.table) if isinstance(result, ShardResult) else 0
            yield result


def swept(store: Store, prepared: PreparedSweep, executor: Executor | None = None, fresh: bool = False) -> SweepOutcome:
    executor = executor or InlineExecutor()
    files = create(prepared, store, executor, Untracked(), fresh)
    return run(files, prepared, executor, Untracked(), Silent())


def ids(files: SweepFiles) -> list[str]:
    return [trial_id for table in files.shards.tables(["trial_id"]) for trial_id in table["trial_id"].to_pylist()]


VALUES = {
    "lr": st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.05, 3.0]), min_size=1, max_size=4, unique=True),
    "momentum": st.lists(st.sampled_from([0, 0.5, 0.9]), min_size=1, max_size=3, unique=True),
    "weight_decay": st.lists(st.sampled_from([0, 0.1]), min_size=1, max_size=2, unique=True),
    "nesterov": st.just([False]) | st.just([True, False]),
}
GRIDS = st.fixed_dictionaries({name: values.map(lambda v: {"values": v}) for name, values in VALUES.items()})
SWEEPS = st.tuples(GRIDS, st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True), st.integers(1, 9))


def config(name: str, sweep: tuple[dict[str, Any], list[int], int]) -> SweepConfig:
    grid, seeds, size = sweep
    changes = TASKS[name] | {"parameters": grid, "seeds": seeds, "execution": {"trials_per_shard": size}}
    return parse(document(**changes), "test.yaml")


@pytest.mark.parametrize("name", ["line", pytest.param("shuffled", marks=pytest.mark.slow)])
@examples(3, 40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sweeps=st.lists(SWEEPS, min_size=2, max_size=4))
def test_reused_trials_are_those_that_would_have_been_computed(
    name: str, tmp_path_factory: pytest.TempPathFactory, sweeps: list[Any]
) -> None:
    here, there = Store(tmp_path_factory.mktemp("reusing")), Store(tmp_path_factory.mktemp("fresh"))
    known: set[str] = set()
    for sweep in sweeps:
        prepared, counting = prepare(config(name, sweep)), Counting()
        outcome = swept(here, prepared, counting)
        assert contents(outcome.files) == contents(swept(there, prepared, fresh=True).files)
        mine = ids(outcome.files)
        assert outcome.reused.total() == len(known & set(mine)) == len(prepared.plan) - counting.trials
        known |= set(mine)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 5}},
        {"record": {"points": 3}},
        {"verdict": {"rtol": 0.1}},
        {"task": {"dataset": {"kind": "line", "slope": 0.7}}},
        {"task": {"dataset": {"kind": "line"}, "model": {"kind": "polynomial", "degree": 1}}},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_other_results_are_not_taken_for_these(
    store: Store, make_prepared: MakePrepared, changes: dict[str, Any]
) -> None:
    swept(store, make_prepared())
    counting = Counting()
    assert not swept(store, make_prepared(**changes), counting).reused
    assert counting.trials == 12


def test_what_does_not_touch_the_results_does_not_hinder(store: Store, make_prepared: MakePrepared) -> None:
    first = swept(store, make_prepared()).files
    prepared = make_prepared(name="another", tracking={"trials": "none"}, execution={"trials_per_shard": 5}, metric={})
    assert swept(store, prepared).reused == {first.sweep_id: 12}
    assert not swept(store, prepared, fresh=True).reused


def test_networks_are_always_trained(store: Store, make_prepared: MakePrepared) -> None:
    for _ in range(2):
        assert not swept(store, make_prepared(**TASKS["network"])).reused


def test_what_another_kernel_or_device_gave_is_not_reused(store: Store, make_prepared: MakePrepared) -> None:
    prepared = make_prepared()
    files = swept(store, prepared).files
    for index, fact in ((0, {b"kernel": b"torch"}), (1, {b"device": b"cuda:0"})):
        table = files.shards.read(index)
        files.shards.replace(index, table.replace_schema_metadata(table.schema.metadata | fact))
    assert swept(store, prepared).reused == {files.sweep_id: 4}

    class OnGpu(InlineExecutor):
        def on_cpu(self, device: str) -> bool:
            return False

    assert not swept(store, prepared, OnGpu()).reused


def test_damaged_and_unfinished_sweeps_give_what_they_have(store: Store, make_prepared: MakePrepared) -> None:
    prepared = make_prepared()
    files = swept(store, prepared).files
    (files.shards.folder / "00000.parquet").write_bytes(b"PAR1")
    (files.shards.folder / "00001.parquet").unlink()
    again = swept(store, prepared)
    assert again.reused == {files.sweep_id: 4}
    files.plan_path.write_text("{")
    assert swept(store, prepared).reused == {again.files.sweep_id: 12}


def test_the_prefix_of_an_id_is_not_enough(store: Store, make_prepared: MakePrepared) -> None:
    prepared = make_prepared()
    files = swept(store, prepared).files
    table = files.shards.read(0)
    forged = [trial_id[:16] + "0" * 16 for trial_id in table["trial_id"].to_pylist()]
    files.shards.replace(0, table.set_column(1, "trial_id", [forged]))
    assert swept(store, prepared).reused == {files.sweep_id: 8}


def test_a_resumed_sweep_reuses_too(store: Store, make_prepared: MakePrepared) -> None:
    prepared = make_prepared()
    first = swept(store, prepared).files
    files = create(prepared, store, InlineExecutor(), Untracked())
    counting = Counting()
    assert resume(files, counting, Untracked(), Silent()).reused == {first.sweep_id: 12}
    assert counting.trials == 0
    assert contents(files) == contents(first)


@pytest.mark.slow
def test_reuse_on_ray(ray_executor: Executor, store: Store, make_prepared: MakePrepared) -> None:
    few = {"lr": {"values": [0.01, 0.03]}, "momentum": {"values": [0.9]}, "weight_decay": {"values": [0, 0.1]}}
    start = {"init.weight": {"value": -0.5}, "init.bias": {"value": 0.5}}
    swept(store, make_prepared(parameters=few | start))
    outcome = swept(store, make_prepared(), ray_executor)
    assert outcome.reused.total() == 4
    assert contents(outcome.files) == contents(swept(store, make_prepared(), fresh=True).files)


@pytest.mark.slow
def test_the_command_line_says_how_many(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(strict_yaml.write(document(tracking={"trials": "none"})))
    assert "reused" not in cli("run", path, "--executor", "inline").stdout
    [first] = json.loads(cli("list", "--json").stdout)
    more = ("run", path, "--executor", "inline", "--set", "parameters.lr.values=[0.02, 0.03, 0.04]")
    assert f"reused 8 of 12 trials of sweep {first['id']}\n" in cli(*more).stdout
    assert "reused" not in cli(*more, "--fresh").stdout


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ({"min": 0, "max": 1, "count": 11}, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ({"min": 1e-7, "max": 0.1, "count": 7, "scale": "log"}, [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1]),
    ],
)
def test_the_trials_of_a_range_are_those_of_a_list(
    store: Store, make_prepared: MakePrepared, axis: dict[str, Any], values: list[float]
) -> None:
    other = {"lr": {"value": 0.01}} if axis["min"] == 0 else {"momentum": {"value": 0.5}}
    name = "momentum" if axis["min"] == 0 else "lr"
    swept(store, make_prepared(parameters=other | {name: axis}))
    counting = Counting()
    swept(store, make_prepared(parameters=other | {name: values}), counting)
    assert counting.trials == 0
