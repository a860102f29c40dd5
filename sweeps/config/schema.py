"""The schema of the sweep file as pydantic models."""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sweeps.config import strict_yaml
from sweeps.config.axis import Axis
from sweeps.config.base import Model
from sweeps.config.datasets import AnyDataset
from sweeps.config.models import AnyModel, LinearModel
from sweeps.config.types import (
    CUSTOM,
    Count,
    CurvePoints,
    Decimals,
    Description,
    Device,
    Flag,
    Name,
    NotNegative,
    Number,
    Points,
    Policy,
    Positive,
    Registered,
    Retries,
    Seed,
    Text,
    Value,
    Variable,
)

RECORDED_POINTS = 64  # by default, and in all sweeps of earlier versions
HYPERPARAMETERS = ("lr", "momentum", "weight_decay", "dampening", "nesterov")


class TaskConfig(Model):
    """The task: data set, model and loss."""

    dataset: AnyDataset
    model: AnyModel = LinearModel(kind="linear")
    loss: Literal["mse", "mae", "huber"] = "mse"
    huber_delta: Positive = 1.0


class TrainingConfig(Model):
    """The training of every trial; ``compile`` runs the steps of networks through torch.compile."""

    epochs: Count
    batch_size: Count = 1
    order: Literal["sequential", "shuffled"] = "sequential"
    dtype: Literal["float32", "float64"] = "float32"
    device: Device = "auto"
    compile: Flag = False


Parameters = dict[str, Axis]

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
    """The objective that ranks trials; by default the final validation loss if there is a validation set."""

    name: MetricName | None = None
    goal: Literal["minimize"] = "minimize"


class RecordConfig(Model):
    """The steps of each curve that are recorded: the first, the last and ``points`` between.

    By default there are 64, for networks as many as take at most a quarter of the training's time.
    """

    points: Points | None = None
    spacing: Literal["log", "linear", "all"] = "log"


class VerdictConfig(Model):
    """The thresholds of the verdicts (sgdcore.verdict); ``atol`` is by default 1e-12 times the loss of predicting 0."""

    rtol: Positive = 1e-3
    atol: NotNegative | None = None
    diverged_factor: Positive = 1e6
    stalled_below: NotNegative = 0.01


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
        writer: WriterName = "auto"
        points: CurvePoints | None = None
        database: Variable | None = None
        model: Literal["none", "best"] = "best"
        register: Registered = False


class ExecutionConfig(Model):
    """How trials are packed and retried. By default ``trials_per_shard`` gives about a second of work per shard.

    A shard whose worker process dies is retried up to ``max_retries`` times. A shard that raises is not retried.
    """

    trials_per_shard: Count | None = None
    max_retries: Retries = 3


class Expected(Model):
    """The expected final parameters of some trials: published numbers, or the result of torch.optim.SGD."""

    case: Text
    where: Annotated[dict[str, Value], Field(min_length=1)]
    final: Final
    decimals: Decimals = 4


class SweepConfig(Model):
    """The whole sweep file."""

    name: Name
    description: Description = ""
    experiment: Text | None = None
    task: TaskConfig
    training: TrainingConfig
    method: Literal["grid"] = "grid"
    metric: MetricConfig = MetricConfig()
    parameters: ParametersUnion
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    record: RecordConfig = RecordConfig()
    verdict: VerdictConfig = VerdictConfig()
    tracking: TrackingConfig = TrackingConfig()
    execution: ExecutionConfig = ExecutionConfig()
    expected: tuple[Expected, ...] = ()

    @model_validator(mode="after")
    def _has_what_the_metric_needs(self) -> SweepConfig:
        if "validation" in self.metric_name and not self.task.dataset.validation:
            raise PydanticCustomError(
                CUSTOM, f"metric.name: {self.metric_name} needs a validation set: set task.dataset.validation"
            )
        return self

    @property
    def metric_name(self) -> MetricName:
        """The column that ranks trials, the lowest first."""
        return self.metric.name or ("final_validation_loss" if self.task.dataset.validation else "final_loss")

    @property
    def recording(self) -> dict[str, Any]:
        """The arguments of sgdcore.Recording."""
        points = RECORDED_POINTS if self.record.points is None else self.record.points
        return {"points": points, "spacing": self.record.spacing}

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

    def mappings(self) -> list[Parameters]:
        """Return the parameter mappings; the sweep is the union of their products."""
        return self.parameters if isinstance(self.parameters, list) else [self.parameters]

    def to_yaml(self) -> str:
        """Return the resolved file as YAML: every key that was set, in the schema's order."""
        return strict_yaml.write(self.model_dump(mode="json", exclude_unset=True))
