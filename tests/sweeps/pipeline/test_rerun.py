"""Sweeps asked for by id: asking twice makes one sweep, which is gone on with, or told of; and the tags they bear."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sweeps.errors import InputError, SweepHeld
from sweeps.pipeline.rerun import tags_of
from sweeps.store.store import Store
from tests.support.command_line import Cli
from tests.support.documents import ROOT

Config = Callable[..., Path]


def written(store: Store, sweep_id: str) -> dict[str, int]:
    """When each of the sweep's files was written last; the lease is taken by whoever looks closely."""
    folder = store.root / "sweeps" / sweep_id
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lease"}


@pytest.mark.slow
def test_a_sweep_asked_for_twice_is_run_once(cli: Cli, config: Config, store: Store) -> None:
    asked = ("run", config(), "--executor", "inline", "--id", "abc123", "--tag", "team=a b", "--tag", "n=1=1")
    first = cli(*asked).stdout
    before = written(store, "abc123")
    again = cli(*asked).stdout
    assert "sweep abc123 is in the store and complete" in again
    told = first[first.index("7 of 12 trials converged") : first.index("\n\n")]
    assert told in again
    assert written(store, "abc123") == before
    [listed] = json.loads(cli("list", "--json").stdout)
    assert (listed["id"], listed["state"]) == ("abc123", "reported")
    assert store.find("abc123").manifest()["tags"] == {"team": "a b", "n": "1=1"}
    assert "tags: team=a b, n=1=1" in cli("show", "abc123").stdout
    client = MlflowClient(store.tracking_uri)
    [parent] = client.search_runs(
        [client.get_experiment_by_name("small").experiment_id], "tags.`sweeps.kind` = 'sweep'"
    )
    assert parent.data.tags["sweeps.tag.team"] == "a b"
    assert parent.data.tags["sweeps.tag.n"] == "1=1"


@pytest.mark.slow
def test_a_sweep_that_lacks_something_is_gone_on_with(cli: Cli, config: Config, store: Store) -> None:
    asked = ("run", config(), "--executor", "inline", "--id", "abc123")
    cli(*asked)
    files = store.find("abc123")
    whole = {path.name: path.read_bytes() for path in files.shards.folder.iterdir()}
    (files.shards.folder / "00001.parquet").unlink()
    again = cli(*asked).stdout
    assert "sweep abc123 is in the store; resuming it" in again
    assert "computed 4 of 4" in again
    assert {path.name: path.read_bytes() for path in files.shards.folder.iterdir()} == whole
    assert json.loads(cli("verify", "abc123", "--json").stdout)["clean"]


@pytest.mark.slow
def test_a_check_that_failed_fails_again(cli: Cli, store: Store) -> None:
    wrong = ("--set", "expected.2.final.weight=0.8", "--executor", "inline", "--id", "f")
    for _ in range(2):
        out = cli("run", ROOT / "configs" / "seed.yaml", *wrong, code=4)
        assert "error: not as expected: momentum" in out.stderr


@pytest.mark.slow
def test_another_sweep_does_not_get_the_id(cli: Cli, config: Config, store: Store) -> None:
    asked = ("run", config(), "--executor", "inline", "--id", "abc123")
    cli(*asked)
    before = written(store, "abc123")
    [line] = cli(*asked, "--set", "training.epochs=5", "--set", "seeds=[1]", code=2).stderr.splitlines()
    assert line == (
        "error: sweep abc123: exists already with another config: training, seeds differ; choose another id"
    )
    with store.find("abc123").lease():
        assert "sweep abc123 is held by" in cli(*asked, code=2).stderr
    assert written(store, "abc123") == before


@pytest.mark.slow
def test_ids_and_tags_that_cannot_be_are_one_line(cli: Cli, config: Config, store: Store) -> None:
    for given, told in (
        (("--id", "../x"), "error: --id '../x': must be 1 to 32 lower-case hexadecimal digits"),
        (("--tag", "novalue"), "error: --tag 'novalue': must be KEY=VALUE;"),
    ):
        [line] = cli("run", config(), *given, code=2).stderr.splitlines()
        assert line.startswith(told)
    assert not (store.root / "sweeps").exists()


def test_tags() -> None:
    assert tags_of(None) == {}
    assert tags_of(["a=", "b=postgresql://me:secret@host/db"]) == {"a": "", "b": "postgresql://me:***@host/db"}
    for wrong in (["=x"], ["a\n=x"], ["a=\x1b"], ["a=1", "a=2"], ["a=" + "x" * 501], [f"a{i}=" for i in range(51)]):
        with pytest.raises(InputError):
            tags_of(wrong)


def test_of_two_that_make_the_same_sweep_one_does(store: Store) -> None:
    manifest = {"sweep_id": "ab", "name": "n", "created": "2026-01-01T00:00:00+00:00", "trials": 1, "shards": 1}
    files = store.create("ab", "name: n\n", manifest)
    with pytest.raises(SweepHeld, match="another process has just created it"):
        store.create("ab", "name: m\n", manifest)
    assert files.config_path.read_text() == "name: n\n"
    assert [path.name for path in (store.root / "sweeps").iterdir()] == ["ab"]
