"""What a shard's file holds."""

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from sgdcore import Hyperparams, Recording, train
from sgdcore.stability import predict
from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SweepFiles

Stored = Callable[[PreparedSweep], SweepFiles]
MakePrepared = Callable[..., PreparedSweep]


def test_a_shard_file_holds_what_the_engine_gives(make_prepared: MakePrepared, stored: Stored) -> None:
    prepared = make_prepared()
    table = stored(prepared).shards.read(0)
    frame = table.to_pandas()
    h = Hyperparams(frame["lr"], frame["momentum"], frame["weight_decay"], frame["dampening"], frame["nesterov"])
    expected = train(prepared.task, h, epochs=4, start=[-0.5, 0.5], record=Recording(4))
    np.testing.assert_array_equal(np.stack(frame["final"]), expected.params)
    np.testing.assert_array_equal(np.stack(frame["loss"]), expected.loss)
    np.testing.assert_array_equal(np.stack(frame["param.weight"]), expected.curves.path[:, :, 0])
    assert json.loads(table.schema.metadata[b"steps"]) == expected.steps.tolist()


def test_the_columns_are_the_documented_ones(make_prepared: MakePrepared, stored: Stored) -> None:
    names = stored(make_prepared()).shards.read(0).column_names
    documented = """
        trial trial_id lr momentum weight_decay dampening nesterov seed verdict final_loss best_loss best_step
        first_nonfinite_step steps_to_tolerance overshoot_percent overshoot_parameter peak_value
        best_epoch predicted_radius final loss
    """
    assert set(documented.split()) <= set(names)


def test_the_predicted_radius_is_the_theorys(make_prepared: MakePrepared, stored: Stored) -> None:
    parameters = {"lr": {"values": [0.02, 0.03, 0.05]}, "momentum": {"value": 0.9}}
    table = stored(make_prepared(parameters=parameters)).shards.read(0)
    np.testing.assert_allclose(table["predicted_radius"].to_pylist(), [1.53, 0.77, 1.34], atol=0.005)
    assert table.schema.metadata[b"prediction"] == b"spectral radius of the epoch's map"


def test_shuffled_trials_are_predicted_over_their_own_orders(make_prepared: MakePrepared, stored: Stored) -> None:
    prepared = make_prepared(training={"epochs": 3, "order": "shuffled"}, seeds=[0, 7])
    files = stored(prepared)
    table = pa.concat_tables(files.shards.tables(["seed", "predicted_radius"]))
    assert files.shards.metadata()["prediction"] == "growth per epoch over the drawn orders"
    trials = prepared.plan.trials(0, len(prepared.plan))
    growth = predict(prepared.task, trials.hyperparams, epochs=3, order="shuffled", seeds=trials.seed)
    np.testing.assert_array_equal(table["predicted_radius"].to_numpy(), growth.per_epoch)
    assert len(set(table["predicted_radius"].to_pylist())) == len(prepared.plan) == 24


def test_what_costs_too_much_is_not_predicted_and_the_shard_says_why(
    make_prepared: MakePrepared, stored: Stored
) -> None:
    files = stored(make_prepared(training={"epochs": 50_000, "order": "shuffled"}, parameters={"lr": {"value": 0.01}}))
    assert files.shards.read(0)["predicted_radius"].null_count == 1
    assert files.shards.metadata()["prediction"] == (
        "none: the growth per epoch over the drawn orders would take 18,000,000 operations a trial; "
        "at most 10,000,000 are made"
    )


def test_what_is_not_finite_is_null(make_prepared: MakePrepared, stored: Stored) -> None:
    prepared = make_prepared(
        parameters={"lr": {"values": [0.01, 10]}, "init.weight": {"value": 1}, "init.bias": {"value": 1}},
        training={"epochs": 50},
    )
    table = stored(prepared).shards.read(0)
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
