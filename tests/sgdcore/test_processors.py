"""Results do not depend on the processor's instruction set, which numpy's elementary functions do."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from sgdcore import PolynomialModel

SCRIPT = """
import hashlib
import numpy as np
from sgdcore import Dataset, Hyperparams, LinearModel, MlpModel, PolynomialModel, Recording, Task, judge, train
from sgdcore.stability import predict
from sgdcore.tasks import datasets

rng = np.random.default_rng(0)
one, three = Dataset(rng.uniform(-2, 2, 300), rng.standard_normal(300)), datasets.linear(40, 3, noise=0.1)
tasks = [Task(one, PolynomialModel(7)), Task(three), Task(one, MlpModel((5,), "tanh")), Task(three, loss="huber")]
for task in tasks:
    for dtype in ("float32", "float64")[: 1 if isinstance(task.model, MlpModel) else 2]:
        settings = Hyperparams(lr=[0.001, 0.01, 0.3, 1e3], momentum=0.9, weight_decay=1e-3)
        result = train(task, settings, epochs=3, batch_size=7, order="shuffled", dtype=dtype)
        arrays = [task.features, result.params, result.loss, judge(result).overshoot_percent]
        if task.is_quadratic:
            arrays.append(predict(task, settings, epochs=3, batch_size=7, order="shuffled").per_epoch)
        for array in arrays:
            print(hashlib.sha256(np.ascontiguousarray(array)).hexdigest())
for data in [datasets.linear(40, d, condition) for d in (2, 5, 8, 16) for condition in (1.0, 10.0, 100.0, 1e4)]:
    print(data.digest)
for data in [datasets.sine(50, frequency=1.7), datasets.polynomial((1.0, 0.3, -2.0)), datasets.line()]:
    print(data.digest)
for points in (1, 7, 64, 999):
    steps = np.concatenate([Recording(points).steps(0, last) for last in range(2, 3000, 7)])
    print(hashlib.sha256(steps).hexdigest())
"""


def results(**environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_no_bit_depends_on_the_instruction_sets_that_numpy_uses() -> None:
    every = results()
    assert len(every) == 2 * 2 * (4 + 1) + 3 * 4 + 16 + 3 + 4
    optional = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    assert results(NPY_DISABLE_CPU_FEATURES=" ".join(optional)) == every


def test_powers_are_repeated_products() -> None:
    x = np.random.default_rng(1).standard_normal((10_000, 1)) * 3
    expected, power = [], np.ones_like(x)
    for _ in range(6):
        power = power * x
        expected.append(power)
    np.testing.assert_array_equal(PolynomialModel(6).features(x), np.hstack(expected))
