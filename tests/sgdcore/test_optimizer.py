"""optimizer: sgdcore.SGD beside torch.optim.SGD, on PyTorch's own cases."""

import copy
import pickle
import warnings
from functools import cache

import pytest
import torch
from hypothesis import settings
from torch.optim import lr_scheduler

import sgdcore
from sgdcore.optimizer import SGD


@cache
def torchs_tables():
    """Return PyTorch's own cases and bad inputs for SGD.

    The import takes seconds and loads a hypothesis profile of PyTorch's, so it happens in a test and ours is restored.
    """
    profile = settings.get_current_profile_name()
    from torch.testing._internal import common_optimizers

    settings.load_profile(profile)
    return (
        common_optimizers.optim_inputs_func_sgd(device="cpu"),
        common_optimizers.optim_error_inputs_func_sgd(device="cpu", dtype=torch.float32),
    )


BOTH = pytest.mark.parametrize(("first", "second"), [(SGD, torch.optim.SGD), (torch.optim.SGD, SGD), (SGD, SGD)])
MOMENTUM = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}


def make_model(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).to(dtype)


def take_steps(model, optimizer, steps, scheduler=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        x = torch.randn(4, 3, generator=generator).to(dtype)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            needs_loss = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*[loss.item()] if needs_loss else [])


def assert_equal_models(ours, theirs):
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def trained(optimizer_class, steps=6, dtype=torch.float32, **kwargs):
    model = make_model(dtype)
    optimizer = optimizer_class(model.parameters(), **kwargs)
    take_steps(model, optimizer, steps)
    return model, optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torchs_own_inputs_train_alike(dtype, subtests):
    inputs, _ = torchs_tables()
    assert inputs
    for case in inputs:
        with subtests.test(case.desc):
            ours, theirs = (trained(c, dtype=dtype, **case.kwargs) for c in (SGD, torch.optim.SGD))
            assert_equal_models(ours[0], theirs[0])
            assert not torch.equal(next(ours[0].parameters()), next(make_model(dtype).parameters()))


def test_torchs_own_bad_inputs_are_refused_alike(subtests):
    _, errors = torchs_tables()
    assert errors
    for case in errors:
        given = case.optimizer_error_input
        params = given.params if given.params is not None else [torch.nn.Parameter(torch.zeros(1))]
        expected = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
        with subtests.test(given.desc), expected(case.error_type, match=case.error_regex):
            SGD(params, **given.kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"lr": -0.1},
        {"weight_decay": -0.1},
        {"nesterov": True},
        {"momentum": 0.9, "dampening": 0.1, "nesterov": True},
        {"lr": torch.tensor([0.1, 0.2])},
    ],
    ids=str,
)
def test_bad_hyperparameters_carry_torchs_message_and_our_type(kwargs):
    params = [torch.zeros(1, requires_grad=True)]
    with pytest.raises(ValueError, match=r".") as theirs:
        torch.optim.SGD(params, **kwargs)
    with pytest.raises(sgdcore.InvalidHyperparams) as ours:
        SGD(params, **kwargs)
    assert str(ours.value) == str(theirs.value)


def test_package_offers_the_class_lazily():
    assert sgdcore.SGD is SGD
    with pytest.raises(AttributeError, match="module 'sgdcore' has no attribute 'Adam'"):
        sgdcore.Adam  # noqa: B018


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_groups_of_their_own_settings(maximize, dampening):
    models = []
    for optimizer_class in (SGD, torch.optim.SGD):
        model = make_model()
        groups = [
            {"params": model[0].parameters(), "lr": 0.1, "momentum": 0.0, "maximize": maximize},
            {"params": [model[2].weight], "dampening": dampening},
            {"params": [model[2].bias], "nesterov": True, "weight_decay": 0.5},
        ]
        optimizer = optimizer_class(groups, lr=0.02, momentum=0.9)
        take_steps(model, optimizer, 6)
        models.append(model)
    assert_equal_models(*models)


def test_added_group_trains():
    models = []
    for optimizer_class in (SGD, torch.optim.SGD):
        model = make_model()
        optimizer = optimizer_class(model[0].parameters(), **MOMENTUM)
        take_steps(model, optimizer, 2)
        optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.5})
        take_steps(model, optimizer, 3)
        models.append(model)
    assert_equal_models(*models)


@BOTH
def test_state_dict_moves_on_mid_training(first, second, subtests):
    for case in torchs_tables()[0]:
        with subtests.test(case.desc):
            model, optimizer = trained(first, 3, **case.kwargs)
            moved = copy.deepcopy(model)
            successor = second(moved.parameters(), lr=123.0)
            successor.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            take_steps(moved, successor, 3, seed=2)
            expected, reference = trained(torch.optim.SGD, 3, **case.kwargs)
            take_steps(expected, reference, 3, seed=2)
            assert_equal_models(moved, expected)


def test_state_dict_is_torchs():
    ours, theirs = (trained(c, **MOMENTUM)[1].state_dict() for c in (SGD, torch.optim.SGD))
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for index, state in theirs["state"].items():
        assert torch.equal(ours["state"][index]["momentum_buffer"], state["momentum_buffer"])


def test_states_saved_before_nesterov_existed_load():
    model, optimizer = trained(SGD, **MOMENTUM)
    old = optimizer.state_dict()
    for name in ("nesterov", "maximize", "foreach", "differentiable", "fused"):
        del old["param_groups"][0][name]
    optimizer.load_state_dict(old)
    take_steps(model, optimizer, 2)
    expected, reference = trained(torch.optim.SGD, **MOMENTUM)
    take_steps(expected, reference, 2)
    assert_equal_models(model, expected)


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "OneCycleLR, momentum too": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "CyclicLR, momentum too": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.StepLR(o, 1)], [3]
    ),
}


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name, tensor_lr):
    models = []
    for optimizer_class in (SGD, torch.optim.SGD):
        model = make_model()
        lr = torch.tensor(0.1) if tensor_lr else 0.1
        optimizer = optimizer_class(model.parameters(), lr=lr, momentum=0.9)
        take_steps(model, optimizer, 8, SCHEDULERS[name](optimizer))
        models.append(model)
        assert optimizer.param_groups[0]["lr"] != 0.1
    assert_equal_models(*models)


def test_tensor_weight_decay():
    kwargs = {"lr": torch.tensor([0.1]), "weight_decay": torch.tensor(0.3), "momentum": 0.5}
    assert_equal_models(trained(SGD, **kwargs)[0], trained(torch.optim.SGD, **kwargs)[0])


def test_closure_is_called_with_gradients_on_and_its_loss_returned():
    param = torch.tensor([3.0], requires_grad=True)
    optimizer = SGD([param], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert param.item() == pytest.approx(3 - 0.1 * 6)
    assert optimizer.step() is None


def test_parameters_without_gradients_stay_and_start_late():
    results = []
    for optimizer_class in (SGD, torch.optim.SGD):
        early, late = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        optimizer = optimizer_class([early, late], lr=0.1, momentum=0.9, dampening=0.5)
        for step in range(4):
            optimizer.zero_grad()
            (early.square().sum() + (late.square().sum() if step > 1 else 0)).backward()
            optimizer.step()
            if step == 1:
                assert late.tolist() == [1, 1]
                assert late not in optimizer.state or not optimizer.state[late]
        results.append(torch.stack([early, late]).detach())
    assert torch.equal(*results)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    model, optimizer = trained(SGD, 1, lr=0.1)
    optimizer.zero_grad(set_to_none=set_to_none)
    for param in model.parameters():
        assert param.grad is None if set_to_none else not param.grad.any()


@pytest.mark.parametrize(
    "settings",
    [{"lr": 0.1}, MOMENTUM | {"weight_decay": 0}, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, {"maximize": True}],
    ids=str,
)
def test_sparse_gradients_train_as_in_torch(settings):
    def embedded(optimizer_class):
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(5, 2, sparse=True)
        optimizer = optimizer_class(embedding.parameters(), **settings)
        with warnings.catch_warnings():  # torch's own notes on its sparse tensors
            warnings.filterwarnings("ignore", category=UserWarning, module="torch")
            for row in (1, 3, 1):
                optimizer.zero_grad()
                embedding(torch.tensor([row])).square().sum().backward()
                optimizer.step()
        return embedding.weight.detach()

    ours, theirs = embedded(SGD), embedded(torch.optim.SGD)
    assert torch.equal(ours, theirs)
    torch.manual_seed(0)
    assert not torch.equal(ours, torch.nn.Embedding(5, 2).weight)


@pytest.mark.parametrize("choice", [{"foreach": True}, {"foreach": False}, {"fused": False}, {"fused": True}], ids=str)
def test_torchs_choices_between_implementations_are_accepted(choice):
    ours, optimizer = trained(SGD, **MOMENTUM, **choice)
    plain, _ = trained(torch.optim.SGD, foreach=False, **MOMENTUM)
    assert_equal_models(ours, plain)
    assert {name: optimizer.param_groups[0][name] for name in choice} == choice
    theirs = torch.optim.SGD(make_model().parameters(), **MOMENTUM, **choice)
    theirs.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("choice", [{"fused": True, "foreach": True}, {"fused": True, "differentiable": True}], ids=str)
def test_choices_that_exclude_each_other_are_refused_as_by_torch(choice):
    params = [torch.zeros(1, requires_grad=True)]
    messages = []
    for optimizer_class in (SGD, torch.optim.SGD):
        with pytest.raises(RuntimeError) as raised:
            optimizer_class(params, lr=0.1, **choice)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_autograd_follows_a_differentiable_step(momentum):
    """Through the parameters, and without momentum (whose buffers change in place) to lr and weight_decay."""

    def gradients(optimizer_class):
        followed = momentum == 0
        lr, decay = (torch.tensor(value, dtype=torch.float64, requires_grad=followed) for value in (0.1, 0.3))
        start = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        param = start.clone()
        settings = {"lr": lr, "momentum": momentum, "weight_decay": decay, "differentiable": True}
        optimizer = optimizer_class([param], **settings)
        for _ in range(3):
            param.grad = 2 * param.detach()
            optimizer.step()
        return torch.autograd.grad(param.square().sum(), [start, lr, decay] if followed else [start])

    for ours, theirs in zip(gradients(SGD), gradients(torch.optim.SGD), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.abs().sum() > 0


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_copies_go_on_alike(copied):
    model, optimizer = trained(SGD, 3, **MOMENTUM)
    model_copy, optimizer_copy = copied((model, optimizer))
    take_steps(model, optimizer, 3, seed=2)
    take_steps(model_copy, optimizer_copy, 3, seed=2)
    assert_equal_models(model, model_copy)
    assert next(model_copy.parameters()) is not next(model.parameters())


def test_step_hooks_run():
    model = make_model()
    optimizer, calls = SGD(model.parameters(), lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    take_steps(model, optimizer, 1)
    assert calls == ["before", "after"]


def test_gradients_are_left_as_they_are():
    param = torch.ones(3, requires_grad=True)
    optimizer = SGD([param], lr=0.1, momentum=0.9, weight_decay=0.5, nesterov=True)
    param.grad = torch.tensor([1.0, 2.0, 3.0])
    optimizer.step()
    optimizer.step()
    assert param.grad.tolist() == [1, 2, 3]


def test_repr_names_the_class_and_settings():
    assert repr(SGD([torch.zeros(1)], lr=0.25)).startswith("SGD (")
    assert "lr: 0.25" in repr(SGD([torch.zeros(1)], lr=0.25))
