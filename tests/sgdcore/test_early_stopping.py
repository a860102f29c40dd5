"""early_stopping: trials stop where a plain torch loop with the textbook rule stops, with the same best parameters."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sgdcore import EarlyStopping, Hyperparams, InvalidTraining, MlpModel, Recording, Task, judge, train
from sgdcore.tasks import line, linear
from tests.support.hypothesis_profiles import examples
from tests.support.kernel_cases import (
    EXACT,
    LINE,
    NETWORK_INPUTS,
    TRAIN_INPUTS,
    WAVES,
    TrainInput,
    assert_same_bits,
    runs,
)

NOISY = Task(linear(30, 3, noise=1.0).split(0.3))
NETWORK = Task(WAVES.split(0.3), MlpModel((9, 6), "tanh"))
ROWS = {"lr": [0.001, 0.02, 0.05, 0.3, 0.1], "momentum": [0, 0.5, 0.9, 0.5, 0], "weight_decay": [0, 0, 0.1, 0, 0]}
SEEDS = [0, 1, 0, 1, 2]
RUN: dict[str, Any] = {"batch_size": 1, "order": "shuffled", "seeds": SEEDS, "record": Recording(14, "linear")}
EPOCHS = 15


@dataclass
class Best:
    value: float = np.inf
    step: int = 0
    params: Any = None
    stopped: int = -1


def torch_trial(task: Task, hyperparams: Hyperparams, trial: int, steps: list[int], rule: EarlyStopping) -> Best:
    """A plain torch loop: DataLoader, nn.Sequential, torch.optim.SGD, and patience as Keras has it."""
    data, held_out = task.dataset, task.dataset.validation
    assert held_out is not None
    sets = {
        "loss": (torch.tensor(data.inputs, dtype=torch.float32), torch.tensor(data.targets, dtype=torch.float32)),
        "validation_loss": (
            torch.tensor(held_out.inputs, dtype=torch.float32),
            torch.tensor(held_out.targets, dtype=torch.float32),
        ),
    }
    inputs, targets = sets["loss"]
    torch.manual_seed(SEEDS[trial])
    widths = [inputs.shape[1], *getattr(task.model, "hidden", ()), 1]
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(widths)]
    module = torch.nn.Sequential(*[part for layer in layers for part in (layer, torch.nn.Tanh())][:-1])
    optimizer = torch.optim.SGD(module.parameters(), **hyperparams.arguments(trial))
    generator = torch.Generator().manual_seed(SEEDS[trial])
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, targets), batch_size=1, shuffle=True, generator=generator
    )
    best, waited, step = Best(), 0, 0

    def look() -> bool:
        nonlocal waited
        if step not in steps:
            return False
        features, expected = sets[rule.metric or "validation_loss"]
        with torch.no_grad():
            value = functional.mse_loss(module(features)[:, 0].double(), expected.double()).item()
        waited += 1
        if value + rule.min_delta < best.value:
            best.value, best.step, waited = value, step, 0
            best.params = torch.cat([p.detach().flatten() for p in module.parameters()]).numpy().copy()
        return waited >= rule.patience

    stop = look()
    for _ in range(EPOCHS):
        for x, y in loader:
            if stop:
                best.stopped = step
                return best
            optimizer.zero_grad()
            functional.mse_loss(module(x)[:, 0], y).backward()
            optimizer.step()
            step += 1
            stop = look()
    best.stopped = step if stop else -1
    return best


@pytest.mark.parametrize("metric", [None, "loss"])
@pytest.mark.parametrize("name", ["linear", "network"])
def test_trials_stop_where_torch_does(name: str, metric: Any) -> None:
    task = NOISY if name == "linear" else NETWORK
    hyperparams, rule = Hyperparams(**ROWS), EarlyStopping(patience=3, min_delta=0.002, metric=metric)
    steps = Recording(14, "linear").steps(0, EPOCHS * task.samples).tolist()
    expected = [torch_trial(task, hyperparams, trial, steps, rule) for trial in range(5)]
    assert {best.stopped >= 0 for best in expected} == {True, False}
    for kernel in ("numba", "torch", "reference"):
        result = train(task, hyperparams, epochs=EPOCHS, early_stopping=rule, kernel=kernel, **RUN)
        assert result.stopped_step.tolist() == [best.stopped for best in expected], kernel
        assert result.early_stops.best_step.tolist() == [best.step for best in expected], kernel
        theirs = np.array([best.params for best in expected])
        if kernel == "reference" or (kernel == "numba" and name == "linear"):
            assert_same_bits(result.params, theirs)
        else:
            np.testing.assert_allclose(result.params, theirs, rtol=1e-4, atol=1e-5)
        assert (result.first_nonfinite_step == -1).all()
        curve = result.loss if metric else result.curves.validation_loss
        np.testing.assert_allclose(result.final_values(curve), [best.value for best in expected], rtol=1e-4)
        for trial, best in enumerate(expected):
            reached = np.array(steps) <= (best.stopped if best.stopped >= 0 else steps[-1])
            assert np.isfinite(result.loss[trial, reached]).all()
            assert np.isnan(result.loss[trial, ~reached]).all()


def by_hand(curve: Any, rule: EarlyStopping, overflow: int) -> tuple[int, int]:
    """The points at which the rule stops a trial, -1 if never, and at which its metric was best."""
    best, best_point, waited = np.inf, 0, 0
    for point, value in enumerate(curve[:overflow] if overflow >= 0 else curve):
        if value + rule.min_delta < best:
            best, best_point, waited = value, point, 0
        else:
            waited += 1
        if waited >= rule.patience:
            return point, best_point
    return -1, best_point


def assert_stopped(case: TrainInput, rule: EarlyStopping, **options: Any) -> None:
    """Check a run with early stopping against the same run without it."""
    full = case.train(**options)
    result = case.train(early_stopping=rule, **options)
    metric = full.loss if full.curves.validation_loss is None else full.curves.validation_loss
    again = case.train(early_stopping=result.early_stops, **options)
    for trial in range(len(full)):
        overflow = int(np.searchsorted(full.steps, stop)) if (stop := full.first_nonfinite_step[trial]) >= 0 else -1
        stopped, best = by_hand(metric[trial], rule, overflow)
        assert result.stopped_step[trial] == (full.steps[stopped] if stopped >= 0 else -1)
        assert result.first_nonfinite_step[trial] == (-1 if stopped >= 0 else full.first_nonfinite_step[trial])
        last = len(full.steps) if stopped < 0 else stopped + 1
        for name in ("loss", "validation_loss", "squared_norm", "path"):
            if (expected := getattr(full.curves, name)) is not None:
                found = getattr(result.curves, name)[trial]
                assert_same_bits(found[:last], expected[trial, :last], name)
                assert np.isnan(found[last:]).all(), name
                assert_same_bits(getattr(again.curves, name)[trial], found, name)
        if result.first_nonfinite_step[trial] >= 0:
            assert_same_bits(result.params[trial], full.params[trial])
        elif full.curves.path is not None:
            assert_same_bits(result.params[trial], full.curves.path[trial, best])
            assert full.steps[best] == result.early_stops.best_step[trial]
        assert_same_bits(again.params[trial], result.params[trial])
    # The recorded curve is enough to find the stops again.
    found = rule.stops(result.steps, metric_of(result), result.first_nonfinite_step)
    np.testing.assert_array_equal(found.stopped_step, result.stopped_step)
    finite = result.first_nonfinite_step == -1
    np.testing.assert_array_equal(found.best_step[finite], result.early_stops.best_step[finite])


def metric_of(result: Any) -> Any:
    return result.loss if result.curves.validation_loss is None else result.curves.validation_loss


@pytest.mark.parametrize("kernel", EXACT)
@pytest.mark.parametrize("case", TRAIN_INPUTS, ids=lambda case: case.desc)
def test_every_run_up_to_its_stop(case: TrainInput, kernel: str) -> None:
    assert_stopped(case, EarlyStopping(3, 1e-3), kernel=kernel)


@pytest.mark.parametrize("case", [case for case in NETWORK_INPUTS if case.desc in ("a held-out set", "few parameters",
                         "scheduled", "onecycle", "no decay of biases")], ids=lambda case: case.desc)  # fmt: skip
def test_networks_up_to_their_stops(case: TrainInput) -> None:
    assert_stopped(case, EarlyStopping(2, 0.01), kernel="numba")


@given(case=runs(), patience=st.integers(1, 5), min_delta=st.sampled_from([0, 1e-3, 1.0]))
@examples(6, 200)
def test_random_runs_up_to_their_stops(case: TrainInput, patience: int, min_delta: float) -> None:
    assert_stopped(case, EarlyStopping(patience, min_delta))


def test_a_trial_stops_in_any_pack_where_it_stops_alone() -> None:
    rows = Hyperparams(lr=np.geomspace(1e-4, 0.5, 40), momentum=np.tile([0, 0.9], 20))
    options = {"epochs": 20, "early_stopping": EarlyStopping(2), "record": Recording(20, "linear"), "order": "shuffled"}
    seeds = np.arange(40) % 3
    whole = train(NOISY, rows, seeds=seeds, **options)
    stopped = whole.stopped_step >= 0
    assert len(set(whole.stopped_step[stopped].tolist())) > 5
    assert not stopped.all()
    for trials in (np.array([7]), np.arange(3, 29, 2), np.random.default_rng(0).permutation(40)):
        part = train(NOISY, rows[trials], seeds=seeds[trials], **options)
        np.testing.assert_array_equal(part.stopped_step, whole.stopped_step[trials])
        for name in ("params", "momentum_buffers", "peak", "peak_step"):
            assert_same_bits(getattr(part.state, name), getattr(whole.state, name)[trials], name)
        assert_same_bits(part.curves.validation_loss, whole.curves.validation_loss[trials])


@pytest.mark.parametrize("kernel", ["numba", "torch", "reference"])
def test_stopped_trials_are_not_stepped_any_more(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgdcore import engine

    chosen, taken = engine.choose(NOISY, kernel, "cpu"), []

    def advance(problem: Any, hyperparams: Any, state: Any, segment: Any, curves: Any, resources: Any) -> None:
        taken.append(len(hyperparams) * (segment.stop - state.step))
        chosen.advance(problem, hyperparams, state, segment, curves, resources)

    monkeypatch.setattr(engine, "choose", lambda *_: engine.Choice(kernel, "cpu", advance, chosen.mixes_orders))
    counted: list[int] = []
    result = train(
        NOISY,
        Hyperparams(lr=[0.01, 0.5, 0.0], momentum=0.5),
        epochs=EPOCHS,
        early_stopping=EarlyStopping(2),
        on_steps=counted.append,
        **RUN | {"seeds": [0, 1, 0]},
    )
    steps = EPOCHS * NOISY.samples
    assert (result.stopped_step >= 0).all()
    assert sum(taken) == result.stopped_step.sum() < 3 * steps / 2
    assert sum(counted) == 3 * steps


def test_a_trial_that_overflows_is_diverged_and_not_restored() -> None:
    result = train(LINE, Hyperparams(lr=[10.0, 0.01]), epochs=20, early_stopping=EarlyStopping(50))
    plain = train(LINE, Hyperparams(lr=[10.0, 0.01]), epochs=20)
    assert result.stopped_step.tolist() == [-1, -1]
    assert_same_bits(result.params[0], plain.params[0])
    assert judge(result).verdict.tolist() == judge(plain).verdict.tolist() == ["diverged", "converging"]
    assert judge(result).final_loss[0] == judge(plain).final_loss[0] == plain.loss[0][np.isfinite(plain.loss[0])][-1]
    assert judge(result).final_loss[1] == plain.loss[1].min() < plain.loss[1, -1]


def test_verdicts_judge_the_curve_up_to_its_end() -> None:
    """As if the trial had been meant to be that long; the final loss is that of the best point."""
    rows = Hyperparams(lr=np.geomspace(1e-4, 1, 25))
    data = {"dtype": "float64", "batch_size": 7}
    result = train(
        NOISY, rows, epochs=100, record=Recording(99, "linear"), early_stopping=EarlyStopping(3, 0.001), **data
    )
    judged, seen = judge(result), set()
    for trial in np.flatnonzero(result.stopped_step >= 0):
        epochs = int(result.stopped_step[trial]) // result.steps_per_epoch
        shorter = train(NOISY, rows[[trial]], epochs=epochs, record=Recording(epochs - 1, "linear"), **data)
        expected = judge(shorter)
        for name in ("verdict", "best_loss", "best_step", "steps_to_tolerance", "overshoot_percent", "peak_step"):
            assert_same_bits(getattr(judged, name)[trial], getattr(expected, name)[0], name)
        best = int(result.early_stops.best_step[trial]) // result.steps_per_epoch
        assert judged.final_loss[trial] == shorter.loss[0, best]
        seen.add(str(judged.verdict[trial]))
    assert seen == {"converged", "stalled", "diverging"}


def test_without_an_improvement_the_start_is_kept() -> None:
    result = train(LINE, Hyperparams(lr=0.1, momentum=0.9), epochs=5, start=[0.8, 1.2], early_stopping=EarlyStopping(2))
    assert (result.stopped_step[0], result.early_stops.best_step[0]) == (2, 0)
    assert_same_bits(result.params[0], np.float32([0.8, 1.2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 0}, "patience must be a whole number >= 1, not 0"),
        ({"patience": 2.5}, "patience must be a whole number >= 1, not 2.5"),
        ({"patience": True}, "patience must be a whole number >= 1, not True"),
        ({"patience": 1, "min_delta": -1.0}, r"min_delta must be a finite number >= 0, not -1\.0"),
        ({"patience": 1, "min_delta": np.nan}, "min_delta must be a finite number >= 0, not nan"),
        ({"patience": 1, "min_delta": np.inf}, "min_delta must be a finite number >= 0, not inf"),
        ({"patience": 1, "metric": "accuracy"}, "must be loss or validation_loss, not 'accuracy'"),
    ],
)
def test_bad_rules_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidTraining, match=message):
        EarlyStopping(**arguments)


def test_bad_runs_are_refused() -> None:
    rows, rule = Hyperparams(lr=[0.1, 0.2]), EarlyStopping(1)
    task = Task(line())
    with pytest.raises(InvalidTraining, match="by validation_loss needs a validation set"):
        train(task, rows, epochs=1, early_stopping=EarlyStopping(1, metric="validation_loss"))
    stopped = train(task, rows, epochs=1, early_stopping=rule)
    for start, given_rule in ((stopped, None), (train(task, rows, epochs=1), rule)):
        with pytest.raises(InvalidTraining, match="cannot continue with early stopping"):
            train(task, rows, epochs=1, start=start, early_stopping=given_rule)
    with pytest.raises(InvalidTraining, match="cannot stop where 2 other trials did: this run has 1"):
        train(task, rows[:1], epochs=1, early_stopping=stopped.early_stops)
