"""perceptron_of(): which modules the kernel for perceptrons trains, and what stops the others."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from sgdcore import Dataset, Hyperparams, KernelUnavailable, MlpModel, ModuleModel, Task, train
from sgdcore.kernels.dispatch import planned
from sgdcore.kernels.perceptrons import perceptron_of
from sgdcore.tasks.networks import Perceptron
from tests.support import network_modules

INPUTS = np.random.default_rng(0).standard_normal((22, 2))
DATA = Dataset(INPUTS, np.sin(INPUTS[:, 0]) + INPUTS[:, 1] ** 2)


def found(make: Callable[[], nn.Module]) -> Perceptron | str:
    return perceptron_of(ModuleModel(make), 2)


class Forward(nn.Module):
    """Two layers, and a forward that a test gives."""

    def __init__(self, forward: Callable[..., torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.first, self.output = nn.Linear(2, 3), nn.Linear(3, 1)
        self.given = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.given(self, x)


def plain(net: Forward, x: torch.Tensor) -> torch.Tensor:
    return net.output(torch.relu(net.first(x)))


def layers(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), *between, nn.Linear(3, 1))


SAME = Perceptron((2, 3, 1), ("relu",), weights=(0, 9), biases=(6, 12))


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers(nn.ReLU()),
        lambda: layers(nn.ReLU(inplace=True)),
        lambda: layers(nn.Dropout(0), nn.ReLU(), nn.Identity(), nn.Flatten()),
        lambda: layers(nn.Dropout(0.5).eval(), nn.ReLU()),
        lambda: nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU())), nn.Linear(3, 1), nn.Flatten(0)),
        lambda: Forward(plain),
        lambda: Forward(lambda net, x: net.output(functional.relu(net.first(x), inplace=True)).squeeze(-1)),
        lambda: Forward(lambda net, x: net.output(net.first(x).relu())[:, 0]),
        lambda: Forward(lambda net, x: net.output(torch.relu_(net.first(x.flatten(1)))).view(-1)),
        lambda: Forward(lambda net, x: net.output(torch.relu(net.first(x.reshape(x.size(0), -1)))).reshape(-1, 1)),
        lambda: Forward(lambda net, x: net.output(functional.relu(net.first(torch.flatten(x, 1)))).flatten()),
        lambda: Forward(
            lambda net, x: functional.linear(
                torch.relu(functional.linear(x, net.first.weight, bias=net.first.bias)),
                net.output.weight,
                net.output.bias,
            )
        ),
    ],
)
def test_forms_of_one_perceptron(make: Callable[[], nn.Module]) -> None:
    assert found(make) == SAME


def test_layers_may_differ_in_activation_bias_and_order() -> None:
    written = found(lambda: network_modules.Written(activations=("tanh", "relu"), bias=False))
    assert written == Perceptron((2, 6, 4, 1), ("tanh", "relu"), weights=(32, 4, 0), biases=(None, 28, None))
    assert found(lambda: MlpModel((7, 5), "silu").module(2)) == perceptron_of(MlpModel((7, 5), "silu"), 2)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    net[2].weight = net[0].weight
    return net


def hooked(register: Callable[[nn.Module], object]) -> nn.Module:
    net = layers(nn.ReLU())
    register(net)
    return net


def frozen() -> nn.Module:
    net = layers(nn.ReLU())
    net[0].requires_grad_(False)
    return net


def with_no_grad(net: Forward, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        x = net.first(x)
    return net.output(torch.relu(x))


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: layers(nn.LayerNorm(3), nn.ReLU()), "node _1 (LayerNorm) is not a Linear layer or a known activation"),
        (lambda: layers(nn.GELU()), "node _1 (GELU) is not"),
        (lambda: layers(nn.LeakyReLU()), "node _1 (LeakyReLU) is not"),
        (lambda: layers(nn.Dropout(0.5), nn.ReLU()), "node _1 (Dropout) is not"),
        (lambda: layers(), "there is no activation before node _1 (Linear)"),
        (lambda: layers(nn.ReLU(), nn.ReLU()), "node _2 (ReLU) does not follow a Linear layer"),
        (lambda: nn.Sequential(nn.ReLU(), nn.Linear(2, 1)), "node _0 (ReLU) does not follow a Linear layer"),
        (lambda: nn.Sequential(*layers(nn.ReLU()), nn.Tanh()), "there is an activation after its last layer"),
        (lambda: nn.Linear(2, 1), "it has no hidden layer"),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), "its last layer has 2 outputs"),
        (tied, "its parameter 0.weight is used twice"),
        (frozen, "the weights of a Linear layer are computed, or not trained"),
        (lambda: layers(nn.ReLU(), parametrizations.weight_norm(nn.Linear(3, 3))), "node _2 (ParametrizedLinear) is"),
        (lambda: hooked(lambda net: net.register_forward_hook(lambda *_: None)), "it has hooks"),
        (lambda: hooked(lambda net: net[0].register_full_backward_hook(lambda *_: None)), "it has hooks"),
        (lambda: hooked(lambda net: net[0].weight.register_hook(lambda g: 2 * g)), "it has hooks"),
        (lambda: Forward(lambda net, x: plain(net, 2 * x)), "node mul (mul) is not"),
        (lambda: Forward(lambda net, x: 0.5 * plain(net, x)), "node mul (mul) is not"),
        (lambda: Forward(lambda net, x: plain(net, x) + x[:, :1]), "node getitem (getitem) is not"),
        (lambda: Forward(plain, spare=nn.Linear(2, 1)), "its parameter spare.weight is not in a Linear layer"),
        (lambda: Forward(plain, first=Doubled(2, 3)), "node mul (mul) is not"),
        (lambda: Forward(plain, first=nn.Linear(4, 3)), "node first (Linear) takes 4 inputs, not 2"),
        (
            lambda: Forward(lambda net, x: net.output(torch.relu(net.first(x)).detach())),
            "node detach (detach) is not a Linear layer or a known activation",
        ),
        (lambda: Forward(with_no_grad), "its gradients cannot be computed"),
        (
            lambda: Forward(lambda net, x: plain(net, x) if x.sum() > 0 else net.output(net.first(x))),
            "its forward cannot be traced by torch.fx: symbolically traced variables cannot be used as inputs",
        ),
        (
            lambda: Forward(lambda net, x: plain(net, x) if net.training else plain(net, x).sigmoid()),
            "there is an activation after its last layer",
        ),
        (
            lambda: Forward(lambda net, x: net.output((torch.relu if net.training else torch.tanh)(net.first(x)))),
            "it does something else in evaluation than in training",
        ),
        (network_modules.Unevaluated, "it has no hidden layer"),
        (network_modules.Skipping, "node add (add) is not"),
        (network_modules.Fourier, "node matmul (matmul) is not"),
    ],
)
def test_what_is_not_recognised_says_what_stopped_it(make: Callable[[], nn.Module], reason: str) -> None:
    said = found(make)
    assert isinstance(said, str)
    assert said.startswith(reason)


def test_the_kernel_that_is_planned_trains() -> None:
    for model, kernel in (
        (network_modules.Written, "numba"),
        (network_modules.Skipping, "torch"),
        (network_modules.Tied, "torch"),
    ):
        task = Task(DATA, ModuleModel(model))
        assert planned(task)[0] == kernel
        assert train(task, Hyperparams(lr=0.1), epochs=1, device="cpu").kernel == kernel
        assert planned(task, "cuda") == ("torch", "on a GPU")
    with pytest.raises(KernelUnavailable, match=r"node add \(add\) is not a Linear layer or a known activation\): use"):
        train(Task(DATA, ModuleModel(network_modules.Skipping)), Hyperparams(lr=0.1), epochs=1, kernel="numba")


def test_bits_of_a_recognised_module_are_those_of_the_mlp() -> None:
    hyperparams = Hyperparams(lr=[0.01, 0.1, 0.05], momentum=[0, 0.9, 0.5], weight_decay=0.01)
    ours, mlp = (
        train(Task(DATA, model), hyperparams, epochs=5, batch_size=5, order="shuffled", seeds=[0, 1, 2], device="cpu")
        for model in (ModuleModel(lambda: layers(nn.ReLU())), MlpModel((3,)))
    )
    assert ours.kernel == "numba"
    np.testing.assert_array_equal(ours.params, mlp.params)
    np.testing.assert_array_equal(ours.loss, mlp.loss)
