"""The triton kernel compared with numba's, bit for bit; test_linear_triton.py runs this in a separate process.

A program's vectors are numpy arrays here, so that a step takes 5 ms for one trial as well as for 64.
"""

from dataclasses import replace

import numpy as np
import pytest

from sgdcore import Dataset, Hyperparams, LinearModel, Recording, Schedule, Scheduler, Task, batches, train
from sgdcore.kernels.linear_triton import kernel as triton_kernel
from sgdcore.tasks import line, linear
from tests.support.hypothesis_profiles import NIGHTLY
from tests.support.kernel_cases import (
    LINE,
    TRAIN_INPUTS,
    TrainInput,
    assert_close_training,
    assert_same,
    assert_same_bits,
    assert_same_state,
)

RECORDINGS = [Recording(spacing="all"), Recording(4), Recording(0)]


def of_every_kind(features: int, bias: bool = True, **arguments) -> TrainInput:
    """Return trials of every kind of momentum and decay, more than a block; some overflow at different steps."""
    rng = np.random.default_rng(features)
    values = rng.standard_normal((5, features + 1)).astype(np.float32).astype(np.float64)
    kinds = {
        "lr": np.float32([0.01, 0.02, 0.05, 0.01, 0.6, 1e9, 3e20, 0.0, 1e12]),
        "momentum": np.float32([0, 0.9, 0.5, 0.9, 0, 0.5, 0, 0.9, 0.9]),
        "weight_decay": np.float32([0, 0, 0.1, 0.1, 0, 0.1, 0, 0, 0.1]),
        "dampening": np.float32([0, 0.5, 0, 0, 0, 0, 0, 0, 0]),
        "nesterov": [False, False, True, True, False, False, False, False, True],
    }
    many = {name: np.tile(column, 8) for name, column in kinds.items()}
    task = Task(Dataset(values[:, :-1], values[:, -1], validation=line(x=[3, 4]) if features == 1 else None))
    start = rng.standard_normal((72, features + bias))
    options = {"epochs": 3, "start": start, "order": "shuffled", "seeds": np.arange(72) % 3}
    return TrainInput("every kind", Task(task.dataset, LinearModel(bias)), many, options | arguments)


SHAPES = [  # numba takes seconds to compile each
    (1, True, "float32", 1),
    (2, False, "float64", 2),
    (5, True, "float64", 1),
    (5, False, "float32", 2),
    (8, True, "float64", 2),
]
if NIGHTLY:
    SHAPES += [
        (1, False, "float32", 2),
        (2, True, "float32", 1),
        (3, True, "float32", 2),
        (4, False, "float32", 1),
        (6, False, "float32", 2),
        (7, False, "float32", 1),
    ]


@pytest.mark.parametrize(("features", "bias", "dtype", "batch_size"), SHAPES)
def test_trials_of_every_kind(features: int, bias: bool, dtype: str, batch_size: int):
    case = of_every_kind(features, bias, dtype=dtype, batch_size=batch_size, epochs=3 if features < 3 else 2)
    result = case.train(kernel="triton")
    assert (result.kernel, result.device) == ("triton", "cpu")
    stopped = result.first_nonfinite_step
    assert len(set(stopped[stopped >= 0])) >= (2 if dtype == "float32" else 0)
    assert_same(result, case.train(kernel="numba"))


WIDE_SHAPES = [(16, True, "float32", 1), (19, False, "float64", 2)]
if NIGHTLY:
    WIDE_SHAPES += [(255, True, "float32", 2), (40, True, "float64", 1), (17, False, "float32", 2)]


@pytest.mark.parametrize(("features", "bias", "dtype", "batch_size"), WIDE_SHAPES)
def test_more_parameters_than_registers_hold(features: int, bias: bool, dtype: str, batch_size: int):
    test_trials_of_every_kind(features, bias, dtype, batch_size)


def with_everything(batch_size: int, features: int = 1) -> TrainInput:
    """Return trials with schedules, a group of the bias and clipped gradients, of few kinds: numba compiles each."""
    by_epoch, by_step = Schedule(Scheduler("step", step_size=2)), Schedule(Scheduler("onecycle"), interval="step")
    hyperparams = {
        "lr": np.tile(np.float32([0.01, 0.05, 0.6, 1e9, 0.02, 3e20, 0.05, 0.01, 0.02]), 8),
        "momentum": 0.9,
        "weight_decay": 0.1,
        "schedule": [by_epoch, by_step, by_step, by_step, by_epoch, by_step, None, by_epoch, by_step] * 8,
        "groups": {"bias": {"lr": 0.01, "weight_decay": 0.0}},
        "clip_grad_norm": np.tile([0.5, np.inf, 2], 24),
        "clip_grad_value": np.tile([np.inf, 0.5, 1], 24),
    }
    case = of_every_kind(features, batch_size=batch_size, groups={"bias": ["bias"]})
    return replace(case, hyperparams=hyperparams)


@pytest.mark.parametrize(("batch_size", "features"), [(1, 1), (2, 1), (2, 16)])
def test_schedules_groups_and_clipping(monkeypatch, batch_size: int, features: int):
    case = with_everything(batch_size, features)
    expected = case.train(kernel="numba")
    assert len(set(expected.state.clipped_steps.tolist())) >= 3
    assert_same(case.train(kernel="triton"), expected)
    monkeypatch.setattr(triton_kernel, "LAUNCH_STEPS", 4)
    assert_same(case.train(kernel="triton"), expected)


@pytest.mark.parametrize("record", RECORDINGS, ids=lambda record: f"{record.spacing} {record.points}")
@pytest.mark.parametrize("desc", ["overflows float32", "batches of two, the last of one", "validation"])
def test_recordings(desc: str, record: Recording):
    case = next(case for case in TRAIN_INPUTS if case.desc == desc)
    assert_same(*(case.train(kernel=kernel, record=record, epochs=4) for kernel in ("triton", "numba")))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_launches_may_be_cut_anywhere(monkeypatch, batch_size: int):
    case = of_every_kind(1, batch_size=batch_size)
    expected = case.train(kernel="numba")
    monkeypatch.setattr(triton_kernel, "LAUNCH_STEPS", 4)
    assert_same(case.train(kernel="triton"), expected)
    monkeypatch.setattr(triton_kernel, "LAUNCH_NUMBERS", 1)  # a launch for every recorded step
    assert_same(case.train(kernel="triton"), expected)


def test_blocks_of_epochs_change_no_bit(monkeypatch):
    case = of_every_kind(1)
    expected = case.train(kernel="numba")
    monkeypatch.setattr(batches, "_BLOCK_ENTRIES", 10)
    assert_same(case.train(kernel="triton"), expected)


@pytest.mark.parametrize("order", ["sequential", "shuffled"])
def test_continuing_goes_on_where_either_kernel_stopped(order: str):
    case = of_every_kind(2, batch_size=2, order=order)
    expected = case.train(kernel="numba", epochs=4)
    for first, second in (("triton", "triton"), ("numba", "triton"), ("triton", "numba")):
        begun = case.train(kernel=first, epochs=1)
        ended = case.train(kernel=second, epochs=3, start=begun)
        assert_same_state(ended, expected)
        assert_same_bits(ended.loss, expected.loss[:, 3:])


def test_no_trials_and_no_epochs():
    none = train(LINE, Hyperparams(lr=[]), epochs=2, kernel="triton")
    assert none.loss.shape == (0, len(none.steps))
    case = of_every_kind(1, epochs=0)
    assert_same(case.train(kernel="triton"), case.train(kernel="numba"))


def test_nothing_to_learn_from():
    task = Task(Dataset(np.zeros((3, 1)), [1.0, 2.0, 4.0]), LinearModel(bias=False))
    options = {"epochs": 2, "start": [3.0]}
    assert_same(*(train(task, Hyperparams(lr=0.1), kernel=kernel, **options) for kernel in ("triton", "numba")))


def test_as_many_parameters_as_registers_hold():
    # Neither trial overflows: which parameters would be infinite, and which NaN, depends on the order of torch's sums.
    case = TrainInput("wide", Task(linear(16, 15)), {"lr": [0.001, 0.003]}, {"epochs": 1, "batch_size": 2})
    assert_close_training(case.train(kernel="triton"), case.train(kernel="reference"))
