"""Kernels: every one of them does what torch.optim.SGD does."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import event, given
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from sgdcore import (
    Dataset,
    Hyperparams,
    LinearModel,
    MlpModel,
    Recording,
    Schedule,
    Scheduler,
    Task,
    Trajectories,
    train,
)
from tests.support.hypothesis_profiles import NIGHTLY, examples
from tests.support.kernel_cases import (
    CLIPPED_INPUTS,
    EXACT,
    INTERPRETED,
    LOSS_INPUTS,
    MODULE_INPUTS,
    NETWORK_INPUTS,
    STEPS,
    TRAIN_INPUTS,
    WAVES,
    TrainInput,
    assert_close_training,
    assert_same_bits,
    assert_same_training,
    network,
    runs,
)

COMPILED = [name for name in EXACT if name != "reference"]
CLIPS_OF_FIVE = {"clip_grad_norm": [1e3, 1, np.inf, np.inf, 0.5], "clip_grad_value": [np.inf, np.inf, 10, 1e12, 1]}
OF_ANY_WIDTH = [name for name in COMPILED if name != "triton"]


@cache
def by_reference(case: TrainInput) -> Trajectories:
    """Train a shared case as torch does, once for all kernels that are compared with it."""
    return case.train(kernel="reference")


@pytest.mark.parametrize("kernel", COMPILED)
@pytest.mark.parametrize("case", TRAIN_INPUTS, ids=lambda case: case.desc)
def test_named_case_equals_reference_bit_for_bit(case: TrainInput, kernel: str):
    assert_same_training(case.train(kernel=kernel), by_reference(case))


@pytest.mark.parametrize("case", TRAIN_INPUTS, ids=lambda case: case.desc)
def test_named_case_agrees_with_reference_to_rounding(case: TrainInput):
    assert_close_training(case.train(kernel="torch"), by_reference(case))


@pytest.mark.parametrize("kernel", [*COMPILED, "torch"])
@pytest.mark.parametrize("case", CLIPPED_INPUTS, ids=lambda case: case.desc)
def test_clipped_case_agrees_with_reference_to_rounding(case: TrainInput, kernel: str):
    assert by_reference(case).state.clipped_steps.any()
    assert_close_training(case.train(kernel=kernel), by_reference(case))


@pytest.mark.parametrize(
    ("case", "kernel"),
    [
        *((case, kernel) for case in NETWORK_INPUTS for kernel in ("numba", "torch")),
        *((case, "torch") for case in (*MODULE_INPUTS, *LOSS_INPUTS)),
    ],
    ids=lambda value: getattr(value, "desc", value),
)
def test_network_agrees_with_reference_to_rounding(case: TrainInput, kernel: str):
    ours, theirs = case.train(kernel=kernel), by_reference(case)
    assert ours.state.step >= STEPS
    bound = {"float32": 1e-5, "float64": 1e-12}[str(theirs.params.dtype)]
    scale = np.abs(theirs.params).max(axis=1, keepdims=True)
    np.testing.assert_array_less(np.abs(ours.params - theirs.params), bound * np.broadcast_to(scale, ours.params.shape))
    np.testing.assert_array_equal(ours.first_nonfinite_step, theirs.first_nonfinite_step)
    np.testing.assert_array_equal(ours.state.clipped_steps, theirs.state.clipped_steps)
    assert theirs.state.clipped_steps.any() == ("clipped" in case.desc)
    for name in ("loss", "validation_loss", "squared_norm", "path"):
        mine, expected = getattr(ours.curves, name), getattr(theirs.curves, name)
        assert (mine is None) == (expected is None), name
        if mine is not None:
            np.testing.assert_allclose(mine, expected, rtol=20 * bound, atol=bound, err_msg=name)
    moved = theirs.state.momentum_buffers[1:]
    allowed = 100 * bound * np.abs(moved).max(axis=1, keepdims=True) + bound
    np.testing.assert_array_less(np.abs(ours.state.momentum_buffers[1:] - moved), np.broadcast_to(allowed, moved.shape))


@pytest.mark.parametrize("kernel", ["numba", "torch"])
@pytest.mark.parametrize("clips", [{}, CLIPS_OF_FIVE], ids=["plain", "clipped"])
@pytest.mark.parametrize(("loss", "hidden"), [("mse", (5,)), ("mae", (5,)), ("mse", (6, 4))])
def test_diverging_networks_stop_where_torchs_do(
    kernel: str, loss: str, hidden: tuple[int, ...], clips: dict[str, list[float]]
):
    case = network("diverging", MlpModel(hidden), loss, WAVES.split(0.3), epochs=6)
    hyperparams = {"lr": [1e12, 0.01, 3e38, 1e30, 0.02]} | clips
    ours, theirs = (replace(case, hyperparams=hyperparams).train(kernel=name) for name in (kernel, "reference"))
    assert (theirs.first_nonfinite_step[[2, 3]] >= 0).all()
    assert (theirs.first_nonfinite_step[[1, 4]] < 0).all()
    np.testing.assert_array_equal(ours.first_nonfinite_step, theirs.first_nonfinite_step)
    np.testing.assert_array_equal(np.isfinite(ours.params), np.isfinite(theirs.params))
    # A sum that overflows is infinite in one order, and inf - inf in another.
    np.testing.assert_array_equal(ours.state.clipped_steps[[1, 4]], theirs.state.clipped_steps[[1, 4]])
    np.testing.assert_array_equal(np.isfinite(ours.loss), np.isfinite(theirs.loss))
    np.testing.assert_array_equal(np.isfinite(ours.curves.validation_loss), np.isfinite(theirs.curves.validation_loss))


@pytest.mark.parametrize("kernel", ["numba", "torch"])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "log_cosh", "quantile", "poisson_nll"])
def test_a_network_whose_output_is_not_a_number_has_torchs_gradients(kernel: str, loss: str):
    task = Task(Dataset(np.array([[2.0]]), np.array([0.0])), MlpModel((2,)), loss, quantile=0.8)
    start = [3e38, 3e38, 0, 0, 1, -1, 0]  # hidden units overflow, and their difference is nan
    ours, theirs = (train(task, Hyperparams(lr=0.1), epochs=1, kernel=k, start=start) for k in (kernel, "reference"))
    np.testing.assert_array_equal(ours.params, theirs.params)


@pytest.mark.parametrize("kernel", COMPILED)
@given(case=runs())
@examples(4 if INTERPRETED else 15, 40 if INTERPRETED else 1_000)
def test_random_run_equals_reference_bit_for_bit(kernel: str, case: TrainInput):
    expected = case.train(kernel="reference")
    event(f"overflows: {(expected.first_nonfinite_step >= 0).any()}")
    assert_same_training(case.train(kernel=kernel), expected)


@pytest.mark.parametrize(
    ("desc", "stopped"), [("overflows float32", [0, 2]), ("overflows float64", [0]), ("overflows at once", [0])]
)
def test_diverging_cases_do_overflow(desc: str, stopped: list[int]):
    case = next(case for case in TRAIN_INPUTS if case.desc == desc)
    result = case.train(kernel="reference")
    np.testing.assert_array_equal(np.flatnonzero(result.first_nonfinite_step >= 0), stopped)
    assert not np.isfinite(result.params[stopped]).all(axis=1).any()


def user_script(
    inputs,
    targets,
    arguments,
    *,
    epochs,
    batch_size,
    shuffle,
    seed,
    dtype,
    bias=None,
    scheduler=None,
    by_step=False,
    clip=lambda parameters: None,
):
    """The loop that a user of torch writes; nothing of sgdcore in it."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(inputs.shape[1], 1, dtype=dtype)
    data = TensorDataset(torch.tensor(inputs, dtype=dtype), torch.tensor(targets, dtype=dtype)[:, None])
    loader = DataLoader(data, batch_size, shuffle=shuffle, generator=torch.Generator().manual_seed(seed))
    groups = [{"params": [model.weight]}, {"params": [model.bias], **(bias or {})}]
    optimizer = torch.optim.SGD(groups, **arguments)
    schedule = None if scheduler is None else scheduler(optimizer)
    loss_function = torch.nn.MSELoss()
    path = [torch.cat([model.weight[0], model.bias]).detach().numpy()]
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss_function(model(x), y).backward()
            clip(model.parameters())
            optimizer.step()
            path.append(torch.cat([model.weight[0], model.bias]).detach().numpy())
            if schedule and by_step:
                schedule.step()
        if schedule and not by_step:
            schedule.step()
    return np.stack(path)


@pytest.mark.parametrize("kernel", EXACT)
@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("features", "dtype"), [(1, "float32"), (1, "float64"), (3, "float32")])
def test_equals_a_torch_script_bit_for_bit(kernel, batch_size, shuffle, features, dtype):
    rng = np.random.default_rng(5)
    inputs, targets = rng.standard_normal((7, features)), rng.standard_normal(7)
    for seed, arguments in enumerate(
        [
            {"lr": 0.05},
            {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
            {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
            {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        ]
    ):
        options = {"epochs": 2 if INTERPRETED and not NIGHTLY else 6, "batch_size": batch_size}
        expected = user_script(
            inputs, targets, arguments, shuffle=shuffle, seed=seed, dtype=getattr(torch, dtype), **options
        )
        result = train(
            Task(Dataset(inputs, targets)),
            Hyperparams(**arguments),
            order="shuffled" if shuffle else "sequential",
            seeds=seed,
            dtype=dtype,
            kernel=kernel,
            record=Recording(spacing="all"),
            **options,
        )
        assert_same_bits(result.curves.path[0], expected)


SCRIPT_EPOCHS = 3 if INTERPRETED and not NIGHTLY else 8
SCHEDULED_SCRIPTS = {  # torch's scheduler, when it is stepped, ours
    "step": (
        lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.3),
        Schedule(Scheduler("step", step_size=2, gamma=0.3)),
    ),
    "restarts": (
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3, T_mult=2),
        Schedule(Scheduler("cosine_restarts", T_0=3, T_mult=2), interval="step"),
    ),
    "warm-up, then cosine": (
        lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [
                lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5),
                lr_scheduler.CosineAnnealingLR(optimizer, 7 * SCRIPT_EPOCHS - 5, eta_min=1e-3),
            ],
            [5],
        ),
        Schedule(
            Scheduler("linear", start_factor=0.1, total_iters=5), Scheduler("cosine", eta_min=1e-3), interval="step"
        ),
    ),
    "onecycle": (
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=7 * SCRIPT_EPOCHS + 1
        ),
        Schedule(Scheduler("onecycle", total_steps=7 * SCRIPT_EPOCHS + 1), interval="step"),
    ),
}


@pytest.mark.parametrize("kernel", EXACT)
@pytest.mark.parametrize("kind", SCHEDULED_SCRIPTS)
@pytest.mark.parametrize("bias", [{}, {"lr": 0.02, "weight_decay": 0.0}], ids=["one group", "two groups"])
def test_equals_a_torch_script_with_a_schedule_bit_for_bit(kernel: str, kind: str, bias: dict[str, float]):
    scheduler, schedule = SCHEDULED_SCRIPTS[kind]
    rng = np.random.default_rng(6)
    inputs, targets = rng.standard_normal((7, 1)), rng.standard_normal(7)
    arguments = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    expected = user_script(
        inputs,
        targets,
        arguments,
        epochs=SCRIPT_EPOCHS,
        batch_size=1,
        shuffle=True,
        seed=3,
        dtype=torch.float32,
        bias=bias,
        scheduler=scheduler,
        by_step=schedule.interval == "step",
    )
    result = train(
        Task(Dataset(inputs, targets)),
        Hyperparams(**arguments, schedule=schedule, groups={"bias": bias} if bias else None),
        epochs=SCRIPT_EPOCHS,
        order="shuffled",
        seeds=3,
        kernel=kernel,
        record=Recording(spacing="all"),
        groups={"bias": ["bias"]},
    )
    assert_same_bits(result.curves.path[0], expected)


@pytest.mark.parametrize("kernel", EXACT)
@pytest.mark.parametrize(
    "limits",
    [{"clip_grad_norm": 2.0}, {"clip_grad_value": 1.0}, {"clip_grad_norm": 2.0, "clip_grad_value": 1.0}],
    ids=" ".join,
)
def test_equals_a_torch_script_that_clips_to_rounding(kernel: str, limits: dict[str, float]):
    rng = np.random.default_rng(7)
    inputs, targets = rng.standard_normal((7, 3)), 3 * rng.standard_normal(7)
    clipped_steps = 0

    def clip(parameters):
        nonlocal clipped_steps
        parameters = list(parameters)
        before = [parameter.grad.clone() for parameter in parameters]
        if "clip_grad_norm" in limits:
            torch.nn.utils.clip_grad_norm_(parameters, limits["clip_grad_norm"])
        if "clip_grad_value" in limits:
            torch.nn.utils.clip_grad_value_(parameters, limits["clip_grad_value"])
        clipped_steps += any((parameter.grad != old).any() for parameter, old in zip(parameters, before, strict=True))

    options = {"epochs": SCRIPT_EPOCHS, "batch_size": 1}
    arguments = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01}
    expected = user_script(inputs, targets, arguments, shuffle=False, seed=1, dtype=torch.float32, clip=clip, **options)
    result = train(
        Task(Dataset(inputs, targets)),
        Hyperparams(**arguments, **limits),
        seeds=1,
        kernel=kernel,
        record=Recording(spacing="all"),
        **options,
    )
    assert 0 < clipped_steps < len(expected) - 1
    assert result.state.clipped_steps.tolist() == [clipped_steps]
    np.testing.assert_allclose(result.curves.path[0], expected, rtol=1e-4, atol=1e-6)


def distance(path: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(path - exact).max())


# Features and batch sizes: triangles, and rectangles of fewer samples than parameters; each takes seconds to compile.
LARGER = [(1, 3), (1, 37), (8, 7), (8, 37)]
if NIGHTLY:
    LARGER += [(1, 4), (1, 16), (8, 3), (8, 8)]


@pytest.mark.parametrize("kernel", COMPILED)
@pytest.mark.parametrize(("features", "batch_size"), LARGER)
def test_larger_batches_are_as_near_to_float64_as_torch(kernel: str, features: int, batch_size: int):
    rng = np.random.default_rng(features * 100 + batch_size)
    data = np.float32(rng.standard_normal((37, features + 1))).astype(np.float64)
    case = TrainInput(
        "larger batches",
        Task(Dataset(data[:, :-1], data[:, -1])),
        {
            "lr": np.float32([0.02, 0.01, 0.01, 0.01, 0.005, 50, 500]),
            "momentum": np.float32([0, 0.9, 0.9, 0.5, 0.9, 0, 0.9]),
            "weight_decay": np.float32([0, 0, 0.5, 0.5, 0, 0, 0.5]),
            "dampening": np.float32([0, 0, 0, 0.5, 0, 0, 0]),
            "nesterov": [False, False, False, False, True, False, True],
        },
        {
            "epochs": max(2, batch_size // 4) if INTERPRETED and not NIGHTLY else 10,
            "batch_size": batch_size,
            "order": "shuffled",
            "start": np.float32(rng.standard_normal(features + 1)),
        },
    )
    ours, torchs = case.train(kernel=kernel), case.train(kernel="reference")
    exact = case.train(kernel="reference", dtype="float64").curves.path
    np.testing.assert_array_equal(ours.first_nonfinite_step, torchs.first_nonfinite_step)
    np.testing.assert_array_equal(np.isfinite(ours.curves.path), np.isfinite(torchs.curves.path))
    for trial in np.flatnonzero(torchs.first_nonfinite_step < 0):
        slack = 4 * np.finfo(np.float32).eps * np.abs(exact[trial]).max()
        allowed = 2 * distance(torchs.curves.path[trial], exact[trial]) + slack
        assert distance(ours.curves.path[trial], exact[trial]) <= allowed, case.hyperparams["lr"][trial]


CONDITIONS = {  # what is hard about the data
    "plain": lambda x, y: (x, y),
    "ill-conditioned": lambda x, y: (x * np.geomspace(1, 1e-3, x.shape[1]), y),
    "offset in the targets": lambda x, y: (x, y + 1e4),
    "offset in the features": lambda x, y: (0.1 * x + 10, y),
    "fewer samples than parameters": lambda x, y: (x[:6], y[:6]),
}


# (features, batch size, order): every form of a batch, in both orders; the order of a full batch makes no difference.
FORMS = [
    (8, 7, "sequential"),
    (8, 40, "sequential"),
    (1, 40, "shuffled"),
    (20, 40, "sequential"),
    (12, 7, "shuffled"),
]
if NIGHTLY:
    FORMS = [(*form[:2], order) for form in FORMS for order in ("sequential", "shuffled")]


@pytest.mark.parametrize("kernel", ["numba"])  # the interpreter takes minutes for so many steps
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(("features", "batch_size", "order"), FORMS)
def test_many_epochs_of_larger_batches_are_as_near_to_float64_as_torch(kernel, condition, order, features, batch_size):
    """Until long after convergence, and until far away: every kind of trial, of which two overflow."""
    rng = np.random.default_rng(features)
    x, y = CONDITIONS[condition](rng.standard_normal((40, features)), rng.standard_normal(40))
    task = Task(Dataset(np.float32(x).astype(np.float64), np.float32(y).astype(np.float64)))
    epochs = 150 if NIGHTLY else 150 // -(-len(y) // batch_size)
    curvature = 2 * np.linalg.norm(np.column_stack([x, np.ones(len(x))]), 2) ** 2 / len(x)
    case = TrainInput(
        condition,
        task,
        {
            "lr": np.float32(np.array([1, 0.3, 0.3, 0.3, 0.3, 10, 100]) / curvature),
            "momentum": np.float32([0, 0.9, 0.5, 0.5, 0.9, 0, 0.9]),
            "weight_decay": np.float32([0, 0, 0.5, 0.5, 0, 0, 0.5]),
            "dampening": np.float32([0, 0, 0, 0.5, 0, 0, 0]),
            "nesterov": [False, False, False, False, True, False, True],
        },
        {"epochs": epochs, "batch_size": batch_size, "order": order, "start": np.zeros(features + 1)},
    )
    ours, torchs = case.train(kernel=kernel), case.train(kernel="reference")
    exact = case.train(kernel="reference", dtype="float64")
    assert (torchs.first_nonfinite_step[-2:] >= 0).all()
    np.testing.assert_array_equal(ours.first_nonfinite_step, torchs.first_nonfinite_step)
    for trial in np.flatnonzero(torchs.first_nonfinite_step < 0):
        if torchs.curves.path is None:
            paths = [run.params[trial] for run in (ours, torchs, exact)]
        else:
            paths = [run.curves.path[trial] for run in (ours, torchs, exact)]
        if np.abs(paths[2]).max() > 100 * np.abs(y).max():
            continue  # its rounding errors have grown with it, and which of two is the larger is chance: see below
        slack = 4 * np.finfo(np.float32).eps * np.abs(paths[2]).max()
        assert distance(paths[0], paths[2]) <= 2 * distance(paths[1], paths[2]) + slack, case.hyperparams["lr"][trial]


@pytest.mark.parametrize("kernel", ["numba"])  # the interpreter takes minutes for so many steps
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_trials_that_grow_are_on_average_as_near_to_float64_as_torch(kernel: str, offset: float):
    """Trials that amplify the rounding of their first steps: over many of them neither kernel is the better one."""
    ratios = []
    for seed in range(8 if NIGHTLY else 4):
        rng = np.random.default_rng(seed)
        x, y = np.float32(rng.standard_normal((40, 12))), np.float32(rng.standard_normal(40) + offset)
        curvature = 2 * np.linalg.norm(np.column_stack([x, np.ones(len(x))]), 2) ** 2 / len(x)
        case = TrainInput(
            "growing",
            Task(Dataset(x, y)),
            {"lr": np.float32(np.array([0.3, 0.4, 0.5]) / curvature), "momentum": 0.9},
            {"epochs": 20, "batch_size": 7, "start": np.zeros(13)},
        )
        ours, torchs = case.train(kernel=kernel), case.train(kernel="reference")
        exact = case.train(kernel="reference", dtype="float64")
        for mine, theirs, right in zip(ours.curves.path, torchs.curves.path, exact.curves.path, strict=True):
            ratios.append(distance(mine, right) / distance(theirs, right))
    assert np.exp(np.mean(np.log(ratios))) <= 1.25


WIDER = [(20, 1), (20, 2), (20, 7), (20, 25)]
if NIGHTLY:
    WIDER += [(20, 9), (40, 25)]


@pytest.mark.parametrize("kernel", OF_ANY_WIDTH)
@pytest.mark.parametrize(("features", "batch_size"), WIDER)
def test_more_than_16_parameters_are_as_near_to_float64_as_torch(kernel: str, features: int, batch_size: int):
    rng = np.random.default_rng(features + batch_size)
    data = np.float32(rng.standard_normal((25, features + 1))).astype(np.float64)
    case = TrainInput(
        "many features",
        Task(Dataset(data[:, :-1], data[:, -1])),
        {
            "lr": np.float32([0.01, 0.004, 0.004, 1e5]),
            "momentum": np.float32([0, 0.9, 0.9, 0]),
            "weight_decay": [0, 0, 0.5, 0],
        },
        {"batch_size": batch_size, "epochs": max(5, batch_size)},
    )
    ours, torchs = case.train(kernel=kernel), case.train(kernel="reference")
    exact = case.train(kernel="reference", dtype="float64", start=torchs.state.start)
    assert ours.curves.path is None
    np.testing.assert_array_equal(ours.first_nonfinite_step, torchs.first_nonfinite_step)
    np.testing.assert_array_equal(np.isfinite(ours.params), np.isfinite(torchs.params))
    assert (torchs.first_nonfinite_step >= 0).tolist() == [False, False, False, True]
    for trial in range(3):
        slack = 4 * np.finfo(np.float32).eps * np.abs(exact.params[trial]).max()
        allowed = 2 * distance(torchs.params[trial], exact.params[trial]) + slack
        assert distance(ours.params[trial], exact.params[trial]) <= allowed
    np.testing.assert_allclose(ours.loss[:3], torchs.loss[:3], rtol=1e-3)


@pytest.mark.parametrize("kernel", OF_ANY_WIDTH)
def test_many_features_in_float64_agree_to_rounding(kernel: str):
    rng = np.random.default_rng(0)
    task = Task(Dataset(rng.standard_normal((25, 20)), rng.standard_normal(25)), LinearModel(bias=False))
    case = TrainInput("float64", task, {"lr": 0.004, "momentum": [0, 0.9]}, {"dtype": "float64", "batch_size": 4})
    ours, torchs = case.train(kernel=kernel), case.train(kernel="reference")
    np.testing.assert_allclose(ours.params, torchs.params, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.state.momentum_buffers, torchs.state.momentum_buffers, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(ours.loss, torchs.loss, rtol=1e-9)
