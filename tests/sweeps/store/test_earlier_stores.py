"""A store that version 0.1.0 made, before sweeps had stages, opens as it did: tests/data/store-0.1.0.tar.zst.

Made by ``sweeps run`` of a linear sweep (0ea1, 12 trials in 3 shards) and of a network (0ea2, 8 trials in 2 shards, of
which the best 3 are MLflow runs), and by ``sweeps backup``; pages and pictures were left out.

tests/data/store-numpy-ranges.tar.zst has a sweep of the time when ranges had numpy's points (0ea3, 120 trials in 2
shards: a log range of lr, linear ones of momentum and weight decay; the best 3 are MLflow runs).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from sweeps.config.axis import NumpyPowers
from sweeps.config.datasets import LinearData
from sweeps.planning.prepared import PreparedSweep, prepare
from sweeps.service.backup import restore
from sweeps.store.reopen import reopen
from sweeps.store.store import Store, SweepFiles
from tests.support.command_line import Cli
from tests.support.stores import computed_into, contents

DATA = Path(__file__).parents[2] / "data"
ARCHIVE = DATA / "store-0.1.0.tar.zst"


@pytest.fixture
def earlier(tmp_path: Path) -> Cli:
    restore(ARCHIVE, Store(tmp_path / "store"))
    return Cli(tmp_path)


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# Computed with the linear algebra library, whose last bits depend on the processor.
ROUNDED = ("initial_loss", "final_loss", "best_loss", "loss", "overshoot_percent", "predicted_radius")


def assert_the_same_trials(before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Check the columns that earlier versions had: all bits, but for those in ROUNDED.

    A diverged trial's final loss is the last finite one now.
    """
    assert after.keys() == before.keys()
    for name, content in before.items():
        was, now = (pq.read_table(pa.BufferReader(part)) for part in (content, after[name]))
        now = now.select(was.column_names)
        settled = pc.not_equal(was["verdict"], "diverged")
        for column in was.column_names:
            found, expected = now[column], was[column]
            if column == "final_loss":
                found, expected = found.filter(settled), expected.filter(settled)
            if column in ROUNDED:
                assert found.is_null().equals(expected.is_null()), column
                np.testing.assert_allclose(values(found), values(expected), rtol=1e-12, atol=atol(column))
            else:
                assert found.equals(expected), column


def values(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.array(column.to_pylist(), dtype=np.float64)


def atol(column: str) -> float:
    """An overshoot is a small part of the distance that its trial moves, which is 100 %."""
    return 1e-12 if column == "overshoot_percent" else 0


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
        assert_the_same_trials(before, contents(files))
    assert json.loads(earlier("verify", sweep_id, "--json").stdout)["clean"]


@pytest.mark.slow
def test_its_trials_are_compared_with_new_ones(earlier: Cli, home: Store, tmp_path: Path) -> None:
    config = tmp_path / "again.yaml"
    config.write_text(home.find("0ea1").config_yaml())
    earlier("run", config, "--id", "bb", "--executor", "inline", "--fresh")
    found = json.loads(earlier("compare", "0ea1", "bb", "--json").stdout)
    [common] = found["tables"]["common"]
    assert (common["common"], common["other_verdict"]) == (12, 0)
    differing = found["tables"].get("losses-B", [])  # on some processors, in the last bits
    assert len(differing) == 12 - common["equal_loss"] <= 10
    for row in differing:
        assert row["final_loss"] == pytest.approx(row["final_loss_before"], rel=1e-12, abs=0)
    checks = earlier("check", "bb", "--baseline", "0ea1", "--no-new-divergence").stdout
    assert "failed" not in checks


@pytest.mark.slow
def test_the_trials_of_numpys_ranges_stay(cli: Cli, tmp_path: Path) -> None:
    """A range's points are decimals now; a sweep that was planned with 0.30000000000000004 keeps it."""
    home = Store(tmp_path / "earlier")
    restore(DATA / "store-numpy-ranges.tar.zst", home)
    files = home.find("0ea3")
    momentum = {row["momentum"] for row in files.shards.read(0).to_pylist()}
    assert 0.30000000000000004 in momentum
    before = contents(files)
    (files.shards.folder / "00001.parquet").unlink()
    cli("resume", "0ea3", "--executor", "inline", "--store", home.where)
    assert_the_same_trials(before, contents(files))
    audit = json.loads(cli("verify", "0ea3", "--json", "--store", home.where).stdout)
    assert (audit["clean"], audit["trials"]) == (True, 120), audit["differences"]
    config = tmp_path / "again.yaml"
    config.write_text(files.config_yaml())
    same = cli("run", config, "--id", "0ea3", "--executor", "inline", "--store", home.where)
    assert "is in the store and complete" in same.stdout
    planned = json.loads(cli("plan", config, "--json").stdout)
    assert (planned["trials"], planned["ranges"]) == (120, "decimal")


@pytest.mark.parametrize("powers", ["libm", "processor"])
def test_a_stored_log_range_keeps_its_points(
    store: Store, make_prepared: Callable[..., PreparedSweep], monkeypatch: pytest.MonkeyPatch, powers: NumpyPowers
) -> None:
    """numpy.geomspace has other last bits on some processors; here, it has."""
    geomspace = np.geomspace
    monkeypatch.setattr(np, "geomspace", lambda *given: np.nextafter(geomspace(*given), 1))
    log = {"min": 0.001, "max": 0.1, "count": 8, "scale": "log"}
    config = make_prepared(parameters={"lr": log, "momentum": [0, 0.9]}).config
    planned, other = (
        prepare(config.with_numpy_ranges(each), trials_per_shard=4)
        for each in (powers, "processor" if powers == "libm" else "libm")
    )
    files = computed_into(store, "0e", planned, ranges="numpy")
    (files.shards.folder / "00000.parquet").unlink()
    (files.shards.folder / "00001.parquet").write_bytes(b"damaged")
    found, expected, otherwise = (each.plan.ids(each.plan.trials(0, 16)) for each in (reopen(files), planned, other))
    assert found == expected
    assert set(found).isdisjoint(otherwise)


def test_a_stored_sweep_of_an_index_column_keeps_it(
    store: Store, make_prepared: Callable[..., PreparedSweep], tmp_path: Path
) -> None:
    """Earlier versions trained on unnamed columns; their sweeps are still those sweeps."""
    (tmp_path / "d.csv").write_text(",x,y\n0,0.5,1\n1,-1,2\n2,0.2,3\n3,2,4\n")
    dataset = {"kind": "csv", "path": str(tmp_path / "d.csv"), "target": "y"}
    changes = {"parameters": {"lr": {"min": 0, "max": 0.9, "count": 10}}, "execution": {}}
    features = ["Unnamed: 0", "x"]
    prepared = make_prepared(task={"dataset": dataset | {"features": features}}, **changes)
    data = {"digest": prepared.task.dataset.digest, "features": features}
    written = make_prepared(task={"dataset": dataset}, **changes)
    manifest = prepared.plan.summary() | {"sweep_id": "0e", "name": "e", "created": "", "data": data}
    del manifest["ranges"]
    files = store.create("0e", written.config.to_yaml(), manifest)
    opened = reopen(files)
    assert opened.task.dataset.feature_names == ("Unnamed: 0", "x")
    assert opened.plan.trials(3, 4).hyperparams.lr.tolist() == [0.30000000000000004]
    assert written.plan.trials(3, 4).hyperparams.lr.tolist() == [0.3]


@pytest.mark.parametrize("powers", ["libm", "processor"])
def test_generated_data_stay_those_of_the_processor_that_planned_the_sweep(
    make_prepared: Callable[..., PreparedSweep],
    stored: Callable[[PreparedSweep], SweepFiles],
    monkeypatch: pytest.MonkeyPatch,
    powers: str,
) -> None:
    """A processor whose powers round otherwise: of two variants of the data, a stored sweep keeps the one it has."""
    geomspace = np.geomspace
    monkeypatch.setattr(np, "geomspace", lambda *ends: geomspace(*ends) * (1 + 2.0**-40))
    data = {"kind": "linear", "n": 20, "d": 4, "condition": 10.0}
    training, parameters = {"epochs": 2, "batch_size": 5}, {"lr": {"values": [0.01, 0.02]}}
    with monkeypatch.context() as patch:
        if powers == "processor":
            patch.setattr(LinearData, "has_processor_powers", True)
        prepared = make_prepared(task={"dataset": data}, training=training, parameters=parameters)
        files = stored(prepared)
    found = reopen(files).task.dataset
    assert found.digest == prepared.task.dataset.digest
    assert (found.digest == make_prepared(task={"dataset": data}).task.dataset.digest) == (powers == "libm")
