"""train() in several threads at once: the results of one thread, and nothing changed that all threads share."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numba
import numpy as np
import pytest
import torch
from torch import nn

from sgdcore import Dataset, Hyperparams, MlpModel, ModuleModel, Task, Trajectories, train
from sgdcore.tasks.datasets import line
from tests.support.hypothesis_profiles import NIGHTLY

THREADS = 8 if NIGHTLY else 4
WAVES = Dataset(np.linspace(-1, 1, 22)[:, np.newaxis], np.sin(np.linspace(-3, 3, 22)))


def of_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))


def seeding() -> nn.Module:
    torch.manual_seed(5)
    return of_layers()


TASKS = {
    "linear": (Task(line()), ("numba", "torch", "reference")),
    "mlp": (Task(WAVES, MlpModel((3,))), ("numba", "torch", "reference")),
    "module": (Task(WAVES, ModuleModel(of_layers)), ("torch", "reference")),
    "module that seeds torch": (Task(WAVES, ModuleModel(seeding)), ("torch",)),
}
COMPILED_ALONE = ("mlp", "numba", "float64")  # for seconds; other tests compile the rest
CASES = [
    (task, kernel, dtype)
    for task, (_, kernels) in TASKS.items()
    for kernel in kernels
    for dtype in ("float32", "float64")
    if NIGHTLY or (task, kernel, dtype) != COMPILED_ALONE
]


def together(calls: list[Callable[[], Trajectories]]) -> list[Trajectories]:
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Trajectories]) -> Trajectories:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, calls))


def state() -> tuple[object, ...]:
    """What all threads share, and what this thread has of its own."""
    shared = torch.get_rng_state().tolist(), torch.get_default_dtype(), warnings.filters[:]
    return *shared, torch.get_num_threads(), torch.is_grad_enabled(), numba.get_num_threads()


@pytest.mark.parametrize(("name", "kernel", "dtype"), CASES)
def test_every_thread_has_the_results_of_one(name: str, kernel: str, dtype: str) -> None:
    def call(seed: int) -> Callable[[], Trajectories]:
        return lambda: train(
            TASKS[name][0],
            Hyperparams(lr=[0.02, 0.03], momentum=0.5),
            epochs=2,
            batch_size=5,
            order="shuffled",
            seeds=[seed, seed + 1],
            dtype=dtype,
            kernel=kernel,
            threads=1 + seed % 2,
        )

    calls = [call(seed) for seed in range(THREADS)]
    alone = [each() for each in calls]
    before = state()
    for expected, found in zip(alone, together(calls), strict=True):
        np.testing.assert_array_equal(found.loss, expected.loss)
        np.testing.assert_array_equal(found.params, expected.params)
    assert state() == before
    np.testing.assert_array_equal(calls[0]().params, alone[0].params)
