"""models: features of the inputs, and torch's own initialisation."""

import numpy as np
import torch

from sgdcore import LinearModel, PolynomialModel
from sgdcore.tasks.initialisation import initial_params
from tests.support.kernel_cases import assert_same_bits


def test_linear_features_are_the_inputs():
    inputs = np.arange(6.0).reshape(3, 2)
    assert LinearModel().features(inputs) is inputs


def test_polynomial_features_are_powers():
    features = PolynomialModel(3).features(np.array([[2.0], [-3.0]]))
    assert features.tolist() == [[2, 4, 8], [-3, 9, -27]]


def test_models_have_a_bias_unless_told():
    assert LinearModel().bias
    assert PolynomialModel().bias
    assert not PolynomialModel(bias=False).bias


def test_initialisation_leaves_torchs_random_state():
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    values = initial_params(LinearModel(), 2, 4, "float32")
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(4)
    layer = torch.nn.Linear(2, 1)
    assert_same_bits(values.astype(np.float32), torch.cat([layer.weight[0], layer.bias]).detach().numpy())
