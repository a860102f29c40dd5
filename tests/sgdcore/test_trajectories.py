"""trajectories: the result's arrays, its objective and its table."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from sgdcore import Dataset, Hyperparams, ModuleModel, Recording, Task, train
from sgdcore.tasks import line, linear
from tests.support.kernel_cases import LINE, assert_same_bits, take


@pytest.fixture(scope="module")
def result():
    rows = Hyperparams(lr=[0.01, 10.0, 0.02], momentum=[0, 0, 0.9], weight_decay=[0, 0, 0.5])
    return train(LINE, rows, epochs=10, record=Recording(spacing="all"))


def test_length_names_and_shapes(result):
    assert len(result) == 3
    assert result.parameter_names == ("weight", "bias")
    assert result.loss.shape == (3, 51)
    assert result.params.shape == (3, 2)
    assert result.steps.tolist() == list(range(51))


def test_last_point_of_the_path_is_the_final_parameters(result):
    assert_same_bits(result.curves.path[[0, 2], -1], result.params[[0, 2]])


def test_objective_adds_the_penalty(result):
    np.testing.assert_array_equal(result.objective[:2], result.loss[:2])
    squared_norm = np.square(result.curves.path[2].astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(result.objective[2], result.loss[2] + 0.5 / 2 * squared_norm, rtol=1e-14)


def test_objective_without_penalty_is_the_loss_however_large_the_parameters():
    rows = Hyperparams(lr=0.1, weight_decay=[0.0, 0.5])
    result = train(LINE, rows, epochs=1, start=[[1e200, 0], [1e200, 0]], dtype="float64", record=Recording(0))
    assert_same_bits(result.objective[0], result.loss[0])
    assert result.objective[1, 0] == np.inf


def test_no_norms_are_kept_without_weight_decay():
    plain = train(LINE, Hyperparams(lr=0.01), epochs=1)
    assert plain.curves.squared_norm is None
    assert plain.objective is plain.loss


def test_momentum_buffers_are_kept_only_with_momentum(result):
    assert not result.state.momentum_buffers[:2].any()
    assert result.state.momentum_buffers[2].all()


def test_parameters_that_are_called_like_other_columns_have_names_of_their_own():
    def make() -> torch.nn.Module:
        model = torch.nn.Linear(1, 1)
        model.step = torch.nn.Parameter(torch.zeros(1))
        model.forward = lambda x: functional.linear(x, model.weight, model.bias + model.step)
        return model

    run = train(Task(line(), ModuleModel(make)), Hyperparams(lr=0.01), epochs=2)
    table = pd.DataFrame(run.columns())
    assert table["step"].tolist() == run.steps.tolist()
    np.testing.assert_array_equal(table["param.step"], run.curves.path[0, :, run.parameter_names.index("step")])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_of_undetermined_directions_do_not_depend_on_the_pack(dtype):
    rng = np.random.default_rng(0)
    task = Task(Dataset(rng.standard_normal((2, 6)), rng.standard_normal(2)))
    starts = rng.standard_normal((40, 7))
    rows = Hyperparams(lr=np.geomspace(1e-3, 0.3, 40), momentum=0.5)
    whole = train(task, rows, epochs=3, start=starts, dtype=dtype)
    for some in ([7], [3, 4], list(range(5, 38))):
        part = train(task, rows[np.array(some)], epochs=3, start=starts[some], dtype=dtype)
        assert_same_bits(part.state.target, whole.state.target[some])
        assert_same_bits(part.state.peak, whole.state.peak[some])


def test_table_has_a_row_a_trial_and_step(result):
    table = pd.DataFrame(result.columns())
    assert table.columns.tolist() == ["trial", "step", "loss", "distance", "weight", "bias"]
    assert len(table) == 3 * 51
    row = table[(table.trial == 2) & (table.step == 7)].iloc[0]
    assert row["loss"] == result.loss[2, 7]
    assert row["distance"] == result.distance[2, 7]
    assert (row["weight"], row["bias"]) == tuple(result.curves.path[2, 7])


def test_table_shows_validation_and_leaves_out_long_paths():
    held_out = train(Task(linear(9, 2).split(0.3)), Hyperparams(lr=0.01), epochs=1).columns()
    assert list(held_out) == ["trial", "step", "loss", "validation_loss", "distance", "weight.0", "weight.1", "bias"]
    wide = train(Task(linear(20, 20)), Hyperparams(lr=0.001), epochs=1).columns()
    assert list(wide) == ["trial", "step", "loss"]


def test_distance_is_that_to_the_minimiser_of_the_objective(result):
    line_itself, ridge = [0.8, 1.2], LINE.quadratic("float32").ridge_minimiser(np.array([0.5]))[0]
    for trial, target in ((0, line_itself), (2, ridge)):
        expected = np.linalg.norm(result.curves.path[trial].astype(np.float64) - target, axis=1)
        np.testing.assert_allclose(result.distance[trial], expected, rtol=1e-6)
    assert result.distance.dtype == np.float64
    assert result.distance[0, -1] < result.distance[0, 0] / 2


def test_distance_ends_where_a_trial_stops(result):
    stop = int(result.first_nonfinite_step[1])
    assert np.isnan(result.distance[1, stop:]).all()
    assert np.isfinite(result.distance[1, :stop]).all()
    far = train(LINE, Hyperparams(lr=0.0), epochs=1, start=[3e200, 4e200], dtype="float64")
    np.testing.assert_allclose(far.distance[0], 5e200)


def test_distance_leaves_out_what_the_data_leave_open():
    twice = Task(Dataset(np.repeat(line().inputs, 2, axis=1), line().targets))
    result = train(twice, Hyperparams(lr=0.02), epochs=5000, batch_size=5, start=[5.0, -5.0, 0.0], dtype="float64")
    assert result.distance[0, 0] > 1
    assert result.distance[0, -1] < 1e-6


def test_no_distance_without_a_path():
    assert train(Task(linear(20, 20)), Hyperparams(lr=0.001), epochs=1).distance is None


def test_taken_trials_are_copies(result):
    part = take(result, [2, 0])
    assert_same_bits(part.params, result.params[[2, 0]])
    part.params[:] = 5
    assert not (result.params == 5).any()


def test_path_is_in_the_runs_dtype_and_losses_are_float64():
    for dtype in ("float32", "float64"):
        ran = train(Task(line()), Hyperparams(lr=0.01), epochs=1, dtype=dtype)
        assert ran.params.dtype == ran.curves.path.dtype == ran.state.peak.dtype == dtype
        assert ran.loss.dtype == np.float64
