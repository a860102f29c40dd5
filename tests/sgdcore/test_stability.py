"""stability: growth per epoch is what runs do; radii are the textbook's; no trial sees its neighbours."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgdcore import Dataset, Hyperparams, LinearModel, Recording, Schedule, Scheduler, Task, train
from sgdcore.stability import Kind, predict
from sgdcore.tasks import line, linear
from tests.support.hypothesis_profiles import examples

ONE_WEIGHT = Task(Dataset(np.array([1.0, -1.0]), np.array([0.5, 0.1])), LinearModel(bias=False))  # H = 2
MOMENTA = st.floats(0, 0.99)
KINDS_OF_STEPS = Hyperparams(
    lr=[0.01, 0.02, 0.06, 0.1, 0.03],
    momentum=[0, 0.9, 0.5, 0.9, 0.9],
    dampening=[0, 0, 0.5, 0, 0],
    nesterov=[False, False, False, False, True],
)


def epoch_radius(task, hyperparams, **options):
    growth = predict(task, hyperparams, epochs=7, **options)
    assert growth.kind is Kind.EPOCH_MAP
    return growth.per_epoch


def drawn_growth(task, hyperparams, epochs, **options):
    growth = predict(task, hyperparams, epochs=epochs, order="shuffled", **options)
    assert growth.kind is Kind.DRAWN_ORDERS
    return growth.per_epoch


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


def decayed(h, decay):
    return Hyperparams(h.lr, h.momentum, decay, h.dampening, h.nesterov)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_distance_is_multiplied_by_the_radius_every_epoch(batch_size, decay):
    task = Task(line())
    hyperparams = decayed(KINDS_OF_STEPS, decay)
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
    one_step = Hyperparams(lr=[1e308, 1e308, 0.1], momentum=[0, 0.9, 0])
    assert (epoch_radius(Task(line()), one_step)[:2] > 1e300).all()
    assert (drawn_growth(Task(line()), one_step, 2)[:2] > 1e300).all()


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_growth_over_drawn_orders_is_that_of_the_runs_themselves(batch_size, decay):
    """G's columns are differences of runs that start a unit apart."""
    task, epochs, seeds = Task(linear(7, 2, noise=0.5)), 6, [3, 0, 3, 1, 0]
    hyperparams = decayed(KINDS_OF_STEPS, decay)
    options = {"epochs": epochs, "batch_size": batch_size, "order": "shuffled", "seeds": seeds}
    starts = np.vstack([np.zeros(3), np.eye(3)])
    ends = [train(task, hyperparams, start=start, dtype="float64", **options).params for start in starts]
    squared = np.square(np.array(ends[1:]) - ends[0]).sum(axis=(0, 2)) / 3
    growth = predict(task, hyperparams, **options)
    assert growth.kind is Kind.DRAWN_ORDERS
    np.testing.assert_allclose(growth.per_epoch, squared ** (1 / (2 * epochs)), rtol=1e-9)


SCHEDULES = [
    Schedule(Scheduler("step", step_size=2, gamma=0.5)),
    Schedule(Scheduler("linear", total_iters=3), Scheduler("cosine"), interval="step"),
    None,
    Schedule(Scheduler("onecycle"), interval="step"),
    Schedule(Scheduler("exponential", gamma=1.5)),
]


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
@pytest.mark.parametrize("with_groups", [False, True])
def test_growth_of_a_scheduled_run_is_that_of_the_run_itself(order, with_groups):
    task, epochs = Task(linear(7, 2, noise=0.5)), 6
    groups = {"bias": {"lr": [0.1, 0.01, 0.02, 0.1, 0.03], "momentum": [0.5, 0.5, 0, 0.9, 0.9], "weight_decay": 0}}
    hyperparams = Hyperparams(
        KINDS_OF_STEPS.lr,
        KINDS_OF_STEPS.momentum,
        0.1,
        KINDS_OF_STEPS.dampening,
        schedule=SCHEDULES,
        groups=groups if with_groups else None,
    )
    options = {"epochs": epochs, "batch_size": 2, "order": order, "seeds": [3, 0, 3, 1, 0]}
    options["groups"] = {"bias": ["bias"]} if with_groups else None
    starts = np.vstack([np.zeros(3), np.eye(3)])
    runs = [train(task, hyperparams, start=start, dtype="float64", kernel="reference", **options) for start in starts]
    squared = np.square(np.array([run.params for run in runs[1:]]) - runs[0].params).sum(axis=(0, 2)) / 3
    growth = predict(task, hyperparams, **options)
    assert growth.kind is Kind.SCHEDULED
    np.testing.assert_allclose(growth.per_epoch, squared ** (1 / (2 * epochs)), rtol=1e-9)


@examples(8, 1_000)
@given(st.integers(0, 10**6))
def test_random_scheduled_runs_grow_as_predicted(seed):
    """Differences of runs from three starts are G's columns: no run contradicts the theory."""
    rng = np.random.default_rng(seed)
    samples, epochs, trials = int(rng.integers(2, 7)), int(rng.integers(1, 6)), 3
    data = Dataset(rng.standard_normal((samples, 2)), rng.standard_normal(samples))
    kinds = [
        lambda: Scheduler("exponential", gamma=float(rng.uniform(0.5, 1.3))),
        lambda: Scheduler("cosine", eta_min=float(rng.uniform(0, 0.1))),
        lambda: Scheduler("linear", start_factor=float(rng.uniform(0.1, 1)), total_iters=int(rng.integers(1, 5))),
        lambda: Scheduler("step", step_size=int(rng.integers(1, 4)), gamma=float(rng.uniform(0.3, 1.2))),
        lambda: Scheduler("onecycle", max_lr=float(rng.uniform(0.05, 1)), pct_start=0.31),
    ]
    hyperparams = Hyperparams(
        rng.uniform(0.01, 1.5, trials),
        rng.choice([0, 0.5, 0.9], trials),
        rng.choice([0.05, 0.3], trials),
        schedule=[
            Schedule(kinds[i](), interval=interval)
            for i, interval in zip(rng.integers(5, size=trials), rng.choice(["epoch", "step"], trials), strict=True)
        ],
    )
    options = {
        "epochs": epochs,
        "batch_size": int(rng.integers(1, samples + 1)),
        "order": str(rng.choice(["sequential", "shuffled"])),
        "seeds": rng.integers(3, size=trials),
    }
    task = Task(data, LinearModel(bias=False))
    starts = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    runs = [train(task, hyperparams, start=start, dtype="float64", **options).params for start in starts]
    squared = np.square(np.array(runs[1:]) - runs[0]).sum(axis=(0, 2)) / 2
    growth = predict(task, hyperparams, **options).per_epoch
    largest = np.abs(runs).max(axis=(0, 2))
    np.testing.assert_allclose(growth**epochs, np.sqrt(squared), rtol=1e-7, atol=1e-12 * largest.max())


def test_an_epoch_map_with_groups_is_that_of_the_run():
    groups = {"bias": {"lr": [0.1, 0.01], "weight_decay": 0.3}}
    hyperparams = Hyperparams([0.05, 0.01], [0, 0.9], groups=groups)
    options = {"groups": {"bias": ["bias"]}}
    radius = epoch_radius(Task(line()), hyperparams, **options)
    runs = [
        train(Task(line()), hyperparams, start=start, epochs=60, dtype="float64", kernel="reference", **options).params
        for start in ([1.0, 0.0], [0.0, 1.0], [0.0, 0.0])
    ]
    longer = [
        train(Task(line()), hyperparams, start=start, epochs=90, dtype="float64", kernel="reference", **options).params
        for start in ([1.0, 0.0], [0.0, 1.0], [0.0, 0.0])
    ]
    apart = [np.linalg.norm([end - ends[2] for end in ends[:2]], axis=(0, 2)) for ends in (runs, longer)]
    np.testing.assert_allclose((apart[1] / apart[0]) ** (1 / 30), radius, rtol=0.05)


def test_clipped_trials_have_no_growth():
    growth = predict(Task(line()), Hyperparams([0.1, 0.1], clip_grad_norm=[1, np.inf]), epochs=3).per_epoch
    np.testing.assert_array_equal(np.isnan(growth), [True, False])


@pytest.mark.parametrize("lr", [0.06, 0.001])
def test_growth_of_long_runs_is_that_of_the_product_of_matrices(lr):
    """Matrices in long double, whose range holds what overflows or vanishes in double."""
    data, epochs, momentum = line(), 300, 0.9
    x = np.column_stack([data.inputs[:, 0], np.ones(5)]).astype(np.longdouble)
    orders = torch.utils.data.DataLoader(range(5), shuffle=True, generator=torch.Generator().manual_seed(4))
    product = np.vstack([np.eye(2), np.zeros((2, 2))]).astype(np.longdouble)
    for sample in [int(i) for _ in range(epochs) for i in orders]:
        hessian = 2 * np.outer(x[sample], x[sample])
        to_buffer = np.hstack([hessian, momentum * np.eye(2)])
        product = np.vstack([np.hstack([np.eye(2), np.zeros((2, 2))]) - lr * to_buffer, to_buffer]) @ product
    expected = (np.linalg.norm(product[:2].astype(np.longdouble).ravel() / np.sqrt(2, dtype=np.longdouble))) ** (
        np.longdouble(1) / epochs
    )
    [growth] = drawn_growth(Task(data), Hyperparams(lr, momentum), epochs, seeds=4)
    assert growth == pytest.approx(float(expected), rel=1e-9)


def test_orders_of_equal_samples_are_one_map():
    task = Task(Dataset(np.full(4, 2.0), np.arange(4.0)))
    growth = drawn_growth(task, KINDS_OF_STEPS, epochs=4000)
    np.testing.assert_allclose(growth, epoch_radius(task, KINDS_OF_STEPS), rtol=2e-3)


def test_nothing_to_learn_settles_at_once():
    empty = Task(Dataset(np.zeros((3, 2)), [1.0, 2.0, 6.0]), LinearModel(bias=False))
    assert epoch_radius(empty, Hyperparams(0.1)) == 0
    assert drawn_growth(empty, Hyperparams(0.1), 2) == 0


def test_no_epochs_change_nothing():
    assert drawn_growth(Task(line()), Hyperparams(0.1), 0) == pytest.approx(1)


@given(st.permutations(range(6)), st.integers(1, 6), st.sampled_from(["sequential", "shuffled"]))
def test_a_trials_growth_does_not_depend_on_its_neighbours(permutation, taken, order):
    hyperparams = Hyperparams(
        lr=np.linspace(0.01, 0.1, 6), momentum=[0, 0.5, 0.9, 0, 0.3, 0.99], weight_decay=[0, 0.1] * 3
    )
    seeds, some = np.array([0, 0, 1, 1, 2, 2]), np.array(permutation[:taken])
    growth = predict(Task(line()), hyperparams, epochs=3, order=order, seeds=seeds)
    fewer = predict(Task(line()), hyperparams[some], epochs=3, order=order, seeds=seeds[some])
    np.testing.assert_array_equal(fewer.per_epoch, growth.per_epoch[some])
