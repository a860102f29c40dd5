"""A store that version 0.1.0 made, before sweeps had stages, opens as it did: tests/data/store-0.1.0.tar.zst.

Made by ``sweeps run`` of a linear sweep (0ea1, 12 trials in 3 shards) and of a network (0ea2, 8 trials in 2 shards, of
which the best 3 are MLflow runs), and by ``sweeps backup``; pages and pictures were left out.
"""

import json
import shutil
from pathlib import Path

import pytest

from sweeps.service.backup import restore
from sweeps.store.store import Store
from tests.support.command_line import Cli
from tests.support.stores import contents

ARCHIVE = Path(__file__).parents[2] / "data" / "store-0.1.0.tar.zst"


@pytest.fixture
def earlier(tmp_path: Path) -> Cli:
    restore(ARCHIVE, Store(tmp_path / "store"))
    return Cli(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.slow
def test_it_is_listed_shown_and_verified(earlier: Cli) -> None:
    rows = {row["id"]: row for row in json.loads(earlier("list", "--json").stdout)}
    assert {key: rows["0ea1"][key] for key in ("name", "state", "trials", "shards")} == {
        "name": "earlier",
        "state": "logged",
        "trials": 12,
        "shards": "3/3",
    }
    assert rows["0ea2"]["shards"] == "2/2"
    shown = json.loads(earlier("show", "0ea1", "--json").stdout)
    assert shown["manifest"]["tags"] == {"team": "a"}
    assert [row["trials"] for row in shown["verdicts"]] == [4, 0, 4, 0, 4]
    for sweep_id, logged in (("0ea1", 12), ("0ea2", 3)):
        audit = json.loads(earlier("verify", sweep_id, "--json").stdout)
        assert (audit["clean"], audit["logged"]) == (True, logged), audit["differences"]
    assert "bit for bit" in earlier("replay", "0ea1", "6").stdout
    earlier("report", "0ea1")
    assert json.loads(earlier("list", "--json").stdout)[1]["state"] == "reported"


@pytest.mark.slow
@pytest.mark.parametrize(("sweep_id", "shard"), [("0ea1", 2), ("0ea2", 0)])
def test_an_interrupted_sweep_of_it_is_resumed(earlier: Cli, home: Store, sweep_id: str, shard: int) -> None:
    files = home.find(sweep_id)
    before = contents(files)
    (files.shards.folder / f"{shard:05}.parquet").unlink()
    shutil.rmtree(files.report.folder)
    assert files.state() == "interrupted"
    earlier("resume", sweep_id, "--executor", "inline")
    assert files.state() == "reported"
    assert contents(files).keys() == before.keys()
    if sweep_id == "0ea1":  # the bits of a linear trial do not depend on what runs beside it
        for name, content in before.items():
            assert (name, contents(files)[name] == content) == (name, True)
    assert json.loads(earlier("verify", sweep_id, "--json").stdout)["clean"]


@pytest.mark.slow
def test_its_trials_are_compared_with_new_ones(earlier: Cli, home: Store, tmp_path: Path) -> None:
    config = tmp_path / "again.yaml"
    config.write_text(home.find("0ea1").config_yaml())
    earlier("run", config, "--id", "bb", "--executor", "inline", "--fresh")
    found = json.loads(earlier("compare", "0ea1", "bb", "--json").stdout)
    [common] = found["tables"]["common"]
    assert (common["common"], common["equal_loss"], common["other_verdict"]) == (12, 12, 0)
    checks = earlier("check", "bb", "--baseline", "0ea1", "--no-new-divergence").stdout
    assert "failed" not in checks
