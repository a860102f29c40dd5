"""Initial parameters: those of torch.manual_seed and of torch's default dtype, bit for bit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sgdcore import LinearModel, MlpModel, ModuleModel, PolynomialModel
from sgdcore.tasks.initialisation import initialised
from sgdcore.tasks.models import Model

WIDTH = 4


class Values(nn.Module):
    """A module with one parameter."""

    def __init__(self, make: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.values = nn.Parameter(make())


def layer(change: Callable[[torch.Tensor], object]) -> nn.Module:
    made = nn.Linear(WIDTH, 7)
    change(made.weight)
    return made


def seeded() -> nn.Module:
    first = nn.Linear(WIDTH, 3)
    torch.manual_seed(0)
    return nn.Sequential(first, nn.Linear(3, 1))


def of_the_default_dtype() -> torch.Tensor:
    return torch.rand(3, dtype=torch.get_default_dtype())


FACTORIES: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: nn.Sequential(nn.Linear(WIDTH, 5), nn.LayerNorm(5), nn.PReLU(), nn.Linear(5, 1)),
    "convolution": lambda: nn.Conv1d(1, 3, 3),
    "bilinear": lambda: nn.Bilinear(3, 4, 5),
    "embedding": lambda: nn.Embedding(10, 4),
    "lstm": lambda: nn.LSTM(WIDTH, 4, 2),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "orthogonal": lambda: layer(nn.init.orthogonal_),
    "truncated normal": lambda: layer(nn.init.trunc_normal_),
    "kaiming normal": lambda: layer(nn.init.kaiming_normal_),
    "xavier": lambda: layer(nn.init.xavier_uniform_),
    "sparse": lambda: layer(lambda weight: nn.init.sparse_(weight, 0.3)),
    "orthogonal parametrization": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "randn": lambda: Values(lambda: torch.randn(4, 3)),
    "randn_like": lambda: Values(lambda: torch.randn_like(torch.zeros(5))),
    "randperm": lambda: Values(lambda: torch.randperm(9).double()),
    "randint": lambda: Values(lambda: torch.randint(3, 9, (5,)).float()),
    "normal": lambda: Values(lambda: torch.normal(0.0, torch.ones(5))),
    "bernoulli": lambda: Values(lambda: torch.bernoulli(torch.full((8,), 0.5))),
    "multinomial": lambda: Values(lambda: torch.multinomial(torch.ones(9), 5).float()),
    "exponential": lambda: Values(lambda: torch.empty(4).exponential_()),
    "dropout": lambda: Values(lambda: nn.functional.dropout(torch.ones(20))),
    "a distribution": lambda: Values(lambda: torch.distributions.Gamma(2.0, 1.0).sample((4,))),
    "a list": lambda: Values(lambda: torch.tensor([1.0, 2.0]) / 3),
    "a range": lambda: Values(lambda: torch.arange(0, 1, 0.1)),
    "torch.Tensor": lambda: Values(lambda: torch.Tensor(3).uniform_()),
    "the default dtype": lambda: Values(of_the_default_dtype),
    "seeded": seeded,
}
MODELS: dict[str, Model] = {
    "linear": LinearModel(),
    "no bias": LinearModel(bias=False),
    "polynomial": PolynomialModel(3),
    "mlp": MlpModel((5, 3)),
    **{name: ModuleModel(factory) for name, factory in FACTORIES.items()},
}


@contextmanager
def torchs_own(seed: int, dtype: str) -> Iterator[None]:
    """What a script does that seeds torch and sets the default dtype."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_a_module_is_initialised_as_in_a_script_of_torch(name: str, dtype: str) -> None:
    model = MODELS[name]
    torch.manual_seed(0)  # as the factory that seeds
    before = torch.get_rng_state()
    for seed in (0, 3, 2**40 + 5):
        with torchs_own(seed, dtype):
            expected = model.module(WIDTH).to(getattr(torch, dtype)).state_dict()
        found = initialised(model, WIDTH, seed, dtype).state_dict()
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert found[key].dtype == values.dtype
            assert torch.equal(found[key], values), key
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", ["linear", "polynomial", "mlp", "layers", "lstm", "orthogonal", "randn", "bernoulli"])
def test_torchs_global_state_is_not_even_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = initialised(MODELS[name], WIDTH, 3, "float32").state_dict()
    for function in ("manual_seed", "set_rng_state", "set_default_dtype"):
        monkeypatch.delattr(torch, function)
    found = initialised(MODELS[name], WIDTH, 3, "float32").state_dict()
    assert all(torch.equal(found[key], values) for key, values in expected.items())
