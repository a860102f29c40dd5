"""JSON files of a sweep that are damaged: one line for the sweep, and the others go on."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sweeps.errors import StoreError
from sweeps.planning.prepared import PreparedSweep
from sweeps.results.results import load_results
from sweeps.service.monitoring.prometheus import exposition
from sweeps.store.reopen import reopen
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.stores import computed_into

DAMAGE: dict[str, tuple[str, Any, str]] = {
    "a word as a count": ("plan.json", {"shards": "x"}, "plan.json: damaged: shards: "),
    "null": ("plan.json", {"trials": None}, "plan.json: damaged: trials: "),
    "a negative count": ("plan.json", {"trials": -1}, "plan.json: damaged: trials: "),
    "no trials in a shard": ("plan.json", {"trials_per_shard": 0}, "plan.json: damaged: trials_per_shard: "),
    "tags as a string": ("plan.json", {"tags": "team"}, "plan.json: damaged: tags: "),
    "a tag as a list": ("plan.json", {"tags": {"a": ["b"]}}, "plan.json: damaged: tags.a: "),
    "a word as the steps": ("plan.json", {"steps": "many"}, "plan.json: damaged: steps: "),
    "a number as the name": ("plan.json", {"name": 3}, "plan.json: damaged: name: "),
    "data as a list": ("plan.json", {"data": []}, "plan.json: damaged: data: "),
    "a list": ("plan.json", [], "plan.json: damaged: not a JSON object"),
    "nothing": ("plan.json", "", "plan.json: cannot be read: "),
    "nested too deep": ("plan.json", "[" * 100_000, "plan.json: cannot be read: "),
    "no such key": ("stages.json", {"stages": []}, "stages.json: damaged: no complete"),
    "an empty stage": ("stages.json", {"stages": [{}], "complete": True}, "stages.json: damaged: no dropped"),
    "no URI": ("tracking.json", {"complete": True}, "tracking.json: damaged: no uri"),
    "places as a word": ("tracking.json", {"uri": "a", "elsewhere": "b"}, "tracking.json: damaged: elsewhere: "),
}


@pytest.fixture
def files(store: Store, make_prepared: Callable[..., PreparedSweep]) -> SweepFiles:
    """A whole sweep, beside an unharmed one."""
    prepared = make_prepared()
    computed_into(store, "ab11", prepared)
    return computed_into(store, "cd22", prepared)


def damage(files: SweepFiles, name: str, change: Any) -> None:
    path = files.folder / name
    if name == "plan.json" and isinstance(change, dict):
        change = json.loads(path.read_text()) | change
    path.write_text(change if isinstance(change, str) else json.dumps(change))


@pytest.mark.parametrize(("name", "change", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_one_line(store: Store, files: SweepFiles, name: str, change: Any, message: str) -> None:
    damage(files, name, change)
    why = files.damage()
    assert why is not None
    assert message in why
    assert "\n" not in why
    assert {found.sweep_id: found.damage() for found in store.sweeps()} == {"ab11": None, "cd22": why}
    with pytest.raises(StoreError) as caught:
        files.state()
    assert str(caught.value) == why
    samples = exposition(store).decode()
    assert 'sweeps_sweeps{state="damaged"} 1.0' in samples
    assert 'sweeps_sweeps{state="interrupted"} 0.0' in samples
    if name != "tracking.json":
        for read in (load_results, reopen):
            with pytest.raises(StoreError):
                read(files)


def test_a_manifest_with_the_first_versions_keys_is_read(store: Store) -> None:
    first = {"sweep_id": "ee33", "name": "n", "created": "2026", "trials": 12, "shards": 5}
    files = store.create("ee33", "", first)
    assert files.manifest() == first
    [stage] = files.planned().stages
    assert (files.damage(), stage.trials_per_shard, files.state()) == (None, 3, "planned")


def test_a_stray_shard_does_not_count(store: Store, files: SweepFiles) -> None:
    whole = load_results(files)
    (files.shards.folder / "00007.parquet").write_bytes((files.shards.folder / "00000.parquet").read_bytes())
    assert (files.shards.done(), files.shards.stray()) == ({0, 1, 2}, {7})
    assert (files.state(), files.is_computed(), files.stored_trials()) == ("computed", True, 12)
    assert load_results(files).stored == whole.stored == 12
    assert set(files.shards.stamps()) == {0, 1, 2}
    (files.shards.folder / "00001.parquet").unlink()
    assert (files.state(), files.is_computed(), files.stored_trials()) == ("interrupted", False, 8)


@pytest.mark.slow
def test_commands_name_the_damage_and_go_on(cli: Cli, files: SweepFiles) -> None:
    damage(files, "plan.json", {"shards": "x"})
    why = files.damage()
    out = cli("list", COLUMNS="200").stdout
    assert "ab11" in out
    assert f"cd22: {why}" in out.replace("\n", " ")
    rows = {row["id"]: row for row in json.loads(cli("list", "--json").stdout)}
    assert (rows["ab11"]["shards"], rows["ab11"]["damage"]) == ("3/3", None)
    assert (rows["cd22"]["state"], rows["cd22"]["damage"]) == ("damaged", why)
    assert why in cli("metrics").stderr
    for command in (["show"], ["report"], ["verify"], ["resume", "--executor", "inline"], ["log"]):
        assert cli(*command, "cd22", code=2).stderr == f"error: {why}\n"
    cli("show", "ab11")
