"""engine: train() trains trials one by one or by the thousand, whole or in parts, to the same bits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgdcore import (
    Dataset,
    Hyperparams,
    InvalidHyperparams,
    InvalidTask,
    KernelUnavailable,
    Recording,
    SgdError,
    Task,
    batches,
    judge,
    train,
)
from sgdcore.tasks import line, linear
from tests.support.hypothesis_profiles import NIGHTLY, examples
from tests.support.kernel_cases import (
    ERROR_INPUTS,
    EXACT,
    LINE,
    ErrorInput,
    assert_same,
    assert_same_bits,
    assert_same_curves,
    assert_same_state,
    assert_same_training,
    runs,
    take,
)

MANY = 1100  # several tiles of the numba kernel, the last of them partly filled


@pytest.mark.parametrize(
    "case",
    [case for case in ERROR_INPUTS if case.error_type not in (InvalidHyperparams, InvalidTask)],
    ids=lambda case: case.desc,
)
def test_bad_input_raises(case: ErrorInput):
    with pytest.raises(case.error_type, match=case.error_regex) as raised:
        case.call()
    assert isinstance(raised.value, SgdError)
    kind = RuntimeError if case.error_type is KernelUnavailable else ValueError
    assert isinstance(raised.value, kind)


# DESIGN 3.2: the published figures. The rows: lr 0.1, one pass over x = 1..5, batches of one.
PUBLISHED = [
    ("plain", {}, (-0.5, 0.63406636), ("0.9559", "1.4754")),
    ("weight decay", {"weight_decay": 0.5}, (-0.40864071, 0.43288042), ("0.6061", "0.9894")),
    ("momentum", {"momentum": 0.9}, (-0.66162831, 0.33456254), ("5.5695", "3.4704")),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", EXACT)
@pytest.mark.parametrize(("name", "arguments", "start", "published"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_published_numbers(name, arguments, start, published, kernel, dtype):
    result = train(LINE, Hyperparams(lr=0.1, **arguments), epochs=1, start=start, kernel=kernel, dtype=dtype)
    assert tuple(f"{value:.4f}" for value in result.params[0]) == published


def test_published_plain_result_holds_on_the_whole_line_of_starts():
    weights = np.array([-2.0, -0.5, 0.0, 1.0])
    starts = np.column_stack([weights, (0.5015 + 0.3456 * weights) / 0.5184])
    result = train(LINE, Hyperparams(lr=[0.1] * 4), epochs=1, start=starts, dtype="float64")
    np.testing.assert_allclose(result.params, [[0.9559, 1.4754]] * 4, atol=1e-4)


@pytest.mark.parametrize("kernel", [name for name in EXACT if name != "triton"])  # interpreted, 300 steps take long
def test_stability_is_not_monotone_in_lr(kernel):
    rows = Hyperparams(lr=[0.02, 0.03, 0.05, 0.1], momentum=0.9)
    result = train(LINE, rows, epochs=60, start=[-0.66, 0.33], kernel=kernel)
    assert judge(result).verdict.tolist() == ["diverged", "converged", "diverged", "diverged"]
    np.testing.assert_allclose(result.params[1], [0.8, 1.2], rtol=1e-6)


def a_pack(trials, seed=0):
    """Hyperparameters of every kind, from frozen to overflowing, and starts of their own."""
    rng = np.random.default_rng(seed)
    momentum = rng.choice([0, 0.5, 0.9, 0.99], trials)
    nesterov = (momentum > 0) & (rng.random(trials) < 0.3)
    rows = Hyperparams(
        lr=10 ** rng.uniform(-4, 3, trials) * rng.choice([0, 1, 1, 1, 1], trials),
        momentum=momentum,
        weight_decay=rng.choice([0, 0.5], trials),
        dampening=np.where(nesterov, 0, rng.choice([0, 0.5], trials)),
        nesterov=nesterov,
    )
    return rows, rng.standard_normal((trials, 2)), rng.integers(0, 3, trials)


def train_pack(rows, start, seeds, batch_size=1, **kwargs):
    options = {"epochs": 4 * batch_size, "batch_size": batch_size, "record": Recording(6)} | kwargs
    return train(LINE, rows, start=start, seeds=seeds, **options)


@pytest.fixture(
    scope="module",
    params=[("sequential", 1), ("shuffled", 1), ("sequential", 3), ("shuffled", 4), ("shuffled", 5)],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def whole(request):
    """Order and batch size, the pack's inputs, and its result."""
    options = dict(zip(("order", "batch_size"), request.param, strict=True))
    pack = a_pack(MANY)
    result = train_pack(*pack, **options)
    stopped = (result.first_nonfinite_step >= 0).mean()
    assert 0.05 < stopped < 0.9
    return options, pack, result


def part_of(pack, trials):
    return tuple(column[trials] for column in pack)


@given(trial=st.integers(0, MANY - 1))
def test_a_trial_alone_is_the_trial_in_a_pack(whole, trial):
    options, pack, expected = whole
    alone = train_pack(*part_of(pack, np.array([trial])), **options)
    assert_same(alone, take(expected, [trial]))


@given(cut=st.integers(1, MANY - 1))
def test_a_pack_split_anywhere_is_the_whole(whole, cut):
    options, pack, expected = whole
    for trials in (np.arange(cut), np.arange(cut, MANY)):
        assert_same(train_pack(*part_of(pack, trials), **options), take(expected, trials))


@given(seed=st.integers(0, 1000))
def test_a_permuted_pack_is_permuted(whole, seed):
    options, pack, expected = whole
    trials = np.random.default_rng(seed).permutation(MANY)
    assert_same(train_pack(*part_of(pack, trials), **options), take(expected, trials))


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_threads_change_no_bit(whole, threads):
    options, pack, expected = whole
    assert_same(train_pack(*pack, **options, threads=threads), expected)


@given(case=runs(batch_sizes=(1, 2, 3, 5) if NIGHTLY else (1, 3), max_epochs=10), more=st.integers(0, 10))
@examples(6, 200)
def test_continuing_equals_one_longer_run(case, more):
    longer = case.train(epochs=case.kwargs["epochs"] + more)
    first = case.train()
    second = case.train(epochs=more, start=first)
    assert_same_state(second, longer)
    joined = np.concatenate([first.loss[:, :-1], second.loss], axis=1)
    assert_same_bits(joined, longer.loss)
    assert_same_bits(np.concatenate([first.curves.path[:, :-1], second.curves.path], axis=1), longer.curves.path)


@pytest.mark.parametrize("kernel", EXACT)
def test_continuing_from_the_other_kernel(kernel):
    rows = Hyperparams(lr=[0.01, 0.03, 10.0, 0.01], momentum=[0.9, 0.9, 0, 0.5], dampening=[0, 0.5, 0, 0])
    start, options = [0.5, -0.5], {"order": "shuffled", "seeds": [0, 1, 0, 1]}
    for first_kernel in EXACT:
        first = train(LINE, rows, epochs=3, start=start, kernel=first_kernel, **options)
        second = train(LINE, rows, epochs=4, start=first, kernel=kernel, **options)
        longer = train(LINE, rows, epochs=7, start=start, kernel="reference", **options)
        assert_same_training(second, replace(longer, curves=second.curves))


def test_continuing_leaves_the_first_result_as_it_is():
    rows, start, _ = a_pack(5)
    first = train(LINE, rows, epochs=1, start=start)
    params, step = first.params.copy(), first.state.step
    train(LINE, rows, epochs=1, start=first)
    assert_same_bits(first.params, params)
    assert first.state.step == step == 5


def test_blocks_of_epochs_change_no_bit(monkeypatch):
    rows, start, seeds = a_pack(20)
    options = {"epochs": 9, "order": "shuffled", "start": start, "seeds": seeds, "record": Recording(spacing="all")}
    expected = train(LINE, rows, **options)
    monkeypatch.setattr(batches, "_BLOCK_ENTRIES", 10)  # two epochs a block
    assert_same(train(LINE, rows, **options), expected)


def test_recorded_steps_are_those_of_a_run_that_records_all():
    rows, start, _ = a_pack(20)
    every = train(LINE, rows, epochs=20, start=start, record=Recording(spacing="all"))
    some = train(LINE, rows, epochs=20, start=start, record=Recording(10))
    assert some.steps.tolist() == Recording(10).steps(0, 100).tolist()
    assert_same_state(some, every)
    assert_same_bits(some.loss, every.loss[:, some.steps])
    assert_same_bits(some.curves.path, every.curves.path[:, some.steps])


@pytest.mark.parametrize("kernel", EXACT)
def test_curves_of_a_trial_end_where_it_stops(kernel):
    result = train(LINE, Hyperparams(lr=[10.0, 0.01]), epochs=10, kernel=kernel, record=Recording(spacing="all"))
    stop = result.first_nonfinite_step[0]
    assert 0 < stop < 50
    assert result.first_nonfinite_step[1] == -1
    assert np.isfinite(result.curves.path[0, :stop]).all()
    assert np.isnan(result.curves.path[0, stop:]).all()
    assert np.isnan(result.loss[0, stop:]).all()
    assert not np.isfinite(result.params[0]).all()
    assert np.isfinite(result.loss[1]).all()


def test_a_stopped_trial_stays_stopped():
    rows = Hyperparams(lr=[10.0, 0.01])
    first = train(LINE, rows, epochs=10)
    second = train(LINE, rows, epochs=3, start=first)
    assert second.first_nonfinite_step[0] == first.first_nonfinite_step[0]
    assert_same_bits(second.params[0], first.params[0])
    assert np.isnan(second.loss[0]).all()
    assert np.isfinite(second.loss[1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("features", "bias"), [(1, True), (1, False), (3, True)])
def test_start_is_torchs_initialisation_by_seed(dtype, features, bias):
    from sgdcore import LinearModel

    task = Task(linear(9, features), LinearModel(bias))
    result = train(task, Hyperparams(lr=[0.1] * 3), epochs=0, seeds=[5, 0, 5], dtype=dtype)
    for row, seed in zip(result.params, [5, 0, 5], strict=True):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(features, 1, bias=bias, dtype=getattr(torch, dtype))
        assert_same_bits(row, torch.cat([p.detach().flatten() for p in layer.parameters()]).numpy())


def test_torchs_global_random_state_is_not_touched():
    before = torch.random.get_rng_state()
    train(LINE, Hyperparams(lr=0.1), epochs=2, order="shuffled", seeds=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_start_serves_all_trials():
    rows = Hyperparams(lr=[0.01, 0.02])
    one = train(LINE, rows, epochs=2, start=[0.5, -0.5])
    assert_same(one, train(LINE, rows, epochs=2, start=[[0.5, -0.5]] * 2))


def test_sequential_order_does_not_depend_on_the_seed():
    rows = Hyperparams(lr=[0.01] * 2)
    result = train(LINE, rows, epochs=2, start=[0.5, -0.5], seeds=[1, 2])
    assert_same_bits(result.params[0], result.params[1])
    shuffled = train(LINE, rows, epochs=2, start=[0.5, -0.5], seeds=[1, 2], order="shuffled")
    assert (shuffled.params[0] != shuffled.params[1]).any()


def test_a_batch_larger_than_the_data_is_full_batch():
    rows = Hyperparams(lr=0.01, momentum=0.9)
    full = train(LINE, rows, epochs=5, batch_size=5)
    assert full.steps[-1] == 5
    assert_same(train(LINE, rows, epochs=5, batch_size=10**12), full)


def test_full_batch_descends_the_mean_squared_error():
    data = linear(20, 2, noise=0.1)
    design = np.column_stack([data.inputs, np.ones(20)])
    p = np.array([0.3, -0.2, 0.1])
    expected = p - 0.1 * 2 / 20 * design.T @ (design @ p - data.targets)
    result = train(Task(data), Hyperparams(lr=0.1), epochs=1, batch_size=20, start=p, dtype="float64")
    np.testing.assert_allclose(result.params[0], expected, rtol=1e-13)


def test_the_short_last_batch_is_averaged_over_itself():
    data = Dataset([1.0, 2.0, 3.0], [0.0, 0.0, 7.0])
    result = train(Task(data), Hyperparams(lr=0.1), epochs=1, batch_size=2, start=[0, 0], dtype="float64")
    assert result.steps.tolist() == [0, 1, 2]
    np.testing.assert_allclose(result.params[0], [0.1 * 2 * 7 * 3, 0.1 * 2 * 7], rtol=1e-13)


def test_no_trials():
    result = train(LINE, Hyperparams(lr=[]), epochs=2)
    assert len(result) == 0
    assert result.loss.shape == (0, len(result.steps))
    assert len(judge(result).verdict) == 0


def test_auto_is_the_compiled_kernel():
    rows = Hyperparams(lr=0.01)
    auto = train(LINE, rows, epochs=1)
    assert auto.kernel == "numba"
    assert train(LINE, rows, epochs=1, kernel="reference").kernel == "reference"
    assert_same_curves(auto, train(LINE, rows, epochs=1, kernel="numba"))


def test_neighbours_at_zero_do_not_disturb_a_trial():
    """A tile's idle lanes sit at p = 0, where this gradient overflows; there were writes out of bounds."""
    task = Task(Dataset([1e20, 1e20], [1e20, 1e20]))
    rows = Hyperparams(lr=[0.1] * 3)
    result = train(task, rows, epochs=40, start=[[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert result.first_nonfinite_step.tolist() == [-1, 1, -1]
    assert result.params[[0, 2]].tolist() == [[1, 0], [1, 0]]


def test_more_parameters_than_a_path_holds():
    wide = train(Task(linear(20, 20)), Hyperparams(lr=0.001), epochs=1)
    assert wide.curves.path is None
    assert train(Task(line()), Hyperparams(lr=0.001), epochs=1).curves.path.shape == (1, 6, 2)
