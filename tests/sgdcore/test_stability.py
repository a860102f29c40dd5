import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdcore import Dataset, Hyperparams, LinearModel, Recording, Task, train
from sgdcore.stability import epoch_radius
from sgdcore.tasks import line, linear

ONE_WEIGHT = Task(Dataset(np.array([1.0, -1.0]), np.array([0.5, 0.1])), LinearModel(bias=False))  # H = 2
MOMENTA = st.floats(0, 0.99)


def test_published_radii_of_the_five_points():
    radius = epoch_radius(Task(line()), Hyperparams(lr=[0.1, 0.02, 0.03, 0.05], momentum=0.9))
    np.testing.assert_allclose(radius, [4.77, 1.53, 0.77, 1.34], atol=0.005)


@given(st.floats(0.01, 3), MOMENTA, st.floats(-0.5, 0.9))
def test_full_batch_bound_of_heavy_ball(lr, momentum, dampening):
    dampening = dampening if momentum else 0.0
    lr_undamped = lr * (1 - dampening)
    bound = 2 * (1 + momentum) / 2
    if abs(lr_undamped - bound) < 1e-6:
        return
    [radius] = epoch_radius(ONE_WEIGHT, Hyperparams(lr, momentum, 0, dampening), batch_size=2)
    assert (radius < 1) == (lr_undamped < bound)


@given(st.floats(0.01, 3), MOMENTA.filter(bool))
def test_full_batch_bound_of_nesterov(lr, momentum):
    bound = 2 * (1 + momentum) / (1 + 2 * momentum) / 2
    if abs(lr - bound) < 1e-6:
        return
    [radius] = epoch_radius(ONE_WEIGHT, Hyperparams(lr, momentum, nesterov=True), batch_size=9, order="shuffled")
    assert (radius < 1) == (lr < bound)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_distance_is_multiplied_by_the_radius_every_epoch(batch_size, decay):
    task = Task(line())
    hyperparams = Hyperparams(
        lr=[0.01, 0.02, 0.06, 0.1, 0.03],
        momentum=[0, 0.9, 0.5, 0.9, 0.9],
        weight_decay=decay,
        dampening=[0, 0, 0.5, 0, 0],
        nesterov=[False, False, False, False, True],
    )
    radius = epoch_radius(task, hyperparams, batch_size=batch_size)
    per_epoch = -(-5 // batch_size)
    run = train(
        task,
        hyperparams,
        epochs=90,
        batch_size=batch_size,
        dtype="float64",
        start=[3.0, -2.0],
        record=Recording(spacing="all"),
    )
    path = run.curves.path[:, ::per_epoch]
    moves = np.linalg.norm(np.diff(path, axis=1), axis=2)  # differences leave the fixed point out
    measured = (moves[:, 60] / moves[:, 20]) ** (1 / 40)
    np.testing.assert_allclose(measured, radius, rtol=0.05)


def test_undetermined_directions_do_not_count_without_weight_decay():
    twice = Task(Dataset(np.column_stack([np.arange(4.0), np.arange(4.0)]), np.arange(4.0)))
    once = Task(Dataset(np.arange(4.0) * np.sqrt(2), np.arange(4.0)))
    hyperparams = Hyperparams(lr=0.02, momentum=[0, 0.5])
    np.testing.assert_allclose(epoch_radius(twice, hyperparams), epoch_radius(once, hyperparams))
    assert (epoch_radius(twice, hyperparams) < 1).all()
    [stuck] = epoch_radius(twice, Hyperparams(lr=3.0, weight_decay=1.0))
    assert stuck > 1


def test_long_diverging_epochs_do_not_overflow():
    radius = epoch_radius(Task(linear(400, 3)), Hyperparams(lr=[1e3, 1e-3]))
    assert np.isfinite(radius).all()
    assert radius[0] > 1e200
    assert radius[1] < 1


def test_random_orders_have_no_one_map():
    assert epoch_radius(Task(line()), Hyperparams(0.1), order="shuffled") is None


@given(st.permutations(range(6)))
def test_a_trials_radius_does_not_depend_on_its_neighbours(order):
    hyperparams = Hyperparams(
        lr=np.linspace(0.01, 0.1, 6), momentum=[0, 0.5, 0.9, 0, 0.3, 0.99], weight_decay=[0, 0.1] * 3
    )
    radius = epoch_radius(Task(line()), hyperparams)
    np.testing.assert_allclose(epoch_radius(Task(line()), hyperparams[np.array(order)]), radius[order], rtol=1e-9)
