"""linear_numba: its compiled code is what it should be, and steps are counted right however they are cut."""

import platform
import re
import subprocess
import sys

import numba
import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba import njit, types

from sgdcore import Dataset, Hyperparams, Recording, Task, train
from sgdcore.kernels import linear_numba
from sgdcore.kernels.linear_numba import CHUNK, IN_REGISTERS, lanes_of, width_of
from sgdcore.tasks.datasets import line

from .cases import TrainInput, assert_same_training


def assembly_of_steps(dtype: str, parameters: int) -> str:
    """The machine code of the function that steps a tile of these."""
    lanes = lanes_of(parameters, np.dtype(dtype).itemsize)

    @njit
    def step(tile, after, ticks, fixed, data, batches, steps, is_first):
        linear_numba._step_lanes(tile, after, ticks, fixed, data, batches, steps, is_first, parameters, lanes)

    floats, clock, places = (
        types.Array(numba.from_dtype(np.dtype(d)), 1, "C") for d in (dtype, dtype.replace("float", "int"), "int64")
    )
    data = types.Tuple([floats, floats, floats, types.Array(types.int32, 1, "C")])
    batches = types.Tuple([places, places, clock])
    step.compile((floats, floats, clock, floats, data, batches, types.int64, types.boolean))
    return "\n".join(step.inspect_asm().values())


@pytest.mark.parametrize("parameters", [1, 2, 3, 4])
@pytest.mark.parametrize(("dtype", "packed"), [("float32", "ps"), ("float64", "pd")])
def test_steps_are_packed_fused_multiply_adds_without_gathers(dtype: str, packed: str, parameters: int):
    assembly = assembly_of_steps(dtype, parameters)
    assert "gather" not in assembly
    if platform.machine() == "x86_64" and get_host_cpu_features().get("fma"):
        fused = re.findall(r"\bvfn?m(?:add|sub)\d+(\w\w)\b", assembly)
        assert fused.count(packed) >= 4 * parameters  # decay, buffer, Nesterov, step
        assert set(fused) == {packed}
        assert not re.search(r"\bv(?:mul|add|sub)s[sd]\b", assembly)


@pytest.mark.parametrize("parameters", [1, 2, 3, IN_REGISTERS, IN_REGISTERS + 1, 17, 300])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_tiles_are_whole_vectors(parameters: int, itemsize: int):
    lanes, width = lanes_of(parameters, itemsize), width_of(parameters, itemsize)
    assert 0 < lanes <= 512
    assert lanes % width == 0
    assert width % linear_numba.linear_record.DOUBLES == 0


def cases_of(features: int, dtype: str, **arguments) -> TrainInput:
    """Trials of every kind of momentum and decay, several of which overflow at different steps."""
    rng = np.random.default_rng(features)
    values = rng.standard_normal((7, features + 1)).astype(dtype).astype(np.float64)
    hyperparams = {
        "lr": np.float32([0.01, 0.02, 0.05, 0.01, 0.6, 0.9, 3.0, 50.0, 0.7]),
        "momentum": np.float32([0, 0.9, 0.5, 0.9, 0, 0.5, 0, 0, 0.9]),
        "weight_decay": np.float32([0, 0, 0.1, 0.1, 0, 0.1, 0, 0, 0.1]),
        "dampening": np.float32([0, 0.5, 0, 0, 0, 0, 0, 0, 0]),
        "nesterov": [False, False, True, True, False, False, False, False, True],
    }
    task = Task(Dataset(values[:, :-1], values[:, -1]))
    return TrainInput("every kind", task, hyperparams, {"dtype": dtype, "start": np.ones(features + 1)} | arguments)


@pytest.mark.parametrize("features", [1, 2, 3, IN_REGISTERS - 1, IN_REGISTERS, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_on_both_sides_of_what_registers_hold(features: int, dtype: str, batch_size: int):
    case = cases_of(features, dtype, epochs=20, batch_size=batch_size, order="shuffled")
    assert_same_training(case.train(kernel="numba"), case.train(kernel="reference"))


def test_points_do_not_change_peaks_and_stops():
    every = cases_of(1, "float32", epochs=CHUNK // 2)  # three chunks and a half
    results = [every.train(kernel="numba", record=Recording(spacing=s)) for s in ("log", "linear", "all")]
    expected = every.train(kernel="reference", record=Recording(points=0))
    stopped = expected.first_nonfinite_step
    assert len(set(stopped[stopped >= 0])) >= 2
    for result in results:
        for name in ("params", "first_nonfinite_step", "peak", "peak_step"):
            np.testing.assert_array_equal(getattr(result.state, name), getattr(expected.state, name))


def test_a_second_process_compiles_nothing():
    script = (
        "from sgdcore import *; from sgdcore.kernels import linear_numba\n"
        "from sgdcore.tasks.datasets import line\n"
        "train(Task(line()), Hyperparams(lr=0.01), epochs=1, start=[0.0, 0.0])\n"
        "stats = linear_numba._run_tiles.stats\n"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))"
    )
    train(Task(line()), Hyperparams(lr=0.01), epochs=1, start=[0.0, 0.0])
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "0"]
