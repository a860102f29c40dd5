"""optimizer: values, parameters and gradients of every kind that torch.optim.SGD takes or refuses."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from sgdcore.optimizer import SGD

BOTH = (SGD, torch.optim.SGD)


def stepped(optimizer_class, start, steps=3, **settings):
    """Return the parameter after steps along gradients that depend on it."""
    param = start.clone()
    optimizer = optimizer_class([param], **settings)
    for step in range(steps):
        param.grad = 0.37 * param.detach() + 0.11 * step
        optimizer.step()
    return param.detach()


def raised_by_step(optimizer_class, param, gradient, **settings):
    param.grad = gradient
    with pytest.raises((RuntimeError, TypeError)) as raised:
        optimizer_class([param], **settings).step()
    return raised


@pytest.mark.parametrize(
    ("name", "number"),
    [(name, number) for name in ("lr", "weight_decay") for number in (np.float32(0.1), np.float64(0.1), np.int64(1))]
    + [("lr", np.array(0.1)), ("lr", True)],
    ids=repr,
)
def test_numbers_of_numpy_and_python(name, number):
    start = torch.linspace(-2, 2, 7)
    settings = {"lr": 0.05, "momentum": 0.9, name: number}
    ours, theirs = (stepped(optimizer_class, start, **settings) for optimizer_class in BOTH)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, stepped(SGD, start, lr=0.05, momentum=0.9))


@pytest.mark.parametrize("lr", [Fraction(1, 10), np.array([0.1])], ids=repr)
def test_numbers_that_torch_refuses_raise_its_error(lr):
    ours, theirs = (raised_by_step(c, torch.ones(2), torch.ones(2), lr=lr) for c in BOTH)
    assert ours.type is theirs.type
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_tensor_lr_that_autograd_follows(shape, dtype):
    """The shape of the lr changes neither the type of the arithmetic nor that of the parameter."""
    for start in (torch.linspace(-2, 2, 7).to(dtype), torch.tensor(1.7, dtype=dtype)):
        lr = torch.full(shape, 0.1, requires_grad=True)
        ours, theirs = (stepped(optimizer_class, start, lr=lr, momentum=0.9) for optimizer_class in BOTH)
        assert torch.equal(ours, theirs)
        assert ours.dtype == dtype


@pytest.mark.parametrize("shape", [(), (1,)])
def test_tensor_weight_decay_that_autograd_follows_keeps_half_precision(shape):
    start = torch.linspace(-2, 2, 7).half()
    decay = torch.full(shape, 0.3, requires_grad=True)
    ours, theirs = (stepped(optimizer_class, start, lr=0.05, weight_decay=decay) for optimizer_class in BOTH)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, stepped(SGD, start, lr=0.05))


FUSED_REFUSES = {
    "meta": lambda: (torch.zeros(3, device="meta"), torch.zeros(3, device="meta")),
    "integers": lambda: (torch.arange(3), torch.arange(3)),
    "complex": lambda: (torch.ones(3, dtype=torch.complex64), torch.ones(3, dtype=torch.complex64)),
    "sparse": lambda: (torch.ones(3), torch.ones(3).to_sparse()),
}


@pytest.mark.parametrize("kind", FUSED_REFUSES)
def test_fused_refuses_what_torchs_kernel_cannot_take(kind):
    ours, theirs = (raised_by_step(optimizer_class, *FUSED_REFUSES[kind](), fused=True) for optimizer_class in BOTH)
    assert ours.type is theirs.type is RuntimeError
    shared = "support sparse gradients" if kind == "sparse" else "requires all the params to be floating point Tensors"
    assert shared in str(ours.value)
    assert shared in str(theirs.value)


def scaled(optimizer_class, unscales, **settings):
    """Return the parameters of each step with a GradScaler; the gradients of two steps overflow."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = optimizer_class(layer.parameters(), lr=0.1, momentum=0.9, **settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0, growth_interval=2)
    history = []
    for step in range(8):
        optimizer.zero_grad()
        loss = layer(torch.randn(4, 3)).square().mean() * (float("inf") if step in (0, 5) else 1)
        scaler.scale(loss).backward()
        if unscales:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        history.append(torch.cat([layer.weight.detach().flatten(), layer.bias.detach(), layer.bias.grad]))
    return torch.stack(history)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscales", [False, True])
def test_grad_scaler(unscales, fused):
    ours, theirs = scaled(SGD, unscales, fused=fused), scaled(torch.optim.SGD, unscales, foreach=False)
    assert torch.equal(ours[:, :8], theirs[:, :8])
    finite = [1, 2, 3, 4, 6, 7]
    assert torch.equal(ours[finite], theirs[finite])
    assert torch.equal(ours[4, :8], ours[5, :8])
    assert not torch.equal(ours[3, :8], ours[4, :8])


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_fused_follows_the_attributes_of_a_grad_scaler(momentum):
    for optimizer_class in BOTH:
        param = torch.ones(3)
        optimizer = optimizer_class([param], lr=0.5, momentum=momentum, fused=True)
        optimizer.grad_scale = torch.tensor(4.0)
        for found_inf, expected in ((0.0, 0.5), (1.0, 0.5)):
            param.grad = torch.full((3,), 4.0)
            optimizer.found_inf = torch.tensor(found_inf)
            optimizer.step()
            assert torch.equal(param, torch.full((3,), expected))
