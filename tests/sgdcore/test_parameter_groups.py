"""Parameter groups: patterns of tensor names, as torch spells them."""

import numpy as np
import pytest

from sgdcore import Dataset, Hyperparams, InvalidHyperparams, InvalidTraining, MlpModel, Task, train
from sgdcore.parameter_groups import group_of
from sgdcore.tasks import line

NETWORK = Task(Dataset(np.ones((4, 2)), np.arange(4.0)), MlpModel((3,)))
BIASES = {"bias": ["bias", "*.bias"]}


def test_the_same_patterns_fit_linear_models_and_networks():
    assert group_of(Task(line()), BIASES, ["bias"]).tolist() == [0, 1]
    assert group_of(NETWORK, BIASES, ["bias"]).tolist() == [0] * 6 + [1] * 3 + [0] * 3 + [1]


def test_groups_are_numbered_in_the_order_of_the_hyperparameters():
    groups = {"first": ["0.*"], "last": ["2.*"]}
    assert group_of(NETWORK, groups, ["last", "first"]).tolist() == [2] * 9 + [1] * 4
    assert group_of(NETWORK, groups, ["last"]).tolist() == [0] * 9 + [1] * 4


@pytest.mark.parametrize(
    ("groups", "used", "message"),
    [
        (BIASES, ["biases"], "there is no parameter group 'biases': the groups are bias"),
        ({"b": ["bais", "x*"]}, ["b"], r"group b: no parameter matches 'bais' or 'x\*': they are weight, bias"),
        ({"a": ["*"], "b": ["bias"]}, ["a", "b"], "the parameter bias is in two groups, a and b"),
    ],
)
def test_what_is_unknown_or_overlaps_is_refused(groups, used, message):
    with pytest.raises(InvalidTraining, match=message):
        group_of(Task(line()), groups, used)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"momentun": 0.9}, "group bias: no hyperparameter 'momentun': they are lr, momentum"),
        ({"lr": -1.0}, "group bias: Invalid learning rate: -1.0"),
        ({"momentum": 0.0}, "group bias: Nesterov momentum requires a momentum and zero dampening"),
        ({"lr": [0.1, 0.2, 0.3]}, "hyperparams must have the same length"),
    ],
)
def test_a_group_has_torchs_hyperparameters(own, message):
    with pytest.raises(InvalidHyperparams, match=message):
        Hyperparams([0.1, 0.2], 0.9, nesterov=True, groups={"bias": own})


def test_going_on_needs_the_same_groups():
    hyperparams = Hyperparams(0.01, groups={"bias": {"weight_decay": 0.1}})
    half = train(Task(line()), hyperparams, epochs=2, groups=BIASES)
    with pytest.raises(InvalidTraining, match="cannot continue with other parameter groups: start has bias"):
        train(Task(line()), Hyperparams(0.01), epochs=2, start=half)
    other = Hyperparams(0.01, groups={"bias": {"weight_decay": 0.2}})
    with pytest.raises(InvalidTraining, match=r"cannot continue with weight_decay of group bias 0\.2: start has 0\.1"):
        train(Task(line()), other, epochs=2, start=half, groups=BIASES)
