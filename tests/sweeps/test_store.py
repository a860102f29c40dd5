import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sgdcore import Hyperparams, Recording, train
from sgdcore.stability import predict
from sweeps.errors import StoreError
from sweeps.store import Store, SweepFiles
from sweeps.worker import ShardFailure, ShardResult, Work, run_shard

Stored = Callable[[Work], SweepFiles]
MakeWork = Callable[..., Work]


def test_a_shard_file_holds_what_the_engine_gives(make_work: MakeWork, stored: Stored) -> None:
    work = make_work()
    table = stored(work).read_shard(0)
    frame = table.to_pandas()
    h = Hyperparams(frame["lr"], frame["momentum"], frame["weight_decay"], frame["dampening"], frame["nesterov"])
    expected = train(work.task, h, epochs=4, start=[-0.5, 0.5], record=Recording(4))
    np.testing.assert_array_equal(np.stack(frame["final"]), expected.params)
    np.testing.assert_array_equal(np.stack(frame["loss"]), expected.loss)
    np.testing.assert_array_equal(np.stack(frame["param.weight"]), expected.curves.path[:, :, 0])
    assert json.loads(table.schema.metadata[b"steps"]) == expected.steps.tolist()


def test_the_columns_are_the_documented_ones(make_work: MakeWork, stored: Stored) -> None:
    names = stored(make_work()).read_shard(0).column_names
    documented = """
        trial trial_id lr momentum weight_decay dampening nesterov seed verdict final_loss best_loss best_step
        first_nonfinite_step steps_to_tolerance overshoot_percent overshoot_parameter peak_value
        predicted_radius final loss
    """
    assert set(documented.split()) <= set(names)


def test_the_predicted_radius_is_the_theorys(make_work: MakeWork, stored: Stored) -> None:
    parameters = {"lr": {"values": [0.02, 0.03, 0.05]}, "momentum": {"value": 0.9}}
    table = stored(make_work(parameters=parameters)).read_shard(0)
    np.testing.assert_allclose(table["predicted_radius"].to_pylist(), [1.53, 0.77, 1.34], atol=0.005)
    assert table.schema.metadata[b"prediction"] == b"spectral radius of the epoch's map"


def test_shuffled_trials_are_predicted_over_their_own_orders(make_work: MakeWork, stored: Stored) -> None:
    work = make_work(training={"epochs": 3, "order": "shuffled"}, seeds=[0, 7])
    files = stored(work)
    table = pa.concat_tables(files.tables(["seed", "predicted_radius"]))
    assert files.metadata()["prediction"] == "growth per epoch over the drawn orders"
    trials = work.plan.trials(0, len(work.plan))
    growth = predict(work.task, trials.hyperparams, epochs=3, order="shuffled", seeds=trials.seed)
    np.testing.assert_array_equal(table["predicted_radius"].to_numpy(), growth.per_epoch)
    assert len(set(table["predicted_radius"].to_pylist())) == len(work.plan) == 24


def test_what_costs_too_much_is_not_predicted_and_the_shard_says_why(make_work: MakeWork, stored: Stored) -> None:
    files = stored(make_work(training={"epochs": 50_000, "order": "shuffled"}, parameters={"lr": {"value": 0.01}}))
    assert files.read_shard(0)["predicted_radius"].null_count == 1
    assert files.metadata()["prediction"] == (
        "none: the growth per epoch over the drawn orders would take 18,000,000 operations a trial; "
        "at most 10,000,000 are made"
    )


def test_what_is_not_finite_is_null(make_work: MakeWork, stored: Stored) -> None:
    work = make_work(
        parameters={"lr": {"values": [0.01, 10]}, "init.weight": {"value": 1}, "init.bias": {"value": 1}},
        training={"epochs": 50},
    )
    table = stored(work).read_shard(0)
    diverged = table.slice(1, 1).to_pylist()[0]
    assert diverged["verdict"] == "diverged"
    assert diverged["first_nonfinite_step"] > 0
    steps = json.loads(table.schema.metadata[b"steps"])
    for step, loss, weight in zip(steps, diverged["loss"], diverged["param.weight"], strict=True):
        assert (loss is None) == (weight is None) == (step >= diverged["first_nonfinite_step"])
    for column in table.columns:
        flat = column.combine_chunks()
        values = flat.values if hasattr(flat, "values") else flat
        if str(values.type) in ("float", "double"):
            assert np.isfinite(values.drop_null().to_numpy()).all()


def test_a_shard_is_there_or_it_is_not(make_work: MakeWork, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work()
    files = stored(work)
    result = run_shard(work, work.plan.shards()[0])
    assert isinstance(result, ShardResult)
    before = (files.shards_folder / "00000.parquet").read_bytes()

    def half_written(table: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", half_written)
    with pytest.raises(StoreError, match=r"00000\.parquet: cannot be written: disk full"):
        files.write_shard(result)
    assert len(list(files.shards_folder.iterdir())) == 3
    assert (files.shards_folder / "00000.parquet").read_bytes() == before
    assert files.done() == {0, 1, 2}


def test_missing_shards_are_named_and_their_failures_kept_until_they_are_done(
    make_work: MakeWork, stored: Stored
) -> None:
    work = make_work()
    files = stored(work)
    (files.shards_folder / "00001.parquet").unlink()
    [missing] = files.missing(work.plan.shards())
    assert missing.index == 1
    assert files.state() == "interrupted"
    files.write_failure(ShardFailure(missing, "ValueError: no"))
    files.write_failure(ShardFailure(missing, "ValueError: no", tries=3))
    assert [path.read_text() for path in files.failures()] == [
        "trials 4 to 7: given up after 4 tries\n\nValueError: no"
    ]
    assert files.tries(1) == 4
    assert files.state() == "computed"  # as far as it can be
    result = run_shard(work, missing)
    assert isinstance(result, ShardResult)
    files.write_shard(result)
    assert files.failures() == []
    assert files.tries(1) == 0
    assert files.state() == "computed"


MANIFEST = {"sweep_id": "", "name": "n", "created": "2026", "trials": 1, "shards": 1}


def test_a_damaged_sweep_does_not_hide_the_others(store: Store) -> None:
    for sweep_id in ("aa11", "bb22"):
        store.create(sweep_id, "", MANIFEST)
    store.find("aa").plan_path.write_text("{}")
    (store.root / "sweeps" / ".cc33.new" / "shards").mkdir(parents=True)
    assert [files.sweep_id for files in store.sweeps()] == ["bb22", "aa11"]
    assert store.find("bb").manifest() == MANIFEST
    with pytest.raises(StoreError, match=r"plan\.json: damaged: no created, name"):
        store.find("aa").manifest()


def test_a_store_whose_path_would_cut_the_databases_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"may not contain '\?'"):
        Store(tmp_path / "what?")


def test_finding_a_sweep_by_the_start_of_its_id(store: Store) -> None:
    for sweep_id in ("aa11", "aa22", "bb33"):
        store.create(sweep_id, "", MANIFEST | {"created": sweep_id})
    assert store.find("b").sweep_id == "bb33"
    assert store.find("aa2").sweep_id == "aa22"
    assert [files.sweep_id for files in store.sweeps()] == ["bb33", "aa22", "aa11"]
    for prefix, message in (
        ("aa", "more than one sweep: aa11, aa22"),
        ("cc", "no such sweep"),
        ("../x", "not a sweep id"),
    ):
        with pytest.raises(StoreError, match=message):
            store.find(prefix)


def test_an_empty_store_holds_no_sweeps(tmp_path: Path) -> None:
    home = Store(tmp_path / "none")
    assert home.sweeps() == []
    with pytest.raises(StoreError, match="which holds no sweeps"):
        home.find("a")


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="the store cannot be written: Not a directory"):
        Store(tmp_path / "file" / "store").check_writable()


def test_damaged_files_are_told(make_work: MakeWork, stored: Stored) -> None:
    files = stored(make_work())
    (files.shards_folder / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"00000\.parquet: cannot be read"):
        files.read_shard(0)
    files.plan_path.write_text("{")
    with pytest.raises(StoreError, match=r"plan\.json: cannot be read"):
        files.manifest()


def test_left_over_pieces_are_not_taken_for_shards(make_work: MakeWork, stored: Stored) -> None:
    files = stored(make_work())
    (files.shards_folder / f"00003.{os.getpid()}.new").touch()
    assert files.done() == {0, 1, 2}
