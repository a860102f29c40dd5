"""The default number of recorded points: curves of networks cost at most a quarter of the training."""

from collections.abc import Callable
from typing import Any

import pytest

from sweeps.planning.prepared import PreparedSweep
from sweeps.store.store import SweepFiles
from tests.support.stores import without_key

Prepare = Callable[..., PreparedSweep]
MLP = {"kind": "mlp", "hidden": [3]}


def of_network(epochs: int, validation: float = 0.0, **changes: Any) -> dict[str, Any]:
    dataset = {"kind": "sine", "n": 40, "validation": validation}
    training = {"epochs": epochs, "batch_size": 4}
    parameters = {"lr": {"values": [0.01, 0.02]}}
    return {"task": {"dataset": dataset, "model": MLP}, "training": training, "parameters": parameters} | changes


@pytest.mark.parametrize("validation", [0.0, 0.5])
@pytest.mark.parametrize("epochs", [1, 10, 40, 100, 1000])
def test_curves_take_at_most_a_quarter_of_the_training(epochs: int, validation: float, make_prepared: Prepare) -> None:
    prepared = make_prepared(**of_network(epochs, validation) | {"record": {}})
    points, task = prepared.config.record.points, prepared.task
    assert points is not None
    evaluated = (points + 2) * 40  # samples, the validation set's included
    trained = 3 * epochs * task.samples  # a step is a forward and a backward pass, about three evaluations
    assert points in (0, 64) or evaluated <= trained / 4 < evaluated + 40
    assert (points == 64) == (trained / 4 >= 66 * 40)


def test_what_the_file_says_is_recorded(make_prepared: Prepare) -> None:
    assert make_prepared(**of_network(10, record={"points": 9})).config.record.points == 9


def test_a_quadratic_loss_costs_nothing(make_prepared: Prepare) -> None:
    assert make_prepared(training={"epochs": 1}, record={}).config.record.points == 64


def test_a_stored_sweep_keeps_its_points(make_prepared: Prepare, stored: Callable[[PreparedSweep], SweepFiles]) -> None:
    files = stored(make_prepared(**of_network(10) | {"record": {}}))
    assert files.config().record.points == len(files.shards.metadata()["steps"]) - 2
    without_key(files, f"record:\n  points: {files.config().record.points}\n")
    assert files.config().record.points == 64  # of the version that stored no number
