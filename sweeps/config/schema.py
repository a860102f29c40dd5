"""The schema of the sweep file as pydantic models."""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sweeps.config import strict_yaml
from sweeps.config.axis import Axis, AxisOrList, NumpyPowers
from sweeps.config.base import Model
from sweeps.config.datasets import AnyDataset
from sweeps.config.early_termination import EarlyTermination
from sweeps.config.messages import listed
from sweeps.config.models import AnyModel, LinearModel
from sweeps.config.schedules import ScheduleConfig, checked, numbers
from sweeps.config.types import (
    CUSTOM,
    Count,
    CurvePoints,
    Decimals,
    Description,
    Device,
    Flag,
    Groups,
    Name,
    NotNegative,
    Number,
    Points,
    Policy,
    Positive,
    Quantile,
    Registered,
    Retries,
    Seed,
    Text,
    Value,
    Variable,
)

RECORDED_POINTS = 64  # by default, and in all sweeps of earlier versions
HYPERPARAMETERS = ("lr", "momentum", "weight_decay", "dampening", "nesterov")


GROUP_HYPERPARAMETERS = HYPERPARAMETERS[:4]  # those that a parameter group can have of its own
CLIPPING = ("clip_grad_norm", "clip_grad_value")
BATCH_SIZE = "batch_size"
FOLD = "fold"
LEARNING = ("tpe", "cmaes", "gp")  # methods whose rounds depend on earlier results
LEAST_POPULATION = 4
REPEATS = ("seed", FOLD)  # columns that repeat a setting


class TaskConfig(Model):
    """The task: data set, model and loss."""

    dataset: AnyDataset
    """The data set."""
    model: AnyModel = LinearModel(kind="linear")
    """The model; linear by default."""
    loss: Literal["mse", "mae", "huber", "log_cosh", "quantile", "poisson_nll", "gaussian_nll"] = "mse"
    """The mean over the batch and the targets of squared (mse), absolute (mae), Huber or log-cosh errors, of the
    pinball loss (quantile), or of torch's PoissonNLLLoss (the model's output is the log of the expected count) or
    GaussianNLLLoss (a second output per target, after all means, is the variance before softplus).
    """
    huber_delta: Positive = 1.0
    """The error at which the Huber loss changes from squared to linear."""
    quantile: Quantile = 0.5
    """The quantile that loss quantile estimates."""

    @property
    def is_signed(self) -> bool:
        """Whether losses can be negative, so that they have no logarithms."""
        from sgdcore.tasks.losses import SIGNED

        return self.loss in SIGNED

    @property
    def loss_text(self) -> str:
        """The loss with its option."""
        options = {"huber": f" with huber_delta {self.huber_delta:g}", "quantile": f" {self.quantile:g}"}
        return self.loss + options.get(self.loss, "")

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        if "quantile" in self.model_fields_set and self.loss != "quantile":
            raise PydanticCustomError(CUSTOM, f"quantile belongs to loss quantile, not to {self.loss}: set loss")
        if self.loss == "poisson_nll" and self.dataset.standardize == "all":
            raise PydanticCustomError(
                CUSTOM, "loss poisson_nll needs targets >= 0, which dataset.standardize all shifts: set it to features"
            )
        return self


class EarlyStoppingConfig(Model):
    """Early stopping of single trials by patience; every trial ends with the parameters of its best recorded point.

    The loss that must improve is the metric's: the validation loss or the training loss, at the recorded points. With
    ``record.spacing: log`` these are dense at the start of a trial; linear spacing makes all of them equally long.
    """

    patience: Count
    """The number of recorded points in a row without an improvement after which a trial stops."""
    min_delta: NotNegative = 0.0
    """How far below the best a loss must be to count as an improvement."""


class TrainingConfig(Model):
    """The training of every trial; ``compile`` runs the steps of networks through torch.compile."""

    epochs: Count
    """The number of passes over the training set."""
    batch_size: Count = 1
    """The number of samples per step; the last batch of an epoch can be smaller."""
    order: Literal["sequential", "shuffled"] = "sequential"
    """Whether samples keep their order, or are permuted in every epoch."""
    dtype: Literal["float32", "float64"] = "float32"
    """The type of parameters and data."""
    device: Device = "auto"
    """Where to train: auto, cpu, cuda or cuda:N."""
    compile: Flag = False
    """Whether the steps of networks run through torch.compile."""
    schedule: Annotated[ScheduleConfig, AfterValidator(checked)] | None = None
    """The learning-rate schedule: a scheduler of torch.optim.lr_scheduler, or a list of them in sequence."""
    groups: Groups | None = None
    """The parameter groups by name: patterns of parameter names such as "*.bias". Each can have an lr, momentum,
    weight_decay and dampening of its own, as in the axis weight_decay.bias.
    """
    early_stopping: EarlyStoppingConfig | None = None
    """When single trials stop early; by default all trials run to the end."""


def known_options(training: TrainingConfig) -> tuple[str, ...]:
    """Return the names of all axes that a sweep can have beyond the hyperparameters and start values."""
    of_groups = [f"{name}.{group}" for group in training.groups or () for name in GROUP_HYPERPARAMETERS]
    scheduled = numbers(training.schedule) if training.schedule is not None else ()
    return (BATCH_SIZE, *CLIPPING, *of_groups, *scheduled)


def is_option(column: str) -> bool:
    """Return whether a column of a shard file is an axis beyond the hyperparameters and start values."""
    first = column.partition(".")[0]
    return column in (FOLD, BATCH_SIZE, *CLIPPING) or (
        column != first and first in ("schedule", *GROUP_HYPERPARAMETERS)
    )


def _whole_batch_sizes(parameters: dict[str, Axis]) -> dict[str, Axis]:
    """Return the axes with whole numbers as batch sizes, where their distribution is not given."""
    axis = parameters.get(BATCH_SIZE)
    if axis is None or axis.distribution is not None or axis.distribution_name not in ("uniform", "log_uniform_values"):
        return parameters
    name = "int_uniform" if axis.distribution_name == "uniform" else "q_log_uniform_values"
    given = axis.model_dump(exclude_unset=True, exclude={"scale"})
    return parameters | {BATCH_SIZE: Axis.model_validate(given | {"distribution": name})}


Parameters = Annotated[dict[str, AxisOrList], AfterValidator(_whole_batch_sizes)]

ParametersUnion = Annotated[
    Annotated[Parameters, Tag("mapping")] | Annotated[list[Parameters], Field(min_length=1), Tag("list")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "mapping"),
]
Final = Annotated[
    Annotated[dict[str, Number], Tag("mapping")] | Annotated[Literal["torch.optim.SGD"], Tag("text")],
    Discriminator(lambda given: "text" if isinstance(given, str) else "mapping"),
]


MetricName = Literal["final_loss", "best_loss", "final_validation_loss", "best_validation_loss"]


class MetricConfig(Model):
    """The loss that ranks trials, and its direction."""

    name: MetricName | None = None
    """The loss that ranks trials. By default the final validation loss if there is a validation set."""
    goal: Literal["minimize"] = "minimize"
    """The direction of the ranking."""


class RecordConfig(Model):
    """The steps of each curve that are recorded: the first, the last and ``points`` between.

    By default there are 64, for networks as many as take at most a quarter of the training's time.
    """

    points: Points | None = None
    """The number of recorded points of a trial's curve between the first and the last step."""
    spacing: Literal["log", "linear", "all"] = "log"
    """The spacing of recorded points: log, linear, or all steps."""


class VerdictConfig(Model):
    """The thresholds of the verdicts (sgdcore.verdict)."""

    rtol: Positive = 1e-3
    """The share of the distance to the minimum at which a trial has converged."""
    atol: NotNegative | None = None
    """The distance to the minimum at which a trial has converged. By default 1e-12 times the loss of predicting 0."""
    diverged_factor: Positive = 1e6
    """The multiple of the first objective above which a trial has diverged."""
    stalled_below: NotNegative = 0.01
    """The relative decrease over the last quarter below which a trial has stalled."""


WriterName = Literal["auto", "bulk", "client"]


with warnings.catch_warnings():
    # The metaclass gives every class a method named register; instances have none, so the field shadows nothing.
    warnings.filterwarnings("ignore", 'Field name "register"')

    class TrackingConfig(Model):
        """The MLflow options: which trials become runs, the writer, and the number of points per curve.

        ``database`` is $NAME of the environment variable that holds the URI of the tracking server's database.
        ``model`` selects whether the best trial's model is logged. ``register`` also registers it, under the sweep's
        name (true) or the given name.
        """

        trials: Policy = "all"
        """Which trials become MLflow runs: all, none, or top:N for the N best."""
        writer: WriterName = "auto"
        """How runs are written: in bulk into MLflow's database, by MLflow's client, or whichever works (auto)."""
        points: CurvePoints | None = None
        """The most points per curve in MLflow. By default all that are recorded."""
        database: Variable | None = None
        """$NAME of the environment variable that holds the URI of the tracking server's database."""
        model: Literal["none", "best"] = "best"
        """Whether to log the best trial's model."""
        register: Registered = False
        """Whether to register the model: under the sweep's name (true) or the given name."""


class ExecutionConfig(Model):
    """How trials are packed and retried. By default ``trials_per_shard`` gives about a second of work per shard.

    A shard whose worker process dies is retried up to ``max_retries`` times. A shard that raises is not retried.
    """

    trials_per_shard: Count | None = None
    """The number of trials per shard. By default about a second of work."""
    max_retries: Retries = 3
    """How often a shard whose worker process dies is retried."""


class Expected(Model):
    """The expected final parameters of some trials: published numbers, or the result of torch.optim.SGD."""

    case: Text
    """The name of the case."""
    where: Annotated[dict[str, Value], Field(min_length=1)]
    """The hyperparameters, start values and seed that select the trials."""
    final: Final
    """The expected final parameters, or torch.optim.SGD for torch's."""
    decimals: Decimals = 4
    """The number of decimals to which they must agree."""


class SweepConfig(Model):
    """The whole sweep file."""

    name: Name
    """The name of the sweep."""
    description: Description = ""
    """What the sweep is for."""
    experiment: Text | None = None
    """The MLflow experiment. By default the sweep's name."""
    task: TaskConfig
    """What to learn."""
    training: TrainingConfig
    """How to train every trial."""
    method: Literal["grid", "random", "sobol", "tpe", "cmaes", "gp", "boundary"] = "grid"
    """The search method: all combinations of the values (grid); draws from their distributions that are pseudorandom
    (random) or spread evenly (sobol); rounds that learn from the results of those before: tree-structured Parzen
    estimators (tpe), CMA-ES (cmaes) or a Gaussian process (gp); or all edges of stability along the axis that has a
    tolerance (boundary).
    """
    run_cap: Count | None = None
    """The number of trials that a method draws, all seeds and folds included."""
    search_seed: Seed = 0
    """The seed of the draws."""
    early_terminate: EarlyTermination | None = None
    """When trials that are worse than others stop; by default none does."""
    batch: Count | None = None
    """The number of settings per round of tpe, cmaes and gp. By default a tenth of all settings, from 4 to 64."""
    warm_start: Text | None = None
    """An earlier sweep of the store, by its id or name: the rounds of tpe, cmaes and gp after the first learn from its
    results, too. They are copied when the sweep is created.
    """
    metric: MetricConfig = MetricConfig()
    """The objective that ranks trials."""
    parameters: ParametersUnion
    """The axes by name: a mapping for their product, or a list of mappings for the union of products."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """The seeds of initialisation and shuffling; every setting is trained with each."""
    record: RecordConfig = RecordConfig()
    """Which steps of each curve to record."""
    verdict: VerdictConfig = VerdictConfig()
    """The thresholds of the verdicts."""
    tracking: TrackingConfig = TrackingConfig()
    """What to log to MLflow."""
    execution: ExecutionConfig = ExecutionConfig()
    """How to pack and retry trials."""
    expected: tuple[Expected, ...] = ()
    """Final parameters to compare the trials with."""

    @model_validator(mode="after")
    def _has_what_the_metric_needs(self) -> SweepConfig:
        if "validation" in self.metric_name and not self.task.dataset.validation:
            raise PydanticCustomError(
                CUSTOM, f"metric.name: {self.metric_name} needs a validation set: set task.dataset.validation"
            )
        return self

    @model_validator(mode="after")
    def _has_a_cap(self) -> SweepConfig:
        repeats = len(self.seeds) * max(1, self.task.dataset.folds)
        if self.method in ("grid", "boundary"):
            if self.run_cap is not None:
                raise PydanticCustomError(
                    CUSTOM, f"run_cap: method {self.method} runs all combinations; use method random"
                )
        elif self.run_cap is None:
            raise PydanticCustomError(CUSTOM, f"run_cap: missing; method {self.method} needs a number of trials")
        elif self.run_cap < repeats:
            problem = f"run_cap: given {self.run_cap}; must be >= {repeats}, a trial with each seed and fold"
            raise PydanticCustomError(CUSTOM, problem)
        if self.early_terminate is not None and self.training.early_stopping is not None:
            problem = (
                "early_terminate: cannot be combined with training.early_stopping, whose trials cannot be trained on"
            )
            raise PydanticCustomError(CUSTOM, problem)
        if self.early_terminate is not None and self.early_terminate.min_epochs >= self.training.epochs:
            given = f"given {self.early_terminate.min_epochs}; must be < training.epochs, {self.training.epochs}"
            raise PydanticCustomError(CUSTOM, f"early_terminate.min_epochs: {given}")
        if self.method == "cmaes" and self.batch is not None and self.batch < LEAST_POPULATION:
            problem = f"batch: given {self.batch}; a generation of cmaes has at least {LEAST_POPULATION} settings"
            raise PydanticCustomError(CUSTOM, problem)
        if self.batch is not None and self.method not in LEARNING:
            raise PydanticCustomError(CUSTOM, f"batch: method {self.method} has no rounds; {listed(LEARNING)} have")
        if self.warm_start is not None and self.method not in LEARNING:
            problem = f"warm_start: method {self.method} does not learn from results; {listed(LEARNING)} do"
            raise PydanticCustomError(CUSTOM, problem)
        return self

    @property
    def metric_name(self) -> MetricName:
        """The column that ranks trials, the lowest first."""
        return self.metric.name or ("final_validation_loss" if self.task.dataset.validation else "final_loss")

    @property
    def stopping_loss(self) -> Literal["loss", "validation_loss"]:
        """The curve that early stopping follows: that of the metric."""
        return "validation_loss" if "validation" in self.metric_name else "loss"

    @property
    def recording(self) -> dict[str, Any]:
        """The arguments of sgdcore.Recording."""
        points = RECORDED_POINTS if self.record.points is None else self.record.points
        return {"points": points, "spacing": self.record.spacing}

    @property
    def mixes_batch_sizes(self) -> bool:
        """Whether the batch size is an axis."""
        return BATCH_SIZE in self.options

    @property
    def is_divided(self) -> bool:
        """Whether trials differ in fold or batch size; curves are then recorded by epoch."""
        return bool(self.task.dataset.folds) or self.mixes_batch_sizes

    def with_batch_size(self, batch_size: int) -> SweepConfig:
        """Return the config with another batch size for trials that have no such axis."""
        training = self.training.model_copy(update={"batch_size": batch_size})
        return self.model_copy(update={"training": training})

    def with_points(self, points: int) -> SweepConfig:
        """Return the config with another number of recorded points, the same in its stored form."""
        return self.model_copy(update={"record": self.record.model_copy(update={"points": points})})

    def ranked_by(self, metric: MetricName) -> SweepConfig:
        """Return the config with another metric."""
        return self.model_copy(update={"metric": self.metric.model_copy(update={"name": metric})})

    @property
    def experiment_name(self) -> str:
        """The name of the MLflow experiment."""
        return self.experiment or self.name

    @property
    def registered_name(self) -> str | None:
        """The name of the registered model; ``/`` and ``:``, which MLflow rejects in names, become ``-``."""
        register = self.tracking.register
        return re.sub("[/:]", "-", self.name) if register is True else register or None

    @property
    def options(self) -> tuple[str, ...]:
        """The axes beyond the hyperparameters and start values, in the order of :func:`known_options`."""
        named = {name for mapping in self.mappings() for name in mapping}
        fold = (FOLD,) if self.task.dataset.folds else ()
        return (*fold, *(name for name in known_options(self.training) if name in named))

    def mappings(self) -> list[Parameters]:
        """Return the parameter mappings; the sweep is the union of their products."""
        return self.parameters if isinstance(self.parameters, list) else [self.parameters]

    def with_numpy_ranges(self, powers: NumpyPowers = "libm") -> SweepConfig:
        """Return a copy whose ranges have the points of numpy.linspace and numpy.geomspace."""
        mappings = [{name: axis.as_numpy(powers) for name, axis in mapping.items()} for mapping in self.mappings()]
        return self.model_copy(update={"parameters": mappings if isinstance(self.parameters, list) else mappings[0]})

    def to_yaml(self) -> str:
        """Return the resolved file as YAML: every key that was set, in the schema's order."""
        return strict_yaml.write(self.model_dump(mode="json", exclude_unset=True))
