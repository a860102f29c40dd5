"""A stored config that was edited by hand: refused with the keys, and nothing is done by it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.config import strict_yaml
from sweeps.errors import StoreError
from sweeps.execution.inline import InlineExecutor
from sweeps.pipeline.run import create
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.reopen import reopen
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.doubles import Untracked

EDITS: dict[str, tuple[str, str, str]] = {
    "recorded points": ("points: 4", "points: 5", "record.points"),
    "policy": ("model: none", "model: none\n  trials: top:5", "tracking.trials"),
    "epochs": ("epochs: 4", "epochs: 5", "training.epochs"),
    "a value of an axis": ("- 0.9", "- 0.8", "parameters.momentum.values"),
    "removed": ("name: small\n", "", "name"),
}


@pytest.fixture
def files(store: Store, make_prepared: Callable[..., PreparedSweep]) -> SweepFiles:
    return create(make_prepared(), store, InlineExecutor(), Untracked())  # type: ignore[arg-type]


def edit(files: SweepFiles, before: str, after: str) -> None:
    text = files.config_path.read_text()
    assert before in text
    files.config_path.write_text(text.replace(before, after))


@pytest.mark.parametrize(("before", "after", "key"), EDITS.values(), ids=EDITS.keys())
def test_a_changed_config_is_refused(files: SweepFiles, before: str, after: str, key: str) -> None:
    edit(files, before, after)
    with pytest.raises(StoreError) as caught:
        reopen(files)
    assert str(caught.value) == (
        f"{files.config_path}: changed since the sweep was planned: {key}; "
        "restore the file, or start a new sweep with the changed config"
    )
    edit(files, after or "task:", before if after else f"{before}task:")
    assert reopen(files).config.name == "small"


def test_the_same_values_written_differently_are_no_change(files: SweepFiles) -> None:
    document = strict_yaml.read(files.config_path.read_text(), "")
    files.config_path.write_text("# reviewed\n" + json.dumps(document, indent=1))
    assert reopen(files).config.training.epochs == 4


def test_a_sweep_of_an_earlier_version_opens_as_before(files: SweepFiles) -> None:
    manifest = files.manifest()
    del manifest["config"]
    files.plan_path.write_text(json.dumps(manifest))
    edit(files, "points: 4", "points: 5")
    assert reopen(files).config.record.points == 5


def test_a_data_file_can_move(store: Store, make_prepared: Callable[..., PreparedSweep], tmp_path: Path) -> None:
    before, after = tmp_path / "d.csv", tmp_path / "elsewhere.csv"
    before.write_text("x,y\n1,2\n2,3\n")
    task = {"dataset": {"kind": "csv", "path": str(before), "target": "y"}}
    files = create(make_prepared(task=task), store, InlineExecutor(), Untracked())  # type: ignore[arg-type]
    before.rename(after)
    edit(files, str(before), str(after))
    assert reopen(files).task.samples == 2


@pytest.mark.slow
def test_no_command_works_with_a_changed_config(cli: Cli, config: Callable[..., Path], store: Store) -> None:
    cli("run", config(), "--executor", "inline")
    [files] = store.sweeps()
    edit(files, "model: none", "model: none\n  trials: top:5")
    for command in (["resume", "--executor", "inline"], ["log"], ["verify"], ["report"], ["show"]):
        [line] = cli(*command, files.sweep_id, code=2).stderr.splitlines()
        assert ": changed since the sweep was planned: tracking.trials; restore the file" in line
    assert len(MlflowClient(store.tracking_uri).search_runs(["1"])) == 13
