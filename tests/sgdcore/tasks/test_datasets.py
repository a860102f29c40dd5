"""datasets: formulas, splits, standardisation and digests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from sgdcore import Dataset
from sgdcore.tasks import line, linear, polynomial, sine


def test_line_is_the_published_data():
    data = line()
    assert data.inputs.tolist() == [[1], [2], [3], [4], [5]]
    np.testing.assert_allclose(data.targets, [2.0, 2.8, 3.6, 4.4, 5.2], rtol=1e-15)
    assert line(2, -1, [0, 3]).targets.tolist() == [-1, 5]


@pytest.mark.parametrize("make", [line, linear, polynomial, sine, lambda **kwargs: line(x=np.zeros(4000), **kwargs)])
def test_noise_is_drawn_from_the_seed(make):
    assert (make(noise=0.5, seed=1).targets == make(noise=0.5, seed=1).targets).all()
    assert (make(noise=0.5, seed=1).targets != make(noise=0.5, seed=2).targets).any()


def test_noise_has_the_given_deviation():
    noise = line(0, 0, x=np.zeros(20_000), noise=0.5).targets
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    assert abs(noise.mean()) < 0.02


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e4])
def test_linear_has_the_condition_number(condition):
    data = linear(n=50, d=4, condition=condition)
    eigenvalues = np.linalg.eigvalsh(data.inputs.T @ data.inputs / 50)
    assert eigenvalues[-1] == pytest.approx(1.0)
    assert eigenvalues[-1] / eigenvalues[0] == pytest.approx(condition, rel=1e-6)


def test_linear_without_noise_is_solved_exactly():
    data = linear(n=20, d=3)
    solution, *_ = np.linalg.lstsq(data.inputs, data.targets, rcond=None)
    np.testing.assert_allclose(data.inputs @ solution, data.targets, atol=1e-12)


def test_polynomial_and_sine_are_their_formulas():
    curve = polynomial((1, 2, 3), n=3, low=0, high=2)
    assert curve.inputs[:, 0].tolist() == [0, 1, 2]
    assert curve.targets.tolist() == [1, 6, 17]
    wave = sine(n=5, frequency=2)
    np.testing.assert_allclose(wave.inputs[:, 0], np.linspace(-np.pi, np.pi, 5))
    np.testing.assert_allclose(wave.targets, np.sin(2 * wave.inputs[:, 0]))


def test_inputs_become_a_matrix_of_float64():
    data = Dataset([1, 2, 3], [4, 5, 6])
    assert data.inputs.shape == (3, 1)
    assert data.inputs.dtype == data.targets.dtype == np.float64
    assert len(data) == 3


def test_features_get_names():
    assert line().feature_names == ("x",)
    assert linear(5, 3).feature_names == ("x0", "x1", "x2")
    assert Dataset([1], [1], ("age",)).feature_names == ("age",)


@given(n=st.integers(2, 50), fraction=st.floats(0.1, 0.9), seed=st.integers(0, 100))
def test_split_parts_the_samples_and_keeps_their_order(n, fraction, seed):
    data = line(x=np.arange(n, dtype=float))
    held_out = round(fraction * n)
    if not 0 < held_out < n:
        return
    parts = data.split(fraction, seed)
    kept, validation = parts.inputs[:, 0], parts.validation.inputs[:, 0]
    assert len(validation) == held_out
    assert sorted([*kept, *validation]) == list(range(n))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(validation) > 0).all()
    for part in (parts, parts.validation):
        np.testing.assert_allclose(part.targets, 0.8 * part.inputs[:, 0] + 1.2)
    assert parts.validation.validation is None


def test_split_is_drawn_from_the_seed():
    data = linear(40)
    assert data.split(0.5, seed=1).digest == data.split(0.5, seed=1).digest
    assert data.split(0.5, seed=1).digest != data.split(0.5, seed=2).digest


def test_standardisation_is_scikit_learns():
    rng = np.random.default_rng(0)
    data = Dataset(rng.normal(5, 3, (30, 2)), rng.normal(-2, 7, 30), ("a", "b")).split(0.3)
    standardized = data.standardized(targets=True)
    scaler, target_scaler = StandardScaler().fit(data.inputs), StandardScaler().fit(data.targets[:, None])
    for part, raw in ((standardized, data), (standardized.validation, data.validation)):
        np.testing.assert_allclose(part.inputs, scaler.transform(raw.inputs))
        np.testing.assert_allclose(part.targets, target_scaler.transform(raw.targets[:, None])[:, 0])
        assert part.feature_names == ("a", "b")


def test_standardisation_leaves_targets_unless_asked():
    data = linear(10)
    assert (data.standardized().targets == data.targets).all()
    assert data.standardized().validation is None


def test_constant_columns_are_only_shifted():
    data = Dataset([[3.0, 1.0], [3.0, 5.0]], [2.0, 2.0]).standardized(targets=True)
    assert data.inputs.tolist() == [[0, -1], [0, 1]]
    assert data.targets.tolist() == [0, 0]


@pytest.mark.parametrize("value", [0.1, 0.7, 1e17, -3.3])
def test_constant_columns_whose_mean_rounds_are_only_shifted(value: float):
    held_out = Dataset([[2 * value, 0.0]], [1.0])
    data = Dataset(np.column_stack([np.full(50, value), np.arange(50)]), np.arange(50), validation=held_out)
    standardized = data.standardized()
    assert not standardized.inputs[:, 0].any()
    assert standardized.validation.inputs[0, 0] == value


def test_digest_depends_on_every_value_and_the_shape():
    data = Dataset([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0])
    others = [
        Dataset([[1.0, 2.0], [3.0, 4.5]], [5.0, 6.0]),
        Dataset([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.5]),
        Dataset([[1.0, 3.0], [2.0, 4.0]], [5.0, 6.0]),
        Dataset([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]),
        Dataset([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0], validation=data),
        Dataset([[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0], validation=Dataset([[1.0, 2.0]], [1.0])),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 7
    assert Dataset(np.asfortranarray(data.inputs), [5, 6]).digest == data.digest
