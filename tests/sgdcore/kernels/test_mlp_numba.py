"""mlp_numba: a trial's bits depend on nothing but the trial, and what it cannot train goes elsewhere."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sgdcore import KernelUnavailable, LinearModel, MlpModel, Recording, Task, rates, train
from sgdcore.hyperparams import Hyperparams
from sgdcore.kernels.mlp_numba import kernel as mlp_kernel
from sgdcore.kernels.mlp_numba.layers import ACTIVATIONS, layers
from sgdcore.kernels.perceptrons import ACTIVATIONS as PERCEPTRON_ACTIVATIONS
from tests.support.kernel_cases import (
    EVERYTHING,
    TWO_TARGETS,
    WAVES,
    WEIGHTED,
    TrainInput,
    assert_same,
    assert_same_state,
    network,
    take,
)

CASE = network("many", MlpModel((6, 5)), "huber", WAVES.split(0.3), epochs=8)
EVERY_CASE = replace(CASE, hyperparams=EVERYTHING, kwargs=CASE.kwargs | {"groups": {"bias": ["*.bias"]}})
SEEDS = np.random.default_rng(1).integers(0, 9, 40)


@pytest.mark.parametrize("case", [CASE, EVERY_CASE], ids=["plain", "scheduled, in groups, clipped"])
def test_bits_do_not_depend_on_pack_tile_place_or_threads(case: TrainInput):
    many = Hyperparams(**case.hyperparams)[np.tile(np.arange(5), 8)]

    def of(trials: slice | list[int], threads: int = 1):
        options = case.kwargs | {"kernel": "numba", "seeds": SEEDS[trials], "threads": threads}
        return train(case.task, many[trials], **options)

    whole = of(slice(None), threads=2)
    assert whole.state.clipped_steps.any() == (case is EVERY_CASE)
    assert_same(of(slice(None)), whole)
    some = [33, 7, 0]  # alone, each among others that see other samples
    assert_same(of(some), take(whole, some))
    assert_same(of([7]), take(whole, [7]))


def test_bits_do_not_depend_on_how_many_samples_are_worked_on_together(monkeypatch: pytest.MonkeyPatch):
    case = replace(CASE, kwargs=CASE.kwargs | {"batch_size": 14})
    whole = case.train(kernel="numba")
    monkeypatch.setattr(mlp_kernel, "UNITS_BYTES", 1)
    assert_same(case.train(kernel="numba"), whole)


def test_bits_do_not_depend_on_where_a_table_of_rates_ends(monkeypatch: pytest.MonkeyPatch):
    whole = EVERY_CASE.train(kernel="numba")
    monkeypatch.setattr(rates, "_ENTRIES", 7 * 2 * 5)  # of seven steps
    assert_same(EVERY_CASE.train(kernel="numba"), whole)


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("case", [CASE, EVERY_CASE], ids=["plain", "scheduled, in groups, clipped"])
def test_going_on_equals_one_longer_run_bit_for_bit(case: TrainInput, epochs: int):
    options = {"kernel": "numba", "record": Recording(spacing="all")}
    whole, half = case.train(**options), case.train(**options, epochs=epochs)
    on = case.train(**options, epochs=8 - epochs, start=half)
    assert_same_state(on, whole)
    np.testing.assert_array_equal(on.loss, whole.loss[:, half.state.step :])
    np.testing.assert_array_equal(half.loss, whole.loss[:, : half.state.step + 1])


def test_trials_that_stopped_stay_where_they_stopped():
    case = replace(CASE, hyperparams={"lr": [3e38, 0.01, 1e30, 0.02, 0.01]})
    half = case.train(kernel="numba", epochs=2)
    on = case.train(kernel="numba", epochs=2, start=half)
    stopped = half.first_nonfinite_step >= 0
    assert stopped[0]
    assert not stopped[[1, 3, 4]].any()
    np.testing.assert_array_equal(on.params[stopped], half.params[stopped])
    assert np.isnan(on.loss[stopped]).all()
    np.testing.assert_array_equal(on.first_nonfinite_step, half.first_nonfinite_step)


def test_choice():
    hyperparams = Hyperparams(lr=0.1)
    kernels = {
        "numba": [Task(WAVES, MlpModel((4,))), Task(WAVES, MlpModel((4, 4)), "mae"), Task(WAVES)],
        "torch": [Task(WAVES, MlpModel((4,), "gelu")), Task(WAVES, MlpModel((400, 400))), Task(WAVES, loss="mae")],
    }
    for kernel, tasks in kernels.items():
        assert {train(task, hyperparams, epochs=0, device="cpu").kernel for task in tasks} == {kernel}
    assert set(PERCEPTRON_ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize(
    "task",
    [
        Task(WAVES, MlpModel((4,), "gelu")),
        Task(WAVES, MlpModel((4,)), "gaussian_nll"),
        Task(WAVES, LinearModel(), "mae"),
        Task(WEIGHTED),
        Task(TWO_TARGETS),
    ],
)
def test_what_it_cannot_train_is_refused(task: Task):
    with pytest.raises(KernelUnavailable, match="one target and no weights, and perceptrons"):
        train(task, Hyperparams(lr=0.1), epochs=1, kernel="numba")


def test_functions_made_for_other_constants_have_other_names():
    made = [
        layers(dtype, activations, samples, width)
        for dtype, width in (("float32", 16), ("float64", 8))
        for activations in (*((name,) for name in ACTIVATIONS), ("relu", "tanh"), ("relu", "silu"), ("tanh", "silu"))
        for samples in (1, 4)
    ]
    for forward in ("first", "hidden", "backward"):
        assert len({getattr(one, forward).py_func.__qualname__ for one in made}) == len(made)
    for one in made:
        assert len({function.py_func.__qualname__ for function in one}) == len(one)


def test_compiled_code_is_found_on_disk_by_other_processes():
    script = (
        "import sgdcore as s; from sgdcore.kernels.mlp_numba import kernel\n"
        "task = s.Task(s.Dataset([[1.0], [2.0]], [1.0, 2.0]), s.MlpModel((3,)))\n"
        "s.train(task, s.Hyperparams(lr=0.1), epochs=1, batch_size=2, kernel='numba')\n"
        "print(sum(kernel._run_tiles.stats.cache_hits.values()))"
    )
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in "ab"]
    assert runs[1].stdout.strip() == "1"
