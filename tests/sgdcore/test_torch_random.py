"""Draws that torch would make, made without torch, against torch itself."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sgdcore.batches import blocks
from sgdcore.torch_random import TorchGenerator, linear_params

SEEDS = st.integers(0, 2**63 - 1) | st.integers(0, 100) | st.sampled_from([2**32 - 1, 2**32, 2**32 + 7, -1, -(2**62)])


def torchs_linear(width: int, outputs: int, bias: bool, seed: int, dtype: str) -> np.ndarray:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed without its detour by all devices
    layer = torch.nn.Linear(width, outputs, bias=bias, dtype=getattr(torch, dtype))
    return torch.cat([p.detach().flatten() for p in layer.parameters()]).numpy()


@pytest.mark.slow
def test_ten_thousand_seeds_start_as_in_torch():
    for seed in range(10_000):
        width, bias, dtype = 1 + seed % 7, seed % 3 > 0, "float64" if seed % 5 == 0 else "float32"
        expected = torchs_linear(width, 1, bias, seed, dtype)
        found = linear_params(width, 1, bias, seed, dtype).astype(dtype)
        assert found.tobytes() == expected.tobytes(), seed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(width=st.integers(1, 300), outputs=st.integers(1, 5), bias=st.booleans(), seed=SEEDS)
def test_any_layer_starts_as_in_torch(dtype, width, outputs, bias, seed):
    expected = torchs_linear(width, outputs, bias, seed, dtype)
    assert linear_params(width, outputs, bias, seed, dtype).astype(dtype).tobytes() == expected.tobytes()


@given(
    samples=st.integers(1, 40),
    epochs=st.lists(st.integers(1, 3) | st.integers(63, 66), min_size=1, max_size=3),
    seed=SEEDS,
)
def test_orders_are_those_of_a_data_loader(samples, epochs, seed):
    loader = DataLoader(range(samples), samples, shuffle=True, generator=torch.Generator().manual_seed(seed))
    expected = [batch.tolist() for _ in range(sum(epochs)) for batch in loader]
    generator = TorchGenerator(seed)
    assert [row for n in epochs for row in generator.data_loader_orders(samples, n).tolist()] == expected


@pytest.mark.parametrize("samples", [4096, 4097])
def test_large_data_sets_are_shuffled_by_the_same_draws(samples):
    loader = DataLoader(range(samples), samples, shuffle=True, generator=torch.Generator().manual_seed(3))
    expected = [batch.tolist() for _ in range(5) for batch in loader]
    [(_, orders)] = blocks("shuffled", samples, [3], range(2, 5))
    assert orders[0].tolist() == expected[2:]


LINEAR = """
import sys, numpy as np
from sgdcore import Dataset, Hyperparams, LinearModel, Task, train
task = Task(Dataset(np.arange(12.0).reshape(6, 2) / 12, np.arange(6.0)), LinearModel())
train(task, Hyperparams(lr=[0.1, 0.2]), epochs=2, batch_size=2, order="shuffled")
assert "torch" not in sys.modules, sorted(name for name in sys.modules if name.startswith("torch"))[:3]
"""


@pytest.mark.slow
def test_a_linear_model_trains_without_torch():
    subprocess.run([sys.executable, "-c", LINEAR], check=True)
