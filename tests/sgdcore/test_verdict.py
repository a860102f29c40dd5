"""verdict: each verdict is reached, and each number is what its definition says."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given

from sgdcore import Dataset, Hyperparams, LinearModel, Recording, Task, Thresholds, judge, train
from sgdcore.tasks import line
from sgdcore.verdict import VERDICTS
from tests.support.kernel_cases import LINE, assert_same_bits, runs

EVERY = Recording(spacing="all")
NOISY = Task(Dataset(line().inputs, np.float32(line(noise=1.0).targets)))
SCALE = float(np.mean(np.square(NOISY.dataset.targets)))  # the loss of predicting 0
ONE = Task(Dataset([1.0], [1.0]), LinearModel(bias=False))  # L(p) = (p - 1)^2: a step multiplies p - 1 by 1 - 2 lr


def run(task=LINE, epochs=20, **rows):
    return train(task, Hyperparams(**rows), epochs=epochs, start=np.zeros(len(task.parameter_names)), record=EVERY)


CASES = [
    ("overflow", "diverged", partial(run, lr=10.0)),
    ("finite but a million times the start", "diverged", partial(run, ONE, 12, lr=2.0)),
    ("rising", "diverging", partial(run, ONE, 5, lr=1.25)),
    ("rising slowly", "diverging", partial(run, ONE, 5, lr=1.01)),
    ("solved", "converged", partial(run, lr=0.03, momentum=0.9, epochs=60)),
    ("its ridge solution", "converged", partial(run, ONE, 60, lr=0.1, weight_decay=0.5)),
    ("noise floor", "stalled", partial(run, NOISY, 400, lr=0.03)),
    ("limit cycle", "stalled", partial(run, ONE, 40, lr=1.0)),
    ("lr of zero", "stalled", partial(run, lr=0.0)),
    ("lr too small", "stalled", partial(run, ONE, 20, lr=1e-5)),
    ("on its way", "converging", partial(run, ONE, 20, lr=0.01)),
]


@pytest.mark.parametrize(("verdict", "train_case"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_verdict_is_reached(verdict, train_case):
    assert judge(train_case()).verdict.tolist() == [verdict]


def test_all_verdicts_are_among_the_cases():
    assert {case[1] for case in CASES} == set(VERDICTS)


def test_a_start_at_the_minimum_has_converged():
    result = train(ONE, Hyperparams(lr=0.1), epochs=5, start=[1.0])
    judgement = judge(result)
    assert judgement.verdict.tolist() == ["converged"]
    assert np.isnan(judgement.overshoot_percent).all()
    assert judgement.overshoot_parameter.tolist() == [-1]
    assert judgement.steps_to_tolerance.tolist() == [0]


def by_definition(result, limits, minimum):
    """DESIGN 3.5, trial by trial, from the recorded curve alone."""
    for trial in range(len(result)):
        atol = limits.atol if limits.atol is not None else 1e-12 * SCALE
        curve = result.loss[trial].copy()
        if result.weight_decay[trial]:
            curve += result.weight_decay[trial] / 2 * np.square(result.curves.path[trial].astype(float)).sum(axis=1)
        least, first, last = minimum[trial], curve[0], curve[-1]
        if not np.isfinite(curve).all() or last > limits.diverged_factor * first:
            yield "diverged"
        elif last > first + atol:
            yield "diverging"
        elif last - least <= limits.rtol * (first - least) + atol:
            yield "converged"
        elif curve[(len(curve) - 1) * 3 // 4] - last < limits.stalled_below * curve[(len(curve) - 1) * 3 // 4]:
            yield "stalled"
        else:
            yield "converging"


def least_objective(task, decay):
    """The least of loss + decay/2 |p|^2, by least squares on rows added for the penalty."""
    matrix = np.column_stack([task.features, np.ones(task.samples)])
    rows = np.vstack([matrix / np.sqrt(task.samples), np.sqrt(decay / 2) * np.eye(matrix.shape[1])])
    targets = np.concatenate([task.dataset.targets / np.sqrt(task.samples), np.zeros(matrix.shape[1])])
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return np.square(rows @ solution - targets).sum(), solution


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    rows = Hyperparams(
        lr=10 ** rng.uniform(-5, 0.5, 300),
        momentum=rng.choice([0, 0.9], 300),
        weight_decay=rng.choice([0, 0.5], 300),
    )
    return train(NOISY, rows, epochs=40, record=EVERY, start=rng.standard_normal((300, 2)))


@pytest.mark.parametrize(
    "limits",
    [Thresholds(), Thresholds(rtol=0.1, atol=0.5, diverged_factor=10.0, stalled_below=0.3)],
    ids=["default", "of the user"],
)
def test_verdicts_are_their_definitions(many, limits):
    minimum = np.array([least_objective(NOISY, decay)[0] for decay in many.weight_decay])
    np.testing.assert_allclose(many.minimum, minimum, rtol=1e-10)
    with np.errstate(over="ignore"):
        expected = list(by_definition(many, limits, minimum))
    assert judge(many, limits).verdict.tolist() == expected
    assert len(set(expected)) >= 4


def test_default_thresholds_are_the_designs():
    assert Thresholds() == Thresholds(rtol=1e-3, atol=None, diverged_factor=1e6, stalled_below=0.01)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e6])
def test_verdicts_do_not_depend_on_the_unit_of_the_targets(scale):
    """Small targets are not converged at the start just because their losses are small."""
    units = Task(Dataset(NOISY.dataset.inputs, NOISY.dataset.targets * scale))
    settings = Hyperparams(lr=[0.0, 1e-4, 0.01, 0.03, 10.0])
    results = [train(task, settings, epochs=400, start=[0.0, 0.0], dtype="float64") for task in (NOISY, units)]
    one, other = (judge(result).verdict.tolist() for result in results)
    assert one == other
    assert one[0] == "stalled"


def test_numbers_are_their_definitions(many):
    judgement = judge(many)
    for trial in range(len(many)):
        loss = many.loss[trial][np.isfinite(many.loss[trial])]
        assert judgement.final_loss[trial] == loss[-1]
        assert judgement.best_loss[trial] == loss.min()
        assert judgement.best_step[trial] == np.argmin(loss)
        objective, least = many.objective[trial], least_objective(NOISY, many.weight_decay[trial])[0]
        with np.errstate(invalid="ignore"):
            arrived = np.flatnonzero(objective - least <= 1e-3 * (objective[0] - least) + 1e-12 * SCALE)
        assert judgement.steps_to_tolerance[trial] == (arrived[0] if len(arrived) else -1)
    assert_same_bits(judgement.first_nonfinite_step, many.first_nonfinite_step)


def test_overshoot_is_the_farthest_past_the_target(many):
    judgement = judge(many)
    for trial in range(len(many)):
        path = many.curves.path[trial].astype(float)
        path = path[np.isfinite(path).all(axis=1)]
        _, target = least_objective(NOISY, many.weight_decay[trial])
        past = 100 * (path - target) / (target - path[0])
        step, parameter = np.unravel_index(np.argmax(past), past.shape)
        if past.max() <= 1e-8:
            assert judgement.overshoot_percent[trial] == pytest.approx(0, abs=1e-8)
            continue
        assert judgement.overshoot_percent[trial] == pytest.approx(past.max(), rel=1e-8)
        assert judgement.overshoot_parameter[trial] == parameter
        assert judgement.peak_value[trial] == path[step, parameter]
        assert judgement.peak_step[trial] == step


@given(case=runs())
def test_peaks_are_the_farthest_recorded_values_past_the_target(case):
    result = case.train()
    state = result.state
    for trial in range(len(result)):
        finite = np.isfinite(result.curves.path[trial]).all(axis=1)
        for j in range(result.params.shape[1]):
            values = result.curves.path[trial, :, j]
            past = np.where(finite, (values - state.target[trial, j]) * state.direction[trial, j], -np.inf)
            step = np.argmax(past)
            if past[step] <= 0:
                assert state.peak_step[trial, j] == 0
                assert (state.peak[trial, j] - state.target[trial, j]) * state.direction[trial, j] <= 0
            else:
                assert state.peak_step[trial, j] == step
                assert state.peak[trial, j] == values[step]


def test_overshoot_is_seen_between_recorded_steps():
    rows = {"task": LINE, "hyperparams": Hyperparams(lr=0.03, momentum=0.9), "epochs": 60, "start": [0.0, 0.0]}
    sparse, dense = (judge(train(**rows, record=record)) for record in (Recording(0), EVERY))
    assert sparse.overshoot_percent[0] == dense.overshoot_percent[0] > 10
    assert sparse.peak_step[0] == dense.peak_step[0]


def test_overshoot_of_one_parameter_by_hand():
    judgement = judge(run(ONE, 30, lr=0.75))  # p - 1: -1, 0.5, -0.25, ...
    assert judgement.overshoot_percent.tolist() == [50]
    assert judgement.overshoot_parameter.tolist() == [0]
    assert judgement.peak_value.tolist() == [1.5]
    assert judgement.peak_step.tolist() == [1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_parameter_that_starts_on_its_target_has_no_overshoot(dtype):
    even = Task(Dataset([-2, -1, 0, 1, 2], [0.3, 0.7, 0.1, 0.7, 0.3]))  # the best weight is 0, computed as 1e-17
    result = train(even, Hyperparams(lr=[0.01, 0.9]), epochs=20, start=[0.0, 0.0], dtype=dtype)
    assert not result.state.target[:, 0].any()
    assert judge(result).overshoot_parameter.tolist() == [-1, 1]
    there = judge(train(LINE, Hyperparams(lr=0.1), epochs=2, start=[0.8, 1.2], dtype=dtype))
    assert np.isnan(there.overshoot_percent).all()
    assert there.overshoot_parameter.tolist() == [-1]


def test_no_overshoot_is_zero():
    judgement = judge(run(ONE, 30, lr=0.25))
    assert judgement.overshoot_percent.tolist() == [0]
    assert judgement.overshoot_parameter.tolist() == [-1]
    assert judgement.peak_step.tolist() == [-1]
    assert np.isnan(judgement.peak_value).all()


def test_losses_that_overflow_from_the_start_have_no_best():
    result = train(LINE, Hyperparams(lr=0.1), epochs=1, start=[1e200, 0], dtype="float64")
    judgement = judge(result)
    assert judgement.verdict.tolist() == ["diverged"]
    assert np.isnan([judgement.final_loss[0], judgement.best_loss[0]]).all()
    assert judgement.best_step.tolist() == judgement.steps_to_tolerance.tolist() == [-1]


def test_best_step_is_the_first_of_equals():
    judgement = judge(run(ONE, 6, lr=1.0))  # p goes 0, 2, 0, 2: all losses are 1
    assert judgement.best_step.tolist() == [0]


def test_judging_changes_nothing():
    result = run(lr=[10.0, 0.01])
    before = result.loss.copy()
    judge(result)
    assert_same_bits(result.loss, before)


def test_verdict_looks_at_the_objective_not_the_loss():
    result = run(ONE, 200, lr=0.1, weight_decay=2.0)
    assert judge(result).verdict.tolist() == ["converged"]
    unpenalised = replace(result, hyperparams=Hyperparams(lr=0.1), minimum=np.zeros(1))
    assert judge(unpenalised).verdict.tolist() == ["stalled"]


def test_final_loss_is_the_last_finite_loss_even_where_the_penalty_overflows_before_it():
    small = Task(Dataset([[1e-3]], [1.0]), LinearModel(bias=False))
    settings = Hyperparams(lr=[1.0, 0.95, 0.1], weight_decay=[30.0, 30.0, 0.1])
    result = train(small, settings, epochs=110, start=[1.0], dtype="float64", record=EVERY)
    beyond = np.isfinite(result.loss) & ~np.isfinite(result.objective)
    assert beyond.any(axis=1).tolist() == [True, True, False]
    expected = [curve[np.isfinite(curve)][-1] for curve in result.loss]
    assert_same_bits(judge(result).final_loss, np.array(expected))
