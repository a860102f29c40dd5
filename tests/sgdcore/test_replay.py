import numpy as np
import pytest

from sgdcore import Hyperparams, InvalidHyperparams, Recording, Task, train
from sgdcore.replay import replay
from sgdcore.tasks import line, linear

MOMENTUM = Hyperparams(lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("order", "batch_size"), [("sequential", 1), ("shuffled", 2)])
def test_every_step_is_the_engines_and_torchs(dtype, order, batch_size):
    task = Task(linear(7, 2, noise=0.1))
    arguments = {"epochs": 5, "batch_size": batch_size, "order": order, "dtype": dtype, "start": [0.3, -1.0, 0.5]}
    steps = list(replay(task, MOMENTUM, seed=3, **arguments))
    run = train(task, MOMENTUM, seeds=3, record=Recording(spacing="all"), **arguments)
    assert [step.step for step in steps] == run.steps[1:].tolist()
    np.testing.assert_array_equal(np.stack([step.params for step in steps]), run.curves.path[0, 1:])
    np.testing.assert_array_equal(steps[-1].momentum_buffers, run.state.momentum_buffers[0])
    assert all(step.deviation == 0 for step in steps)


def test_gradients_are_those_of_the_batch_loss():
    [first, *_] = replay(Task(line()), Hyperparams(lr=0.1), epochs=1, start=[1.0, 0.0], dtype="float64")
    assert first.samples.tolist() == [0]
    np.testing.assert_allclose(first.gradients, [-2.0, -2.0])  # 2 (w x + b - y) (x, 1) at x = 1, y = 2
    assert first.loss == pytest.approx(1.0)


def test_ends_at_the_step_that_is_not_finite():
    hyperparams = Hyperparams(lr=10.0, momentum=0.9)
    steps = list(replay(Task(line()), hyperparams, epochs=100, start=[0.0, 0.0]))
    stop = train(Task(line()), hyperparams, epochs=100, start=[0.0, 0.0]).first_nonfinite_step[0]
    assert len(steps) == stop
    assert not np.isfinite(steps[-1].params).all()
    assert steps[-1].deviation == 0


def test_a_difference_shows():
    [step] = list(replay(Task(line(x=[1])), Hyperparams(lr=0.1), epochs=1, start=[0.0, 0.0]))
    step.params[0] += 0.25
    assert step.deviation == pytest.approx(0.25)


def test_what_is_finite_in_one_only_is_infinitely_far():
    [step] = list(replay(Task(line(x=[1])), Hyperparams(lr=0.1), epochs=1, start=[0.0, 0.0]))
    step.params[0], step.torch_params[0] = np.inf, np.nan
    assert step.deviation == 0
    for one, other in ((np.nan, 1.0), (1.0, np.nan), (-np.inf, 1.0)):
        step.params[0], step.torch_params[0] = one, other
        assert step.deviation == np.inf


def test_takes_one_trial():
    with pytest.raises(InvalidHyperparams, match="one trial, not 2"):
        replay(Task(line()), Hyperparams(lr=[0.1, 0.2]), epochs=1)
