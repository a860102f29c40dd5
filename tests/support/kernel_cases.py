"""Cases shared by every kernel's tests: named runs, a table of bad inputs, random runs, and definitions of equality."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sgdcore import (
    Dataset,
    Hyperparams,
    InvalidHyperparams,
    InvalidTask,
    InvalidTraining,
    KernelUnavailable,
    LinearModel,
    MlpModel,
    ModuleModel,
    PolynomialModel,
    Recording,
    Schedule,
    Scheduler,
    Task,
    train,
)
from sgdcore.tasks import Model, line, linear, sine
from tests.support.hypothesis_profiles import NIGHTLY

# test_linear_triton.py repeats the tests of all kernels in a process with Triton's slow CPU interpreter.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
EXACT = ("triton" if INTERPRETED else "numba", "reference")  # kernels whose results are the same bits on any CPU
STEPS = 200 if NIGHTLY else 100  # at least, of the networks
EPOCHS = 8 if INTERPRETED and not NIGHTLY else 20  # of the named cases
RECORDED = 12 if INTERPRETED and not NIGHTLY else 30  # epochs of the named cases that record some steps only
LINE = Task(line())
# (features, bias, dtype) of the random runs: few, because each takes seconds to compile, and fewer by default.
SHAPES: tuple[tuple[int, bool, str], ...] = ((1, True, "float32"), (2, False, "float64"), (5, False, "float32"))
if NIGHTLY:
    SHAPES += ((1, True, "float64"), (1, False, "float32"), (3, True, "float32"), (8, True, "float32"))
STATE = ("params", "momentum_buffers", "first_nonfinite_step", "start", "target", "peak", "peak_step", "clipped_steps")
CURVES = ("loss", "squared_norm", "validation_loss", "path")


@dataclass(frozen=True, eq=False)
class TrainInput:
    """A run that every kernel must do exactly as torch."""

    desc: str
    task: Task
    hyperparams: dict[str, Any]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def train(self, **kwargs: Any):
        options = {"epochs": EPOCHS, "record": Recording(spacing="all")} | self.kwargs | kwargs
        return train(self.task, Hyperparams(**self.hyperparams), **options)


@dataclass(frozen=True)
class ErrorInput:
    """A call that must raise ``error_type`` with a message that matches ``error_regex``."""

    desc: str
    call: Callable[[], Any]
    error_type: type[Exception]
    error_regex: str


TRAIN_INPUTS = [
    TrainInput("plain", LINE, {"lr": 0.01}),
    TrainInput("zero lr", LINE, {"lr": 0.0, "momentum": 0.9}),
    TrainInput("weight_decay", LINE, {"lr": 0.01, "weight_decay": 0.5}),
    TrainInput("momentum", LINE, {"lr": 0.01, "momentum": 0.9}),
    TrainInput("momentum above one", LINE, {"lr": 0.001, "momentum": 1.1}),
    TrainInput("dampening", LINE, {"lr": 0.01, "momentum": 0.9, "dampening": 0.5}),
    TrainInput("dampening without momentum", LINE, {"lr": 0.01, "dampening": 0.5}),
    TrainInput("negative dampening", LINE, {"lr": 0.001, "momentum": 0.5, "dampening": -0.5}),
    TrainInput("nesterov", LINE, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    TrainInput("nesterov, weight_decay", LINE, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    TrainInput(
        "mixed", LINE, {"lr": [0.01, 0.1, 5.0, 0.0], "momentum": [0, 0.9, 0, 0.5], "weight_decay": [0, 1, 0, 1]}
    ),
    TrainInput("float64", LINE, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}, {"dtype": "float64"}),
    TrainInput("overflows float32", LINE, {"lr": [10.0, 0.01, 2.0], "momentum": [0, 0.9, 0.9]}),
    TrainInput("overflows float64", LINE, {"lr": [1e4, 0.01], "momentum": 0.9}, {"epochs": 40, "dtype": "float64"}),
    TrainInput("overflows at once", LINE, {"lr": 3e38}),
    TrainInput(
        "gradient overflows at zero",
        Task(Dataset([1e20], [1e20]), LinearModel(bias=False)),
        {"lr": [0.1, 0.2]},
        {"start": [1.0]},
    ),
    TrainInput("no epochs", LINE, {"lr": 0.01}, {"epochs": 0}),
    TrainInput("no epochs, shuffled", LINE, {"lr": 0.01}, {"epochs": 0, "order": "shuffled"}),
    TrainInput("batches of two, the last of one", LINE, {"lr": 0.01, "momentum": 0.9}, {"batch_size": 2}),
    TrainInput("shuffled", LINE, {"lr": 0.01, "momentum": 0.9}, {"order": "shuffled", "seeds": 3}),
    TrainInput("shuffled, seeds", LINE, {"lr": [0.01] * 3, "momentum": 0.9}, {"order": "shuffled", "seeds": [7, 0, 7]}),
    TrainInput("initialised by seed", LINE, {"lr": [0.01] * 3}, {"seeds": [0, 1, 2]}),
    TrainInput("starts of their own", LINE, {"lr": 0.01 * np.ones(2)}, {"start": [[1.0, -1.0], [1e30, 0.0]]}),
    TrainInput("without bias", Task(line(), LinearModel(bias=False)), {"lr": 0.01, "momentum": 0.9}),
    TrainInput("polynomial", Task(sine(9), PolynomialModel(3)), {"lr": 1e-4, "momentum": 0.9}),
    TrainInput("validation", Task(linear(9, 3).split(0.3)), {"lr": 0.01, "weight_decay": [0, 0.1]}),
    TrainInput(
        "a schedule by epoch",
        LINE,
        {"lr": [0.05, 0.01], "momentum": [0, 0.9], "schedule": Schedule(Scheduler("step", step_size=3, gamma=0.5))},
    ),
    TrainInput(
        "schedules by step in sequence, and none",
        LINE,
        {
            "lr": [0.05, 0.05, 0.03],
            "momentum": [0, 0.9, 0.9],
            "schedule": [
                Schedule(Scheduler("linear", total_iters=7), Scheduler("cosine"), interval="step"),
                Schedule(Scheduler("exponential", gamma=0.9)),
                None,
            ],
        },
        {"order": "shuffled", "seeds": [0, 1, 0], "batch_size": 2},
    ),
    TrainInput(
        "onecycle, momentum included",
        LINE,
        {"lr": [0.02, 0.05], "weight_decay": [0, 0.1], "schedule": Schedule(Scheduler("onecycle"), interval="step")},
    ),
    TrainInput(
        "a schedule that diverges",
        LINE,
        {"lr": [0.01, 0.02], "schedule": Schedule(Scheduler("exponential", gamma=1.8))},
    ),
    TrainInput(
        "groups",
        LINE,
        {
            "lr": [0.02, 0.05, 0.02, 0.01],
            "momentum": [0, 0.9, 0.5, 0.9],
            "weight_decay": [0, 0.1, 0.5, 0.1],
            "nesterov": [False, True, False, True],
            "groups": {
                "bias": {"weight_decay": [0.1, 0, 0, 0], "lr": 0.01, "momentum": [0.9, 0.9, 0, 0.8], "dampening": 0}
            },
        },
        {"groups": {"bias": ["b*"]}},
    ),
    TrainInput(
        "a group with a schedule",
        Task(linear(9, 3)),
        {
            "lr": [0.02, 0.05],
            "momentum": 0.5,
            "schedule": Schedule(Scheduler("cosine", T_max=5)),
            "groups": {"slopes": {"lr": [0.01, 0.1], "weight_decay": 0.1}},
        },
        {"groups": {"slopes": ["weight"]}},
    ),
    TrainInput("sparse record", LINE, {"lr": [0.01, 9.0]}, {"record": Recording(5), "epochs": RECORDED}),
    TrainInput("linear record", LINE, {"lr": [0.01, 9.0]}, {"record": Recording(5, "linear"), "epochs": RECORDED}),
]


# Clipping scales by a norm, whose sum torch rounds in an order of its own: equal to rounding.
CLIPPED_INPUTS = [
    TrainInput(
        "clipped by norm", LINE, {"lr": [0.05, 0.1, 0.01], "momentum": [0, 0.9, 0], "clip_grad_norm": [1, 0.5, np.inf]}
    ),
    TrainInput(
        "clipped by value",
        LINE,
        {"lr": [0.05, 0.1, 0.01], "momentum": [0, 0.9, 0], "clip_grad_value": [1, 0.5, np.inf]},
    ),
    TrainInput(
        "clipped by both, in groups and on a schedule",
        Task(linear(9, 3)),
        {
            "lr": [0.05, 0.1, 0.1],
            "clip_grad_norm": [1, 0.5, 3],
            "clip_grad_value": [0.1, np.inf, 1],
            "groups": {"bias": {"weight_decay": [0.1, 0, 1]}},
            "schedule": Schedule(Scheduler("polynomial", total_iters=10)),
        },
        {"groups": {"bias": ["bias"]}, "batch_size": 4},
    ),
    TrainInput("clipped, diverging", LINE, {"lr": [3.0, 1e30], "clip_grad_norm": [1e20, 5.0]}),
]
_RNG = np.random.default_rng(0)
_INPUTS = _RNG.standard_normal((22, 3))
WAVES = Dataset(_INPUTS, np.sin(_INPUTS[:, 0]) + _INPUTS[:, 1] ** 2)
TWO = np.stack([WAVES.targets, np.cos(_INPUTS[:, 2])], axis=1)
TWO_TARGETS = Dataset(_INPUTS, TWO)
WEIGHTED = Dataset(_INPUTS, WAVES.targets, weights=_RNG.uniform(0, 2, 22).round(1))
TWO_WEIGHTED = Dataset(_INPUTS, TWO, weights=WEIGHTED.weights)
COUNTS = Dataset(_INPUTS, np.rint(TWO**2), weights=WEIGHTED.weights)  # two columns
ALL_KINDS = {
    "lr": [0.02, 0.02, 0.05, 0.02, 0.01],
    "momentum": [0, 0.9, 0.5, 0.9, 0.9],
    "weight_decay": [0, 0, 0.1, 0.01, 0],
    "dampening": [0, 0, 0.5, 0, 0],
    "nesterov": [False, False, False, True, True],
}


def network(
    desc: str,
    model: Model,
    loss: str = "mse",
    dataset: Dataset = WAVES,
    hyperparams: dict[str, Any] | None = None,
    **kwargs: Any,
) -> TrainInput:
    """Return about STEPS steps of five trials, shuffled in three ways."""
    options = {"batch_size": 5, "order": "shuffled", "seeds": [0, 1, 2, 0, 1], "record": Recording(20), "threads": 1}
    options |= kwargs
    options.setdefault("epochs", -(-STEPS // -(-len(dataset) // options["batch_size"])))
    return TrainInput(desc, Task(dataset, model, loss, 0.7, 0.8), ALL_KINDS | (hyperparams or {}), options)


def module(name: str, **arguments: Any) -> ModuleModel:
    """Return a module of tests.support.network_modules for the three features of WAVES."""
    return ModuleModel(f"tests.support.network_modules:{name}", {"inputs": 3} | arguments)


WARM_UP = Schedule(Scheduler("linear", total_iters=3), Scheduler("cosine", eta_min=1e-3))
ONECYCLE = Schedule(Scheduler("onecycle"), interval="step")
NO_DECAY = {"bias": {"weight_decay": 0.0, "lr": [0.01, 0.02, 0.05, 0.1, 0.01]}}
EVERYTHING = ALL_KINDS | {  # schedules of a length of their own, so that runs can be continued
    "schedule": [
        Schedule(Scheduler("linear", total_iters=3), Scheduler("cosine", T_max=5)),
        Schedule(Scheduler("onecycle", total_steps=64), interval="step"),
        None,
        Schedule(Scheduler("exponential", gamma=0.8)),
        None,
    ],
    "groups": {"bias": {"weight_decay": 0.0, "lr": [0.01, 0.02, 0.05, 0.1, 0.01], "dampening": 0.0}},
    "clip_grad_norm": [0.1, np.inf, 1, 0.3, np.inf],
    "clip_grad_value": [0.2, 0.1, np.inf, np.inf, np.inf],
}
NETWORK_INPUTS = [  # deliberately few dtypes and activations for each batch size: each pair takes seconds to compile
    network("relu, the last batch short", MlpModel((5,))),
    network("three layers", MlpModel((9, 6, 4)), "huber"),
    network("a unit", MlpModel((1,)), "mae", batch_size=2),
    network("all in one batch", MlpModel((8,)), batch_size=22),
    network("batches beyond the set", MlpModel((8, 8)), batch_size=100),
    network("samples one by one", MlpModel((17,)), "huber", batch_size=1, seeds=3),
    network("batches in order", MlpModel((4, 4)), "huber", order="sequential", batch_size=8),
    network("a held-out set", MlpModel((6,)), "mae", WAVES.split(0.3)),
    network("few parameters", MlpModel((3,)), record=Recording(spacing="all")),
    network("scheduled", MlpModel((5,)), hyperparams={"schedule": WARM_UP}),
    network("onecycle", MlpModel((5,)), hyperparams={"schedule": ONECYCLE}, order="sequential"),
    network("no decay of biases", MlpModel((5,)), hyperparams={"groups": NO_DECAY}, groups={"bias": ["*.bias"]}),
    network(
        "clipped",
        MlpModel((5,)),
        hyperparams={"clip_grad_norm": [0.1, np.inf, 1, 0.3, 5], "clip_grad_value": [1, 0.1, np.inf, np.inf, 1]},
    ),
    network("float64, held-out", MlpModel((5,), "silu"), "mse", WAVES.split(0.3), dtype="float64", batch_size=6),
    network("log cosh", MlpModel((5,)), "log_cosh"),
    network("a quantile", MlpModel((5,)), "quantile", WAVES.split(0.3)),
    network("counts, two weighted targets", MlpModel((5,)), "poisson_nll", COUNTS.split(0.3)),
    network("weighted", MlpModel((5,)), dataset=WEIGHTED),
    network("two targets", MlpModel((5, 4)), dataset=TWO_TARGETS.split(0.3)),
    network("two weighted targets, samples one by one", MlpModel((17,)), "huber", TWO_WEIGHTED, batch_size=1, seeds=3),
    network("log cosh of two targets, float64", MlpModel((5,), "silu"), "log_cosh", TWO_TARGETS, dtype="float64"),
    network("weighted quantile, float64", MlpModel((5,), "silu"), "quantile", WEIGHTED, dtype="float64"),
    network("tanh", MlpModel((9, 6), "tanh")),
    network("sigmoid", MlpModel((9, 6), "sigmoid"), "huber"),
    network("float64", MlpModel((9, 6), "silu"), "huber", dtype="float64"),
    network("module", module("Written")),
    network("module without biases, held-out", module("Written", bias=False), "mae", WAVES.split(0.3)),
    network("module with two activations", module("Written", activations=("tanh", "relu"), bias=False), "huber"),
    network("module, nested, float64", module("nested"), "mse", WAVES.split(0.3), dtype="float64", batch_size=6),
    network(
        "module, scheduled, in groups, clipped",
        module("Written", bias=False),
        hyperparams={"schedule": WARM_UP, "groups": NO_DECAY, "clip_grad_norm": [0.1, np.inf, 1, 0.3, 5]},
        groups={"bias": ["*.bias"]},
    ),
]
EVERY_OPTION = {"schedule": WARM_UP, "groups": NO_DECAY, "clip_grad_norm": [0.1, np.inf, 1, 0.3, 5]}
SLOW = {"lr": [0.002, 0.001, 0.005, 0.001, 0.001]}  # at larger steps, normalisations amplify rounding
MODULE_INPUTS = [  # modules that only the torch kernel trains
    network("a normalisation", module("normalised"), hyperparams=SLOW),
    network(
        "a normalisation, batches in order, float64", module("normalised"), "huber", order="sequential", dtype="float64"
    ),
    network("a skip connection", module("Skipping")),
    network("a skip connection, one batch", module("Skipping"), "mae", batch_size=100),
    network("every operation", module("Varied"), "huber", WAVES.split(0.3), SLOW),
    network("every operation, float64", module("Varied"), dtype="float64", batch_size=6),
    *(
        network(
            f"{name}, scheduled, in groups, clipped",
            module(name),
            hyperparams=EVERY_OPTION,
            groups={"bias": ["*.bias"]},
        )
        for name in ("normalised", "Skipping")
    ),
    network(
        "every operation, scheduled, in groups, clipped, float64",
        module("Varied"),
        hyperparams=EVERY_OPTION,
        groups={"bias": ["*.bias"]},
        dtype="float64",
    ),
    network("onecycle", module("Skipping"), hyperparams={"schedule": ONECYCLE}, order="sequential"),
]
if NIGHTLY:
    NETWORK_INPUTS += [
        network("relu, float64", MlpModel((9, 6)), dtype="float64"),
        network("silu", MlpModel((9, 6), "silu"), batch_size=4),
        network("tanh, float64", MlpModel((9, 6), "tanh"), dtype="float64"),
    ]
LOSS_INPUTS = [  # runs that only the torch kernel does
    *(
        network(f"{desc}: {loss}", LinearModel(), loss, dataset)
        for desc, dataset in (("a target", WAVES), ("two weighted targets, held-out", TWO_WEIGHTED.split(0.3)))
        for loss in ("mae", "huber", "log_cosh", "quantile", "gaussian_nll")
    ),
    network("a weighted line, clipped", LinearModel(), dataset=WEIGHTED, hyperparams={"clip_grad_norm": 1.0}),
    network("two targets", LinearModel(), dataset=TWO_TARGETS),
    network("two targets without biases", LinearModel(bias=False), dataset=TWO_TARGETS.split(0.3)),
    network("two weighted targets", LinearModel(), dataset=TWO_WEIGHTED.split(0.3), dtype="float64"),
    network("counts", LinearModel(), "poisson_nll", COUNTS),
    network("means and variances", MlpModel((5,)), "gaussian_nll", WAVES),
    network("of two weighted targets", MlpModel((5,)), "gaussian_nll", TWO_WEIGHTED.split(0.3), dtype="float64"),
]


def _train(**kwargs: Any) -> Callable[[], Any]:
    options = {"task": LINE, "hyperparams": Hyperparams(lr=[0.1, 0.2]), "epochs": 1} | kwargs
    return lambda: train(**options)


def _continue(**kwargs: Any) -> Any:
    return _train(start=_train()(), **kwargs)()


def _continue_between_epochs() -> Any:
    five_steps = _train(batch_size=1)()
    return _train(batch_size=2, start=five_steps)()


ERROR_INPUTS = [
    ErrorInput("negative lr", lambda: Hyperparams(lr=-0.5), InvalidHyperparams, r"^Invalid learning rate: -0\.5$"),
    ErrorInput(
        "negative lr of a trial", lambda: Hyperparams(lr=[1, -1]), InvalidHyperparams, r"rate: -1\.0 \(trial 1\)$"
    ),
    ErrorInput("nan lr", lambda: Hyperparams(lr=np.nan), InvalidHyperparams, "Invalid learning rate: nan"),
    ErrorInput("infinite lr", lambda: Hyperparams(lr=np.inf), InvalidHyperparams, "Invalid learning rate: inf"),
    ErrorInput(
        "negative momentum", lambda: Hyperparams(1, momentum=-1), InvalidHyperparams, r"Invalid momentum value: -1\.0"
    ),
    ErrorInput(
        "negative weight_decay",
        lambda: Hyperparams(1, weight_decay=-1),
        InvalidHyperparams,
        r"Invalid weight_decay value: -1\.0",
    ),
    ErrorInput(
        "infinite dampening",
        lambda: Hyperparams(1, dampening=np.inf),
        InvalidHyperparams,
        "Invalid dampening value: inf",
    ),
    ErrorInput(
        "nesterov without momentum",
        lambda: Hyperparams(1, nesterov=True),
        InvalidHyperparams,
        "Nesterov momentum requires a momentum and zero dampening",
    ),
    ErrorInput(
        "nesterov with dampening",
        lambda: Hyperparams(1, momentum=0.9, dampening=0.5, nesterov=[False, True]),
        InvalidHyperparams,
        r"Nesterov momentum requires a momentum and zero dampening \(trial 1\)",
    ),
    ErrorInput(
        "different lengths",
        lambda: Hyperparams(lr=[1, 2], momentum=[1, 2, 3]),
        InvalidHyperparams,
        r"hyperparams must have the same length: lr \(2,\), momentum \(3,\)",
    ),
    ErrorInput(
        "a matrix", lambda: Hyperparams(lr=[[1, 2]]), InvalidHyperparams, r"lr must be a number or one-dimensional"
    ),
    ErrorInput(
        "loss",
        lambda: Task(line(), loss="cosine"),
        InvalidTask,
        "loss must be mse, mae, huber, log_cosh, quantile, poisson_nll or gaussian_nll, not 'cosine'",
    ),
    ErrorInput(
        "quantile", lambda: Task(line(), loss="quantile", quantile=1), InvalidTask, "must be > 0 and < 1, not 1"
    ),
    ErrorInput(
        "negative counts",
        lambda: Task(Dataset([1, 2], [3, -2]), loss="poisson_nll"),
        InvalidTask,
        "loss poisson_nll needs targets >= 0, such as counts; the least is -2",
    ),
    ErrorInput(
        "negative counts held out",
        lambda: Task(Dataset([1], [3], validation=Dataset([1], [-1])), loss="poisson_nll"),
        InvalidTask,
        "the least is -1",
    ),
    ErrorInput(
        "negative weight",
        lambda: Dataset([1, 2], [1, 2], weights=[1, -1]),
        InvalidTask,
        "must be >= 0; the least is -1",
    ),
    ErrorInput(
        "no weight", lambda: Dataset([1, 2], [1, 2], weights=[0, 0]), InvalidTask, "at least one weight must be > 0"
    ),
    ErrorInput("nan weight", lambda: Dataset([1], [1], weights=[np.nan]), InvalidTask, "weights must be finite"),
    ErrorInput(
        "a weight too few",
        lambda: Dataset([1, 2], [1, 2], weights=[1]),
        InvalidTask,
        r"weights must have the shape \(2,\), one per sample, not \(1,\)",
    ),
    ErrorInput(
        "weights of one part",
        lambda: Dataset([1], [1], validation=Dataset([1], [1], weights=[1])),
        InvalidTask,
        "the training set and the validation set must both have weights, or neither",
    ),
    ErrorInput(
        "targets of one part",
        lambda: Dataset([1], [[1, 2]], validation=Dataset([1], [1])),
        InvalidTask,
        "the validation set has 1 targets, not 2",
    ),
    ErrorInput(
        "target names",
        lambda: Dataset([1], [[1, 2]], target_names=("a",)),
        InvalidTask,
        "target_names must have 2 names, one per target, not 1",
    ),
    ErrorInput(
        "polynomial in two features",
        lambda: Task(linear(5, 2), PolynomialModel()),
        InvalidTask,
        "a polynomial model takes one feature, but the data set has 2",
    ),
    ErrorInput(
        "degree", lambda: PolynomialModel(0), InvalidTask, "a polynomial model needs a whole degree >= 1, not 0"
    ),
    ErrorInput(
        "unequal lengths",
        lambda: Dataset(np.ones((3, 2)), np.ones(2)),
        InvalidTask,
        r"inputs must be \(n, d\) and targets \(n,\) or \(n, k\), not \(3, 2\) and \(2,\)",
    ),
    ErrorInput(
        "no samples", lambda: Dataset(np.ones((0, 2)), []), InvalidTask, r"need at least one sample and one feature"
    ),
    ErrorInput(
        "no features",
        lambda: Dataset(np.ones((2, 0)), [1, 1]),
        InvalidTask,
        r"need at least one sample and one feature",
    ),
    ErrorInput("infinite inputs", lambda: Dataset([np.inf], [1]), InvalidTask, "inputs and targets must be finite"),
    ErrorInput("nan targets", lambda: Dataset([1], [np.nan]), InvalidTask, "inputs and targets must be finite"),
    ErrorInput(
        "names",
        lambda: Dataset([1], [1], ("a", "b")),
        InvalidTask,
        "feature_names must have 1 names, one per feature, not 2",
    ),
    ErrorInput("nothing held out", lambda: line().split(0.01), InvalidTask, "leaves one part of 5 samples empty"),
    ErrorInput("all held out", lambda: line().split(1.0), InvalidTask, "leaves one part of 5 samples empty"),
    ErrorInput("n < d", lambda: linear(n=2, d=3), InvalidTask, "linear data needs n >= d, not n = 2 and d = 3"),
    ErrorInput("condition", lambda: linear(condition=0.5), InvalidTask, "condition must be at least 1, not 0.5"),
    ErrorInput(
        "inputs beyond float32",
        _train(task=Task(Dataset([1e39], [1]))),
        InvalidTask,
        "features and targets must be finite in float32",
    ),
    ErrorInput(
        "validation beyond float32",
        _train(task=Task(Dataset([1], [1], validation=Dataset([1], [1e39])))),
        InvalidTask,
        "features and targets must be finite in float32",
    ),
    ErrorInput(
        "powers beyond float64",
        _train(task=Task(Dataset([1e200], [1]), PolynomialModel(2)), dtype="float64"),
        InvalidTask,
        "features and targets must be finite in float64",
    ),
    ErrorInput("epochs", _train(epochs=-1), InvalidTraining, "epochs must be a whole number >= 0, not -1"),
    ErrorInput("batch size", _train(batch_size=0), InvalidTraining, "batch_size must be a whole number >= 1, not 0"),
    ErrorInput("order", _train(order="random"), InvalidTraining, "order must be sequential or shuffled, not 'random'"),
    ErrorInput("dtype", _train(dtype="float16"), InvalidTraining, "dtype must be float32 or float64, not 'float16'"),
    ErrorInput(
        "negative seed", _train(seeds=-1), InvalidTraining, r"seeds must be whole numbers from 0 to 2\^63 - 1, not -1"
    ),
    ErrorInput(
        "seeds", _train(seeds=[1, 2, 3]), InvalidTraining, r"must be one number or have the shape \(2,\), not \(3,\)"
    ),
    ErrorInput(
        "lr beyond float32",
        _train(hyperparams=Hyperparams(lr=1e39)),
        InvalidTraining,
        r"lr must be finite in float32, not 1e\+39",
    ),
    ErrorInput(
        "start's shape",
        _train(start=[1, 2, 3]),
        InvalidTraining,
        r"start must have the shape \(2,\) or \(2, 2\), not \(3,\)",
    ),
    ErrorInput("nan start", _train(start=[np.nan, 0]), InvalidTraining, "start values must be finite in float32"),
    ErrorInput("large start", _train(start=[1e39, 0]), InvalidTraining, "start values must be finite in float32"),
    ErrorInput(
        "continuing in another dtype",
        lambda: _continue(dtype="float64"),
        InvalidTraining,
        r"cannot continue from float32 parameters of shape \(2, 2\): this run is float64 \(2, 2\)",
    ),
    ErrorInput(
        "continuing other trials",
        lambda: _continue(hyperparams=Hyperparams(lr=0.1)),
        InvalidTraining,
        r"cannot continue from float32 parameters of shape \(2, 2\): this run is float32 \(1, 2\)",
    ),
    ErrorInput(
        "continuing between epochs",
        _continue_between_epochs,
        InvalidTraining,
        "cannot continue with 3 steps per epoch: start has 5",
    ),
    ErrorInput(
        "continuing with another momentum",
        lambda: _continue(hyperparams=Hyperparams(lr=[0.1, 0.2], momentum=[0, 0.5])),
        InvalidTraining,
        r"cannot continue with momentum 0\.5: start has 0\.0 \(trial 1\)",
    ),
    ErrorInput(
        "continuing with another weight decay",
        lambda: _continue(hyperparams=Hyperparams(lr=[0.1, 0.2], weight_decay=1)),
        InvalidTraining,
        r"cannot continue with weight_decay 1\.0: start has 0\.0 \(trial 0\)",
    ),
    ErrorInput("half an epoch", _train(epochs=1.5), InvalidTraining, r"epochs must be a whole number >= 0, not 1\.5"),
    ErrorInput("no threads", _train(threads=0), InvalidTraining, "threads must be a whole number >= 1, not 0"),
    ErrorInput("half a seed", _train(seeds=0.5), InvalidTraining, r"seeds must be whole numbers from 0 .* not 0\.5"),
    ErrorInput("a large seed", _train(seeds=2**63), InvalidTraining, "seeds must be whole numbers from 0 to "),
    ErrorInput("words", lambda: Hyperparams(lr="fast"), InvalidHyperparams, "lr must be numbers, not <U4"),
    ErrorInput(
        "nesterov", lambda: Hyperparams(0.1, 0.9, nesterov="no"), InvalidHyperparams, "nesterov must be numbers"
    ),
    ErrorInput("half", lambda: Hyperparams(0.1, 0.9, nesterov=0.5), InvalidHyperparams, "must be true or false"),
    ErrorInput(
        "another width held out",
        lambda: Dataset(np.ones((3, 2)), np.ones(3), validation=Dataset([1], [1])),
        InvalidTask,
        "the validation set has 1 features, not 2",
    ),
    ErrorInput(
        "points", lambda: Recording(points=-1), InvalidTraining, "recording points must be a whole number >= 0, not -1"
    ),
    ErrorInput(
        "spacing",
        lambda: Recording(spacing="cubic"),
        InvalidTraining,
        "recording spacing must be log, linear or all, not 'cubic'",
    ),
    ErrorInput(
        "kernel",
        _train(kernel="cuda"),
        KernelUnavailable,
        "kernel must be auto, numba, triton, torch or reference, not 'cuda'",
    ),
    ErrorInput(
        "device",
        _train(device="gpu"),
        KernelUnavailable,
        "device must be auto, cpu, cuda or cuda:N, not 'gpu'",
    ),
    ErrorInput(
        "a GPU that is not there",
        _train(device="cuda:99"),
        KernelUnavailable,
        "device 'cuda:99' needs a CUDA GPU that torch can use; found",
    ),
    ErrorInput(
        "numba on a GPU that is not there",
        _train(kernel="numba", device="cuda:99"),
        KernelUnavailable,
        "device 'cuda:99' needs a CUDA GPU",
    ),
    ErrorInput(
        "another loss for numba",
        _train(task=Task(line(), loss="mae"), kernel="numba"),
        KernelUnavailable,
        "the numba kernel trains linear and polynomial models with mse, one target and no weights, and perceptrons",
    ),
    ErrorInput(
        "another loss for triton",
        _train(task=Task(line(), loss="huber"), kernel="triton"),
        KernelUnavailable,
        "models with mse, one target and no weights only: use kernel torch",
    ),
]


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Draw 0 or a normal float32 number in [low, high]."""
    return st.just(0.0) | st.floats(low, high, width=32, allow_subnormal=False).filter(
        lambda x: x == 0 or abs(x) > 1e-30
    )


@st.composite
def hyperparams(draw: st.DrawFn, trials: int) -> Hyperparams:
    """Draw from the whole space: any number in any column at any magnitude, lr on a log scale far into divergence."""
    rows = []
    for _ in range(trials):
        momentum = draw(st.sampled_from([0.0, 0.5, 0.9, 0.99]) | numbers(0, 1.5))
        nesterov = momentum > 0 and draw(st.booleans())
        rows.append(
            {
                "lr": draw(
                    st.just(0.0) | st.floats(-4, 0).map(lambda e: 10.0**e) | st.floats(0, 8).map(lambda e: 10.0**e)
                ),
                "momentum": momentum,
                "weight_decay": draw(numbers(0, 2)),
                "dampening": 0.0 if nesterov else draw(numbers(-1, 2)),
                "nesterov": nesterov,
            }
        )
    return Hyperparams(**{name: [row[name] for row in rows] for name in rows[0]})


SCHEDULES = [
    None,
    Schedule(Scheduler("exponential", gamma=0.7)),
    Schedule(Scheduler("linear", total_iters=3), Scheduler("cosine_restarts", T_0=4), interval="step"),
]


@st.composite
def runs(draw: st.DrawFn, batch_sizes: tuple[int, ...] = (1, 2), max_epochs: int = 30) -> TrainInput:
    """Draw a small run of up to three trials with random data, hyperparameters, start values, order and seeds."""
    features, bias, dtype = draw(st.sampled_from(SHAPES))
    samples, trials = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    values = numbers(-10, 10)
    data = draw(hnp.arrays(np.float64, (samples, features + 1), elements=values, fill=st.nothing()))
    start = draw(
        st.none() | hnp.arrays(np.float64, (trials, features + bias), elements=numbers(-100, 100), fill=st.nothing())
    )
    columns, groups = _arguments(draw(hyperparams(trials))), None
    if (features, bias, dtype) == SHAPES[0]:  # one shape only: each combination takes seconds to compile
        columns["schedule"] = draw(st.sampled_from(SCHEDULES))
        if draw(st.booleans()):
            groups = {"bias": ["bias"]}
            columns["groups"] = {"bias": {"lr": draw(numbers(0, 0.125)), "dampening": columns["dampening"]}}
    return TrainInput(
        "random",
        Task(Dataset(data[:, :-1], data[:, -1]), LinearModel(bias)),
        columns,
        {
            "groups": groups,
            "epochs": draw(st.integers(0, max_epochs)),
            "batch_size": draw(st.sampled_from(batch_sizes)),
            "order": draw(st.sampled_from(["sequential", "shuffled"])),
            "dtype": dtype,
            "seeds": draw(st.lists(st.integers(0, 3), min_size=trials, max_size=trials)),
            "start": start,
        },
    )


def _arguments(drawn: Hyperparams) -> dict[str, Any]:
    return {name: getattr(drawn, name) for name in ("lr", "momentum", "weight_decay", "dampening", "nesterov")}


def bits(array: Any) -> np.ndarray:
    """Return the bit patterns of an array; all NaNs count as one."""
    array = np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        return array
    return np.where(np.isnan(array), array.dtype.type(np.nan), array).view(f"u{array.itemsize}")


def assert_same_bits(actual: Any, expected: Any, name: str = "") -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, name
    np.testing.assert_array_equal(actual, expected, name)
    np.testing.assert_array_equal(bits(actual), bits(expected), f"{name}: signs of zeros")


def assert_same_state(actual: Any, expected: Any) -> None:
    """Check that the trials' states are equal bit for bit."""
    assert actual.state.step == expected.state.step
    for name in STATE:
        assert_same_bits(getattr(actual.state, name), getattr(expected.state, name), name)


def assert_same_curves(actual: Any, expected: Any) -> None:
    """Check that the recorded curves are equal bit for bit."""
    np.testing.assert_array_equal(actual.steps, expected.steps)
    for name in CURVES:
        mine, theirs = getattr(actual.curves, name), getattr(expected.curves, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert_same_bits(mine, theirs, name)


def assert_same(actual: Any, expected: Any) -> None:
    assert_same_state(actual, expected)
    assert_same_curves(actual, expected)


def assert_same_training(actual: Any, expected: Any) -> None:
    """Check that two kernels' results are equal number for number; zeros of either sign count as equal.

    torch's matrix product adds to a zero, so that its -0 becomes 0. Losses are float64 sums in different orders, of
    squares of residuals that cancel near the minimum.
    """
    assert actual.state.step == expected.state.step
    for name in STATE:
        mine, theirs = getattr(actual.state, name), getattr(expected.state, name)
        assert mine.dtype == theirs.dtype, name
        np.testing.assert_array_equal(mine, theirs, name)
    np.testing.assert_array_equal(actual.steps, expected.steps)
    for name in CURVES:
        mine, theirs = getattr(actual.curves, name), getattr(expected.curves, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            if name == "path":
                np.testing.assert_array_equal(mine, theirs, name)
            else:
                np.testing.assert_allclose(np.sqrt(mine), np.sqrt(theirs), rtol=1e-9, atol=1e-10, err_msg=name)


def assert_close_training(actual: Any, expected: Any) -> None:
    """Check that two kernels' results are equal to rounding: sums can have a different order.

    Each trial is compared on the scale of its own largest value. If a trial overflows, it does so at the same step.
    """
    rtol = {"float32": 1e-5, "float64": 1e-12}[str(expected.params.dtype)]
    np.testing.assert_array_equal(actual.first_nonfinite_step, expected.first_nonfinite_step)
    np.testing.assert_array_equal(actual.steps, expected.steps)
    values = {f"state.{name}": (getattr(actual.state, name), getattr(expected.state, name)) for name in STATE}
    values |= {name: (getattr(actual.curves, name), getattr(expected.curves, name)) for name in CURVES}
    for name in ("state.first_nonfinite_step", "state.peak_step"):
        del values[name]  # compared above; two steps can reach equal peaks to rounding
    for name, (mine, theirs) in values.items():
        assert (mine is None) == (theirs is None), name
        if mine is None:
            continue
        assert mine.dtype == theirs.dtype, name
        np.testing.assert_array_equal(np.isfinite(mine), np.isfinite(theirs), name)
        for one, other in zip(mine, theirs, strict=True):
            finite = np.isfinite(other)  # an overflow is inf or NaN, as sums are ordered
            scale = np.abs(other[finite]).max(initial=0.0)
            np.testing.assert_allclose(one[finite], other[finite], rtol=rtol, atol=10 * rtol * scale, err_msg=name)


def take(trajectories: Any, trials: Any) -> Any:
    """Return some trials of a result as a result."""
    trials = np.asarray(trials)
    hyperparams = trajectories.hyperparams[trials]
    columns = {name: getattr(trajectories.curves, name) for name in CURVES}
    if not hyperparams.weight_decay.any():
        columns["squared_norm"] = None
    curves = replace(trajectories.curves, **{k: None if v is None else v[trials] for k, v in columns.items()})
    return replace(
        trajectories,
        hyperparams=hyperparams,
        curves=curves,
        state=trajectories.state.take(trials),
        minimum=trajectories.minimum[trials],
    )
