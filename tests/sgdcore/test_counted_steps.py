"""on_steps: steps are counted while kernels train, and all of them at the end; an exception ends the training."""

from __future__ import annotations

import numpy as np
import pytest

from sgdcore import Hyperparams, Recording, Task, train
from sgdcore.tasks.datasets import line, sine
from sgdcore.tasks.networks import MlpModel

TRIALS = Hyperparams(lr=[0.01] * 18 + [1e30], momentum=0.9)  # the last one stops at once
EPOCHS = 10
FOREVER = 10**9  # epochs


class Enough(Exception):
    pass


@pytest.mark.parametrize("kernel", ["numba", "torch", "reference"])
@pytest.mark.parametrize("model", ["linear", "mlp"])
@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_all_steps_are_counted_and_no_bit_depends_on_it(kernel: str, model: str, order: str) -> None:
    task = Task(line()) if model == "linear" else Task(sine(n=7), MlpModel((3,)))
    counted: list[int] = []
    arguments = {
        "epochs": EPOCHS,
        "batch_size": 2,
        "order": order,
        "kernel": kernel,
        "device": "cpu",
        "seeds": [0] * 9 + [1] * 10,
    }
    silent = train(task, TRIALS, **arguments)
    result = train(task, TRIALS, on_steps=counted.append, **arguments)
    assert sum(counted) == len(TRIALS) * EPOCHS * result.steps_per_epoch
    assert all(steps > 0 for steps in counted)
    np.testing.assert_array_equal(result.params, silent.params)


@pytest.mark.parametrize("kernel", ["numba", "torch"])
@pytest.mark.parametrize("threads", [1, 2])
def test_networks_are_counted_within_a_long_training_which_an_exception_ends(kernel: str, threads: int) -> None:
    """The training would take days."""
    counted: list[int] = []

    def count(steps: int) -> None:
        counted.append(steps)
        if sum(counted) > 1000:
            raise Enough

    task, record = Task(sine(n=7), MlpModel((3,))), Recording(points=4)
    with pytest.raises(Enough):
        train(
            task,
            TRIALS,
            epochs=FOREVER,
            batch_size=2,
            record=record,
            kernel=kernel,
            device="cpu",
            threads=threads,
            on_steps=count,
        )
    assert 1000 < sum(counted) < len(TRIALS) * FOREVER
