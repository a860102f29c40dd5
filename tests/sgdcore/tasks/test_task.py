"""task: losses are means over the samples, minima are those of numpy's least squares and scikit-learn's ridge."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from sgdcore import Dataset, Hyperparams, InvalidTask, LinearModel, PolynomialModel, Recording, SgdError, Task, train
from sgdcore.tasks import line, linear, sine
from tests.support.hypothesis_profiles import examples
from tests.support.kernel_cases import ERROR_INPUTS, ErrorInput, runs


@pytest.mark.parametrize(
    "case", [case for case in ERROR_INPUTS if case.error_type is InvalidTask], ids=lambda case: case.desc
)
def test_bad_input_raises(case: ErrorInput):
    with pytest.raises(case.error_type, match=case.error_regex) as raised:
        case.call()
    assert isinstance(raised.value, SgdError)
    assert isinstance(raised.value, ValueError)


def design(task: Task, dtype="float64", validation=False) -> tuple[np.ndarray, np.ndarray]:
    """The matrix and targets that the trials see, the column of ones included."""
    data = task.dataset.validation if validation else task.dataset
    features = task.model.features(data.inputs)
    columns = np.column_stack([features, np.ones(len(features))]) if task.model.bias else features
    return columns.astype(dtype).astype(float), data.targets.astype(dtype).astype(float)


def mean_squared_error(task: Task, params: np.ndarray, dtype="float64", validation=False) -> np.ndarray:
    """The mean over the samples, in exact fractions."""
    matrix, targets = design(task, dtype, validation)
    losses = []
    for p in params.reshape(-1, params.shape[-1]):
        residuals = [
            sum((Fraction(x) * Fraction(w) for x, w in zip(row, map(float, p), strict=True)), -Fraction(y))
            for row, y in zip(matrix.tolist(), targets.tolist(), strict=True)
        ]
        losses.append(float(sum(r * r for r in residuals) / len(residuals)))
    return np.reshape(losses, params.shape[:-1])


TASKS = {
    "line": Task(line()),
    "one sample": Task(Dataset([2.0], [3.0])),
    "without bias": Task(linear(20, 3, noise=0.5), LinearModel(bias=False)),
    "noise": Task(linear(30, 4, noise=1.0)),
    "ill-conditioned": Task(linear(30, 4, condition=1e10, noise=1.0)),
    "nearly collinear": Task(Dataset([[1.0, 1.0], [0.0, 1e-12], [0.0, 0.0]], [0.0, 1.0, 0.0]), LinearModel(bias=False)),
    "polynomial": Task(sine(20), PolynomialModel(7)),
    "fewer samples than features": Task(Dataset(np.random.default_rng(0).standard_normal((3, 6)), [1.0, 2.0, 3.0])),
    "a column twice": Task(Dataset(np.repeat(line().inputs, 2, axis=1), [2.0, 3.0, 3.0, 6.0, 5.0])),
    "zero features": Task(Dataset(np.zeros((3, 2)), [1.0, 2.0, 6.0])),
    "zero features, no bias": Task(Dataset(np.zeros((3, 2)), [1.0, 2.0, 6.0]), LinearModel(bias=False)),
}
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
DECAYS = np.array([1e-6, 0.01, 0.5, 1.0, 100.0])


@each_task
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quadratic_is_the_mean_squared_error(task, dtype):
    params = np.random.default_rng(1).standard_normal((5, len(task.parameter_names))) * [[1e-3], [1], [3], [1e4], [1e8]]
    np.testing.assert_allclose(
        task.quadratic(dtype).value(params), mean_squared_error(task, params, dtype), rtol=1e-12, atol=1e-12
    )


@examples(6, 200)
@given(case=runs(max_epochs=5))
def test_recorded_losses_are_mean_squared_errors(case):
    result = case.train()
    path = result.curves.path.astype(float)
    alive = np.isfinite(path).all(axis=2) & (np.abs(path).max(axis=2) < 1e100)
    expected = mean_squared_error(case.task, path[alive], case.kwargs["dtype"])
    matrix, targets = design(case.task)
    scale = np.square(np.abs(path[alive]) @ np.abs(matrix).T).mean(axis=-1) + np.square(targets).mean()
    np.testing.assert_allclose(result.loss[alive], expected, rtol=1e-9, atol=1e-14 * scale.max(initial=0))


@pytest.mark.parametrize("kernel", ["numba", "reference"])
@pytest.mark.parametrize(
    ("features", "bias", "dtype"), [(1, True, "float32"), (3, True, "float32"), (2, False, "float64")]
)
def test_validation_losses_are_over_the_held_out_samples(kernel, features, bias, dtype):
    task = Task(linear(20, features, noise=1.0).split(0.3, seed=1), LinearModel(bias))
    result = train(task, Hyperparams(lr=[0.01, 0.02]), epochs=3, kernel=kernel, dtype=dtype)
    path = result.curves.path.astype(float)
    np.testing.assert_allclose(
        result.curves.validation_loss, mean_squared_error(task, path, dtype, validation=True), rtol=1e-12
    )
    np.testing.assert_allclose(result.loss, mean_squared_error(task, path, dtype), rtol=1e-12)
    assert task.samples == 14


def test_no_validation_loss_without_a_validation_set():
    assert Task(line()).validation_quadratic() is None
    assert train(Task(line()), Hyperparams(lr=0.01), epochs=1).curves.validation_loss is None


@each_task
def test_minimum_is_that_of_least_squares(task):
    matrix, targets = design(task)
    solution = np.linalg.lstsq(matrix, targets, rcond=None)[0]
    least = np.square(matrix @ solution - targets).mean()
    np.testing.assert_allclose(task.quadratic().minimum, least, rtol=1e-10, atol=1e-7 * np.square(targets).mean())
    (without_penalty,) = task.quadratic().objective_minimum(np.zeros(1))
    assert without_penalty == task.quadratic().minimum


@pytest.mark.parametrize("name", [name for name in TASKS if "col" not in name and "ill" not in name])
def test_minimiser_without_penalty_is_least_squares_of_least_norm(name):
    matrix, targets = design(TASKS[name])
    (minimiser,) = TASKS[name].quadratic().ridge_minimiser(np.zeros(1))
    np.testing.assert_allclose(minimiser, np.linalg.lstsq(matrix, targets, rcond=None)[0], rtol=1e-8, atol=1e-10)


def test_a_column_twice_shares_its_weight():
    (minimiser,) = TASKS["a column twice"].quadratic().ridge_minimiser(np.zeros(1))
    assert minimiser[0] == pytest.approx(minimiser[1])


@each_task
def test_minimiser_and_minimum_with_penalty_are_ridges(task):
    matrix, targets = design(task)
    quadratic = task.quadratic()
    minima = quadratic.objective_minimum(DECAYS)
    for decay, minimiser, minimum in zip(DECAYS, quadratic.ridge_minimiser(DECAYS), minima, strict=True):
        ridge = Ridge(alpha=len(targets) * decay / 2, fit_intercept=False, solver="svd").fit(matrix, targets)
        np.testing.assert_allclose(minimiser, ridge.coef_, rtol=1e-7, atol=1e-10)
        expected = np.square(matrix @ ridge.coef_ - targets).mean() + decay / 2 * ridge.coef_ @ ridge.coef_
        np.testing.assert_allclose(minimum, expected, rtol=1e-10, atol=1e-12)


@each_task
@given(seed=st.integers(0, 10**6), decay=st.sampled_from([0.0, *DECAYS]), size=st.sampled_from([1e-6, 1e-2, 1.0]))
def test_no_point_near_the_minimiser_is_lower(task, seed, decay, size):
    quadratic = task.quadratic()
    (minimiser,) = quadratic.ridge_minimiser(np.array([decay]))
    near = minimiser + size * np.random.default_rng(seed).standard_normal((10, len(minimiser)))
    objective = quadratic.value(near) + decay / 2 * np.square(near).sum(axis=1)
    (least,) = quadratic.objective_minimum(np.array([decay]))
    assert (objective >= least * (1 - 1e-12)).all()


def test_nearest_minimiser_keeps_what_the_data_leave_open():
    task = TASKS["a column twice"]
    start = np.array([[5.0, -5.0, 0.0], [5.0, -5.0, 0.0]])
    targets = task.quadratic().nearest_minimisers(np.array([0.0, 0.5]), start)
    assert targets[0, 0] - targets[0, 1] == pytest.approx(10.0)
    assert targets[1, 0] == pytest.approx(targets[1, 1])
    assert task.quadratic().value(targets[0]) == pytest.approx(task.quadratic().minimum)
    result = train(task, Hyperparams(lr=0.02), epochs=5000, batch_size=5, start=start[0], dtype="float64")
    np.testing.assert_allclose(result.params[0], targets[0], rtol=1e-6)


@each_task
def test_nearest_minimiser_is_the_projection_of_the_start(task):
    matrix, targets = design(task)
    start = np.random.default_rng(3).standard_normal((1, matrix.shape[1]))
    (nearest,) = task.quadratic().nearest_minimisers(np.zeros(1), start)
    expected = start[0] + np.linalg.lstsq(matrix, targets - matrix @ start[0], rcond=None)[0]
    np.testing.assert_allclose(nearest, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_losses_near_the_minimum_do_not_cancel(noise):
    task = Task(linear(50, 3, noise=noise))
    matrix, _ = design(task)
    quadratic = task.quadratic()
    (minimiser,) = quadratic.ridge_minimiser(np.zeros(1))
    away = np.random.default_rng(0).standard_normal(4)
    for size in (1e-1, 1e-4, 1e-6):
        gained = quadratic.value(minimiser + size * away) - quadratic.minimum
        expected = np.square(matrix @ (size * away)).mean()
        assert gained == pytest.approx(expected, rel=1e-8, abs=1e-16 * quadratic.minimum)


def exact_minimiser(matrix: np.ndarray, targets: np.ndarray) -> list[Fraction]:
    """A solution of the normal equations in fractions, 0 in directions that the data leave open."""
    a = [[Fraction(x) for x in row] for row in matrix.tolist()]
    z = [Fraction(y) for y in targets.tolist()]
    columns = list(zip(*a, strict=True))
    rows = [[dot(c, d) for d in columns] + [dot(c, z)] for c in columns]
    pivots: list[int] = []
    for column in range(len(columns)):
        pivot = next((i for i in range(len(pivots), len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[len(pivots)], rows[pivot] = rows[pivot], rows[len(pivots)]
        top = rows[len(pivots)] = [value / rows[len(pivots)][column] for value in rows[len(pivots)]]
        for i, row in enumerate(rows):
            if i != len(pivots) and row[column]:
                rows[i] = [value - row[column] * above for value, above in zip(row, top, strict=True)]
        pivots.append(column)
    solution = [Fraction(0)] * len(columns)
    for row, column in zip(rows, pivots, strict=False):
        solution[column] = row[-1]
    return solution


def dot(a, b) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


HILBERT = 1 / (np.arange(8)[:, np.newaxis] + np.arange(1, 7))
NARROW = {
    "linear, 1e8": Task(linear(12, 3, condition=1e8)),
    "linear, 1e12, noise": Task(linear(12, 3, condition=1e12, noise=0.1)),
    "Hilbert, exact": Task(Dataset(HILBERT, HILBERT.sum(axis=1)), LinearModel(bias=False)),
    "Hilbert": Task(Dataset(HILBERT, np.arange(8.0)), LinearModel(bias=False)),
    "polynomial of degree 7": Task(sine(10), PolynomialModel(7)),
    "beyond float64": Task(Dataset([[1.0, 1.0], [0.0, 1e-20], [1.0, 1.0]], [1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize("size", [0.0, 1e-10, 1e-3])
@pytest.mark.parametrize("name", NARROW)
def test_losses_of_ill_conditioned_data_do_not_cancel(name, size):
    """Against exact fractions: a residual is off by its own rounding at most, not the loss by that of its terms."""
    matrix, targets = design(NARROW[name])
    minimiser = np.array([float(x) for x in exact_minimiser(matrix, targets)])
    if name == "beyond float64":
        minimiser = np.array([1.0, 1.0, 0.0])  # the exact one is at 1e20: no float near it has a loss near the least
    directions = np.random.default_rng(0).standard_normal((5, len(minimiser)))
    params = minimiser * (1 + size * directions)
    losses, exact = NARROW[name].quadratic().value(params), mean_squared_error(NARROW[name], params)
    largest = np.abs(params) @ np.abs(matrix).max(axis=0) + np.abs(targets).max()
    rounding = 8 * max(matrix.shape) * np.finfo(float).eps * largest
    assert (np.abs(losses - exact) <= 2 * rounding * np.sqrt(exact) + rounding**2).all()


@given(data=st.data(), n=st.integers(1, 7), k=st.integers(1, 6), rank=st.integers(0, 6), bias=st.booleans())
def test_rank_deficient_data(data, n, k, rank, bias):
    """Small integers, so that the rank is exact: minimum, nearest minimiser and ridge against fractions and lstsq."""
    integers = st.integers(-3, 3)
    left = data.draw(st.lists(integers, min_size=n * rank, max_size=n * rank))
    right = data.draw(st.lists(integers, min_size=rank * k, max_size=rank * k))
    targets = np.array(data.draw(st.lists(integers, min_size=n, max_size=n)), dtype=float)
    task = Task(Dataset(np.reshape(left, (n, rank)) @ np.reshape(right, (rank, k)) + 0.0, targets), LinearModel(bias))
    matrix, _ = design(task)
    quadratic = task.quadratic()
    assert len(quadratic.singular_values) == np.linalg.matrix_rank(matrix)
    solution = exact_minimiser(matrix, targets)
    rows = zip(matrix.tolist(), targets.tolist(), strict=True)
    least = sum((dot(map(Fraction, row), solution) - Fraction(y)) ** 2 for row, y in rows) / n
    assert quadratic.minimum == pytest.approx(float(least), rel=1e-12, abs=1e-28)
    start = np.arange(1.0, matrix.shape[1] + 1)
    away = np.linalg.lstsq(matrix, targets - matrix @ start, rcond=None)[0]
    (nearest,) = quadratic.nearest_minimisers(np.zeros(1), start[np.newaxis])
    np.testing.assert_allclose(nearest, start + away, rtol=1e-9, atol=1e-9)
    assert quadratic.value(nearest) == pytest.approx(float(least), rel=1e-9, abs=1e-24)
    (ridge,) = quadratic.ridge_minimiser(np.array([0.5]))
    penalised = np.vstack([matrix, np.sqrt(n * 0.25) * np.eye(len(start))])
    expected = np.linalg.lstsq(penalised, np.append(targets, 0 * start), rcond=None)[0]
    np.testing.assert_allclose(ridge, expected, rtol=1e-9, atol=1e-12)


def test_a_run_without_noise_converges_to_a_loss_of_rounding_squared():
    options = {"epochs": 4000, "batch_size": 5, "dtype": "float64", "record": Recording(spacing="all")}
    result = train(Task(line()), Hyperparams(lr=0.03), start=[0, 0], **options)
    assert result.loss[0, -1] < 1e-27
    falling = result.loss[0, result.loss[0] > 1e-26]
    assert (np.diff(falling) < 0).all()


def test_parameter_names():
    assert Task(line()).parameter_names == ("weight", "bias")
    assert Task(linear(5, 2), LinearModel(bias=False)).parameter_names == ("weight.0", "weight.1")
    assert Task(line(), PolynomialModel(2)).parameter_names == ("weight.0", "weight.1", "bias")


def test_loss_is_torchs_mse_loss():
    task = Task(linear(12, 2, noise=1.0))
    layer = torch.nn.Linear(2, 1, dtype=torch.float64)
    predicted = layer(torch.from_numpy(task.features))[:, 0]
    expected = torch.nn.functional.mse_loss(predicted, torch.from_numpy(task.dataset.targets)).item()
    params = torch.cat([layer.weight[0], layer.bias]).detach().numpy()
    assert task.quadratic().value(params) == pytest.approx(expected, rel=1e-13)
