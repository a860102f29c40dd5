"""rule: the one scalar function and the functional sgd() are the same rule, and torch's."""

import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.sgd import sgd as functional_sgd

from sgdcore import rule
from sgdcore.rule import bind, select, sgd, update
from tests.support.hypothesis_profiles import examples
from tests.support.kernel_cases import assert_same_bits, hyperparams, numbers


def exact_fma(a: float, b: float, c: float) -> float:
    """a * b + c rounded once, from exact fractions."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def scalar_steps(step, arguments, param, gradients):
    """The parameter's and its buffer's value after each step of a scalar binding of the rule."""
    buffer, values = 0.0, []
    for t, gradient in enumerate(gradients):
        param, buffer = step(
            param,
            gradient,
            buffer,
            t == 0,
            -arguments["lr"],
            arguments["momentum"],
            arguments["weight_decay"],
            1 - arguments["dampening"],
            arguments["momentum"] != 0,
            arguments["weight_decay"] != 0,
            arguments["nesterov"],
        )
        values.append((param, buffer if arguments["momentum"] else 0.0))
    return np.array(values)


def tensor_steps(arguments, param, gradients, dtype=torch.float64, function=sgd, **kwargs):
    """The same by a function over lists of tensors."""
    params, buffers, values = [torch.tensor([param], dtype=dtype)], [None], []
    for gradient in gradients:
        function(params, [torch.tensor([gradient], dtype=dtype)], buffers, **arguments, **kwargs)
        values.append((params[0].item(), 0.0 if buffers[0] is None else buffers[0].item()))
    return np.array(values)


rows = hyperparams(trials=1).map(lambda row: dict(row.arguments(0)))
gradients = st.lists(numbers(-100, 100), min_size=1, max_size=6)


@given(arguments=rows, param=numbers(-100, 100), gradients=gradients)
def test_scalar_rule_with_a_true_fma_equals_sgd_bit_for_bit(arguments, param, gradients):
    bound = bind(exact_fma, select)
    np.testing.assert_array_equal(
        scalar_steps(bound, arguments, param, gradients), tensor_steps(arguments, param, gradients)
    )


@given(arguments=rows, param=numbers(-100, 100), gradients=gradients)
def test_plain_rule_agrees_with_sgd_within_rounding(arguments, param, gradients):
    plain = scalar_steps(update, arguments, param, gradients)
    exact = tensor_steps(arguments, param, gradients)
    largest = np.abs(exact).max() + abs(param) + max(map(abs, gradients))
    np.testing.assert_allclose(plain, exact, rtol=1e-12, atol=1e-13 * largest * (1 + arguments["lr"]))


@given(arguments=rows, param=numbers(-100, 100), gradients=gradients, maximize=st.booleans(), double=st.booleans())
@examples(30, 400)
def test_sgd_equals_torchs_bit_for_bit(arguments, param, gradients, maximize, double):
    dtype = torch.float64 if double else torch.float32
    ours = tensor_steps(arguments, param, gradients, dtype, maximize=maximize)
    theirs = tensor_steps(arguments, param, gradients, dtype, functional_sgd, maximize=maximize)
    assert_same_bits(ours, theirs)


def test_bind_gives_the_same_code_other_operations():
    bound = bind(exact_fma, select)
    assert bound.__code__ is update.__code__
    assert bound.__globals__["fma"] is exact_fma
    assert bound(1.0, 2.0, 0.0, True, -0.5, 0.0, 0.0, 1.0, False, False, False) == (0.0, 2.0)


def test_compiled_kernel_steps_with_this_very_code():
    from sgdcore.kernels.linear_numba import stepping

    assert stepping._update.py_func.__code__ is update.__code__


def test_flags_select_and_never_multiply_by_zero():
    inf = np.inf
    param, buffer = update(1.0, 2.0, inf, True, -0.5, 0.0, 0.0, 1.0, False, False, False)
    assert (param, buffer) == (0.0, 2.0)
    param, _ = update(inf, 2.0, 0.0, True, -0.5, 0.0, 0.0, 1.0, False, False, False)
    assert param == inf


def test_code_has_no_float_literals():
    assert not [c for c in update.__code__.co_consts if isinstance(c, float)]


def test_sgd_has_the_published_signature():
    parameters = inspect.signature(sgd).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == [
        "params",
        "d_p_list",
        "momentum_buffer_list",
    ]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    required = ["weight_decay", "momentum", "lr", "dampening", "nesterov"]
    assert list(keywords) == [*required, "maximize"]
    assert all(keywords[name] is inspect.Parameter.empty for name in required)
    assert keywords["maximize"] is False


def arguments(**kwargs):
    return {"weight_decay": 0.0, "momentum": 0.9, "lr": 0.1, "dampening": 0.0, "nesterov": False} | kwargs


def test_first_buffer_is_a_clone_of_the_gradient_not_dampened():
    gradient, buffers = torch.tensor([1.0, 2.0]), [None]
    sgd([torch.zeros(2)], [gradient], buffers, **arguments(dampening=0.5))
    assert torch.equal(buffers[0], gradient)
    buffers[0].fill_(7)
    assert gradient.tolist() == [1, 2]


def test_params_and_buffers_change_in_place_and_gradients_never():
    param, gradient, buffer = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([4.0])
    params, gradients, buffers = [param], [gradient], [buffer]
    sgd(params, gradients, buffers, **arguments(weight_decay=0.5, dampening=0.5, nesterov=False))
    assert params[0] is param
    assert buffers[0] is buffer
    assert gradient.item() == 2.0
    assert buffer.item() == pytest.approx(0.9 * 4 + 0.5 * 2.5)
    assert param.item() == pytest.approx(1 - 0.1 * (0.9 * 4 + 0.5 * 2.5))


def test_no_buffer_is_made_without_momentum():
    buffers = [None]
    sgd([torch.ones(1)], [torch.ones(1)], buffers, **arguments(momentum=0.0))
    assert buffers == [None]


def test_maximize_climbs():
    up, down = torch.zeros(1), torch.zeros(1)
    sgd([up], [torch.ones(1)], [None], **arguments(), maximize=True)
    sgd([down], [torch.ones(1)], [None], **arguments())
    assert up.item() == -down.item() == pytest.approx(0.1)


def test_tensor_lr_and_weight_decay_are_numbers():
    with_tensors, with_numbers = torch.ones(1), torch.ones(1)
    lr, decay = torch.tensor(0.1), torch.tensor([0.5])
    sgd([with_tensors], [torch.ones(1)], [None], **arguments(lr=lr, weight_decay=decay))
    sgd([with_numbers], [torch.ones(1)], [None], **arguments(lr=lr.item(), weight_decay=0.5))
    assert torch.equal(with_tensors, with_numbers)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        sgd([torch.ones(1)], [], [None], **arguments())


def test_python_fma_and_select_stand_in():
    assert rule.fma(2.0, 3.0, 4.0) == 10.0
    assert (rule.select(True, 1.0, 2.0), rule.select(False, 1.0, 2.0)) == (1.0, 2.0)
