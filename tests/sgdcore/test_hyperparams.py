"""hyperparams: broadcast columns under torch.optim.SGD's own rules."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgdcore import Hyperparams, InvalidHyperparams, SgdError
from sgdcore.hyperparams import NAMES
from tests.support.kernel_cases import ERROR_INPUTS, ErrorInput


@pytest.mark.parametrize(
    "case", [case for case in ERROR_INPUTS if case.error_type is InvalidHyperparams], ids=lambda case: case.desc
)
def test_bad_input_raises(case: ErrorInput):
    with pytest.raises(case.error_type, match=case.error_regex) as raised:
        case.call()
    assert isinstance(raised.value, SgdError)
    assert isinstance(raised.value, ValueError)


@given(
    lr=st.sampled_from([-1.0, 0.0, 0.1]),
    momentum=st.sampled_from([-0.5, 0.0, 0.9, 1.5]),
    weight_decay=st.sampled_from([-0.1, 0.0, 0.5]),
    dampening=st.sampled_from([-0.5, 0.0, 0.5]),
    nesterov=st.booleans(),
)
def test_refuses_what_torch_refuses_with_torchs_words(**arguments):
    ours = theirs = None
    try:
        Hyperparams(**arguments)
    except InvalidHyperparams as error:
        ours = str(error)
    try:
        torch.optim.SGD([torch.zeros(1)], **arguments)
    except ValueError as error:
        theirs = str(error)
    assert ours == theirs


def test_columns_are_broadcast():
    rows = Hyperparams(lr=[0.1, 0.01, 0.001], momentum=0.9, weight_decay=np.array([0, 1, 2]))
    assert len(rows) == 3
    assert rows.momentum.tolist() == [0.9] * 3
    assert rows.weight_decay.tolist() == [0, 1, 2]
    assert rows.dampening.tolist() == [0] * 3
    assert [getattr(rows, name).dtype for name in NAMES] == [np.float64] * 4 + [np.bool_]


def test_columns_do_not_share_memory_with_the_input():
    lr = np.array([0.1, 0.2])
    rows = Hyperparams(lr=lr)
    lr[:] = 5
    assert rows.lr.tolist() == [0.1, 0.2]


def test_scalars_are_one_trial():
    assert len(Hyperparams(0.1)) == 1
    assert len(Hyperparams([])) == 0


def test_rows_are_picked_by_slice_and_by_index():
    rows = Hyperparams(lr=[0.1, 0.2, 0.3], momentum=[0, 0.5, 0.9], nesterov=[False, True, True])
    assert rows[1:].lr.tolist() == [0.2, 0.3]
    picked = rows[np.array([2, 0])]
    assert picked.momentum.tolist() == [0.9, 0]
    assert picked.nesterov.tolist() == [True, False]


def test_arguments_are_those_of_torch():
    rows = Hyperparams(lr=[0.1, 0.2], momentum=0.9, weight_decay=0.5, nesterov=True)
    assert rows.arguments(1) == {
        "lr": 0.2,
        "momentum": 0.9,
        "weight_decay": 0.5,
        "dampening": 0.0,
        "nesterov": True,
    }
    group = torch.optim.SGD([torch.zeros(1)], **rows.arguments(1)).param_groups[0]
    assert {name: group[name] for name in NAMES} == rows.arguments(1)


def test_hyperparams_are_frozen():
    with pytest.raises(AttributeError):
        Hyperparams(0.1).lr = np.array([1.0])
