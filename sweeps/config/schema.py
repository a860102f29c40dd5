"""SweepConfig: the sweep file, validated; a problem is one line: its path, what was given, what is allowed."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from sweeps.config import strict_yaml
from sweeps.config.messages import UNKNOWN, hint, key, problem_lines, shown
from sweeps.config.types import (
    CUSTOM,
    LARGEST,
    SECRET,
    AtLeastOne,
    AxisLength,
    Count,
    CurvePoints,
    Decimals,
    Degree,
    Description,
    Device,
    Features,
    FilePath,
    Flag,
    Fraction,
    ModulePath,
    Name,
    NotNegative,
    Number,
    Points,
    Policy,
    Positive,
    Registered,
    Retries,
    Seed,
    Size,
    Text,
    Value,
    Variable,
    Width,
)
from sweeps.errors import MAX_PROBLEMS, ConfigError
from sweeps.text.sanitize import visible

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HYPERPARAMETERS = ("lr", "momentum", "weight_decay", "dampening", "nesterov")
_INIT = re.compile(r"init\.\w+(\.\w+)*")
_PLACE = re.compile(r"[0-9]{1,9}")  # in a list
_MAX_KEY = 1_000  # characters of a key that is overridden
_MAX_DEPTH = 32


class Model(BaseModel):
    """Frozen, and with no keys but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell of unknown keys together with what is wrong with the known ones."""
        if isinstance(given, cls):
            return handler(given)
        if not isinstance(given, dict):
            raise PydanticCustomError(CUSTOM, "a mapping is needed")
        unknown = [key for key in given if key not in cls.model_fields]
        if not unknown:
            return handler(given)
        allowed = {"allowed": list(cls.model_fields)}
        details = [
            InitErrorDetails(type=PydanticCustomError(UNKNOWN, "unknown key", allowed), loc=(key,), input=given[key])
            for key in unknown
        ]
        try:
            handler({key: value for key, value in given.items() if key in cls.model_fields})
        except ValidationError as error:
            details += [_again(problem) for problem in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(cls.__name__, details)


def _again(problem: ErrorDetails) -> InitErrorDetails:
    kind: Any = problem["type"]
    context = problem.get("ctx", {})
    if kind in (CUSTOM, UNKNOWN, SECRET):
        kind = PydanticCustomError(kind, problem["msg"], context)  # type: ignore[arg-type, unused-ignore]
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"], ctx=context)


class _Data(Model):
    standardize: Literal["none", "features", "all"] = "none"
    validation: Fraction = 0.0
    split_seed: Seed = 0


class LineData(_Data):
    """y = slope x + intercept."""

    kind: Literal["line"]
    slope: Number = 0.8
    intercept: Number = 1.2
    x: Annotated[tuple[Number, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    noise: NotNegative = 0.0
    seed: Seed = 0


class LinearData(_Data):
    """Random linear data of a given condition number."""

    kind: Literal["linear"]
    n: Size = 100
    d: Features = 1
    condition: AtLeastOne = 1.0
    noise: NotNegative = 0.0
    seed: Seed = 0


class PolynomialData(_Data):
    """y = c0 + c1 x + c2 x^2 + ..."""

    kind: Literal["polynomial"]
    coefficients: Annotated[tuple[Number, ...], Field(min_length=1)] = (0, 0, 1)
    n: Size = 50
    low: Number = -1.0
    high: Number = 1.0
    noise: NotNegative = 0.0
    seed: Seed = 0


class SineData(_Data):
    """y = sin(frequency x)."""

    kind: Literal["sine"]
    n: Size = 50
    low: Number = -math.pi
    high: Number = math.pi
    frequency: Number = 1.0
    noise: NotNegative = 0.0
    seed: Seed = 0


class FileData(_Data):
    """A table in a CSV or Parquet file; features: all columns but the target if not named."""

    kind: Literal["csv", "parquet"]
    path: FilePath
    target: Text
    features: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _tells_features_from_the_target(self) -> Self:
        for name in dict.fromkeys(self.features or ()):
            if name == self.target:
                raise PydanticCustomError(CUSTOM, "{name} is the target and cannot be a feature", {"name": shown(name)})
            if (self.features or ()).count(name) > 1:
                raise PydanticCustomError(CUSTOM, "features name {name} more than once", {"name": shown(name)})
        return self


class DiabetesData(_Data):
    """scikit-learn's bundled diabetes data, 442 x 10, unscaled."""

    kind: Literal["diabetes"]


class LinearModel(Model):
    """torch.nn.Linear; ``init`` says where parameters start that no init.* axis sets."""

    kind: Literal["linear"]
    bias: Flag = True
    init: Literal["torch", "zeros"] = "torch"


class PolynomialModel(Model):
    """A polynomial in one input."""

    kind: Literal["polynomial"]
    degree: Degree = 2
    bias: Flag = True
    init: Literal["torch", "zeros"] = "torch"


class MlpModel(Model):
    """A multi-layer perceptron: Linear layers of these widths with an activation between, torch's initialisation."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (32,)
    activation: Literal["relu", "tanh", "sigmoid", "gelu", "silu"] = "relu"
    init: Literal["torch"] = "torch"


class ModuleModel(Model):
    """Any torch.nn.Module: ``module`` is package.module:callable, called with ``arguments``, returning a fresh one."""

    kind: Literal["module"]
    module: ModulePath
    arguments: dict[str, Any] = {}
    init: Literal["torch"] = "torch"


class TaskConfig(Model):
    """What is trained."""

    dataset: Annotated[
        LineData | LinearData | PolynomialData | SineData | FileData | DiabetesData, Field(discriminator="kind")
    ]
    model: Annotated[LinearModel | PolynomialModel | MlpModel | ModuleModel, Field(discriminator="kind")] = LinearModel(
        kind="linear"
    )
    loss: Literal["mse", "mae", "huber"] = "mse"
    huber_delta: Positive = 1.0


class TrainingConfig(Model):
    """How every trial is trained; ``compile`` is for networks: torch.compile makes their steps."""

    epochs: Count
    batch_size: Count = 1
    order: Literal["sequential", "shuffled"] = "sequential"
    dtype: Literal["float32", "float64"] = "float32"
    device: Device = "auto"
    compile: Flag = False


class Axis(Model):
    """One parameter's values: ``value``, ``values``, or ``min``/``max``/``count`` with a ``scale``."""

    value: Value | None = None
    values: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    min: Number | None = None
    max: Number | None = None
    count: AxisLength | None = None
    scale: Literal["linear", "log"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Axis:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if given in ({"value"}, {"values"}):
            return self
        if not ({"min", "max", "count"} <= given <= {"min", "max", "count", "scale"}):
            raise PydanticCustomError(CUSTOM, "value, values, or min with max and count (and scale) is needed")
        assert self.min is not None
        assert self.max is not None
        if self.min > self.max:
            raise PydanticCustomError(CUSTOM, "min must not be above max")
        if self.scale == "log" and self.min <= 0:
            raise PydanticCustomError(CUSTOM, "a log scale needs min > 0")
        if not math.isfinite(self.max - self.min):
            raise PydanticCustomError(CUSTOM, "a range whose width float64 can hold is needed")
        return self

    def __len__(self) -> int:
        """Number of values."""
        return self.count or len(self.named())

    def named(self) -> tuple[bool | float, ...]:
        """The values that the file names: all of them, or both ends of a range."""
        if self.values is not None:
            return self.values
        if self.value is not None:
            return (self.value,)
        assert self.min is not None
        assert self.max is not None
        return (self.min, self.max)

    def points(self) -> NDArray[np.float64]:
        """The axis' values, in order; booleans as 0 and 1."""
        import numpy as np

        if self.count is None:
            return np.array(self.named(), dtype=np.float64)
        low, high = map(float, self.named())
        return (np.geomspace if self.scale == "log" else np.linspace)(low, high, self.count)


Parameters = dict[str, Axis]

ParametersUnion = Annotated[
    Annotated[Parameters, Tag("mapping")] | Annotated[list[Parameters], Field(min_length=1), Tag("list")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "mapping"),
]
Final = Annotated[
    Annotated[dict[str, Number], Tag("mapping")] | Annotated[Literal["torch.optim.SGD"], Tag("text")],
    Discriminator(lambda given: "text" if isinstance(given, str) else "mapping"),
]


class MetricConfig(Model):
    """What makes a trial the best."""

    name: Literal["final_loss", "best_loss"] = "final_loss"
    goal: Literal["minimize"] = "minimize"


class RecordConfig(Model):
    """Which steps are kept."""

    points: Points = 64
    spacing: Literal["log", "linear", "all"] = "log"


class VerdictConfig(Model):
    """The thresholds of the verdicts (sgdcore.verdict)."""

    rtol: Positive = 1e-3
    atol: NotNegative = 1e-12
    diverged_factor: Positive = 1e6
    stalled_below: NotNegative = 0.01


WriterName = Literal["auto", "bulk", "client"]


with warnings.catch_warnings():
    # Every class has a method of this name, by its metaclass; no instance has.
    warnings.filterwarnings("ignore", 'Field name "register"')

    class TrackingConfig(Model):
        """What goes to MLflow: which trials become runs of their own, by which writer, with how many points a curve.

        ``database`` names the environment variable that holds the URI of the tracking server's database, as $NAME.
        ``model`` says whether the best trial's model is logged, ``register`` whether it is registered too, under the
        sweep's name or another one.
        """

        trials: Policy = "all"
        writer: WriterName = "auto"
        points: CurvePoints | None = None
        database: Variable | None = None
        model: Literal["none", "best"] = "best"
        register: Registered = False


class ExecutionConfig(Model):
    """How trials are packed: ``trials_per_shard`` is chosen for about a second of work a shard if left out.

    A shard whose worker process dies is run again ``max_retries`` times, then given up. One that raises is not.
    """

    trials_per_shard: Count | None = None
    max_retries: Retries = 3


class Expected(Model):
    """A figure to hold the outcome against, shown beside it: published parameters, or torch.optim.SGD's own."""

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

    @property
    def registered_name(self) -> str | None:
        """The registered model that the best trial's becomes a version of; MLflow takes neither / nor : in its name."""
        register = self.tracking.register
        return re.sub("[/:]", "-", self.name) if register is True else register or None

    def mappings(self) -> list[Parameters]:
        """The parameters' mappings: the sweep is the union of their products."""
        return self.parameters if isinstance(self.parameters, list) else [self.parameters]

    def to_yaml(self) -> str:
        """The resolved file: every key that is not left to its default, in the schema's order."""
        return strict_yaml.write(self.model_dump(mode="json", exclude_unset=True))


def load(path: Path, overrides: list[str] | None = None) -> SweepConfig:
    """Read and validate a sweep file; ``overrides`` are KEY=VALUE with dotted keys and YAML values.

    A data file's relative path is taken from the sweep file's folder.

    Raises:
        ConfigError: with one line a problem.
    """
    return loads(read_text(path), str(path), path.parent, overrides)


def loads(text: str, where: str, folder: Path = Path(), overrides: list[str] | None = None) -> SweepConfig:
    """The same of a sweep file's text, read from ``where``; relative paths start from ``folder``."""
    document = strict_yaml.read(text, where)
    if not isinstance(document, dict):
        raise ConfigError(where, ["a mapping with the keys of a sweep is needed"])
    for override in overrides or []:
        _override(document, override)
    return parse(document, where, folder)


def parse(document: Any, where: str, folder: Path = Path()) -> SweepConfig:
    """Validate a document that was read from ``where``."""
    try:
        config = SweepConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(where, problem_lines(error)) from error
    problems = list(islice(_parameter_problems(config), MAX_PROBLEMS + 1))
    if config.tracking.register and config.tracking.model == "none":
        problems.insert(0, "tracking.register: there is no model to register with tracking.model: none")
    if problems:
        raise ConfigError(where, problems)
    dataset = config.task.dataset
    if isinstance(dataset, FileData):
        path = os.path.realpath(folder / dataset.path)
        if path != visible(path):
            raise ConfigError(where, ["task.dataset.path: no folder's name may hold control characters"])
        config = with_data_at(config, path)
    return config


def with_data_at(config: SweepConfig, path: str) -> SweepConfig:
    """The same config with its data file elsewhere."""
    dataset = config.task.dataset.model_copy(update={"path": path})
    return config.model_copy(update={"task": config.task.model_copy(update={"dataset": dataset})})


def read_text(path: Path) -> str:
    """A YAML file's text, of a bounded length.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise ConfigError(str(path), ["cannot be read: it is not a file"])
        with path.open("rb") as file:
            content = file.read(4 * strict_yaml.MAX_CHARACTERS + 1)
        return content.decode("utf-8", errors="strict" if len(content) <= 4 * strict_yaml.MAX_CHARACTERS else "ignore")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), ["not a text file in UTF-8"]) from error
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except ValueError as error:  # a name that no file can have
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error


def _override(document: dict[str, Any], override: str) -> None:
    given, equals, value = override.partition("=")
    if not equals or not given:
        raise ConfigError("--set", [f"{shown(override)}: KEY=VALUE is needed, such as training.epochs=5"])
    segments = _segments(given) if len(given) <= _MAX_KEY else []
    if not 0 < len(segments) <= _MAX_DEPTH:
        raise ConfigError("--set", [f"{key(given)}: a key of at most {_MAX_DEPTH} parts is needed"])
    *parents, last = segments
    node: Any = document
    for parent in parents:
        if (place := _place(node, parent)) is not None:
            node = node[place]
        elif isinstance(node, dict):
            node = node.setdefault(parent, {})
        else:
            raise ConfigError("--set", [f"{key(given)}: {shown(parent)} is not a key of a mapping or list"])
    if (place := _place(node, last)) is not None:
        node[place] = strict_yaml.read(value, "--set")
    elif isinstance(node, dict):
        node[last] = strict_yaml.read(value, "--set")
    else:
        raise ConfigError("--set", [f"{key(given)}: {shown(last)} is not a key of a mapping or list"])


def _place(node: Any, segment: str) -> int | None:
    """Which entry of a list a segment names."""
    named = isinstance(node, list) and _PLACE.fullmatch(segment) and int(segment) < len(node)
    return int(segment) if named else None


def _segments(given: str) -> list[str]:
    """Split a dotted key; an axis such as init.weight.0 is one segment."""
    match = re.search(r"(?:^|\.)init\.\w+(\.\w+)*?(?=\.(values?|min|max|count|scale)(\.|$)|$)", given)
    if not match:
        return given.split(".")
    before, after = given[: match.start()], given[match.end() :]
    return [
        *(before.split(".") if before else []),
        match.group().lstrip("."),
        *(after[1:].split(".") if after else []),
    ]


def _parameter_problems(config: SweepConfig) -> Iterator[str]:
    """What is wrong with the names and values of axes, and of the trials that are expected."""
    for i, mapping in enumerate(config.mappings()):
        path = f"parameters[{i}]" if isinstance(config.parameters, list) else "parameters"
        for name, axis in mapping.items():
            if problem := _name_problem(name, HYPERPARAMETERS):
                yield f"{path}.{key(name)}: {problem}"
            else:
                yield from _axis_problems(f"{path}.{key(name)}", name, axis, config.training.dtype)
    for i, expected in enumerate(config.expected):
        for name, value in expected.where.items():
            problem = _name_problem(name, (*HYPERPARAMETERS, "seed"))
            if problem is None and not math.isfinite(value):
                problem = f"given {shown(value)}; a finite number is needed"
            if problem:
                yield f"expected[{i}].where.{key(name)}: {problem}"


def _name_problem(name: str, known: Sequence[str]) -> str | None:
    if name in known or _INIT.fullmatch(name):
        return None
    return f"unknown parameter{hint(name, [*known, 'init.weight', 'init.bias'])}"


def _axis_problems(path: str, name: str, axis: Axis, dtype: str) -> Iterator[str]:
    """The first value that is wrong."""
    for i, value in enumerate(axis.named()):
        if problem := _value_problem(name, value, dtype):
            place = f"values[{i}]" if axis.values else "value" if axis.value is not None else ("min", "max")[i]
            yield f"{path}.{place}: given {shown(value)}; {problem}"
            return


def _value_problem(name: str, value: bool | float, dtype: str) -> str | None:
    if name == "nesterov":
        return None if isinstance(value, bool) else "true or false is needed"
    if isinstance(value, bool):
        return "a number is needed"
    if not math.isfinite(value):
        return "a finite number is needed"
    if abs(value) > LARGEST[dtype]:
        return f"{dtype} holds numbers up to {LARGEST[dtype]:.4g}"
    if value < 0 and name in ("lr", "momentum", "weight_decay"):
        return f"{name} must be >= 0"
    return None
