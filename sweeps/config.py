"""SweepConfig: the sweep file, validated; a problem is one line: its path, what was given, what is allowed."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from sweeps import yaml
from sweeps.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HYPERPARAMETERS = ("lr", "momentum", "weight_decay", "dampening", "nesterov")
_INIT = re.compile(r"init\.\w+(\.\w+)*")
_MAX_AXIS = 10_000_000
_LARGEST = {"float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}
# pydantic error types of this module's own; what is given in place of a secret is not shown
_CUSTOM, _UNKNOWN, _SECRET = "needed", "unknown_key", "secret"


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError(_CUSTOM, "a number is needed")
    if isinstance(value, int) and abs(value) > _LARGEST["float64"]:
        raise PydanticCustomError(_CUSTOM, "a number that float64 can hold is needed")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise PydanticCustomError(_CUSTOM, "a finite number is needed")
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise PydanticCustomError(_CUSTOM, "a whole number is needed")
    return int(value)


def _sample(value: Any) -> Any:
    if not isinstance(value, bool | int | float):
        raise PydanticCustomError(_CUSTOM, "a number, or true or false, is needed")
    return value if isinstance(value, bool) else _number(value)


def _printable(value: str) -> str:
    if not value.strip() or any(unicodedata.category(c) in ("Cc", "Cs") for c in value):
        raise PydanticCustomError(_CUSTOM, "text without control characters is needed")
    return value


def _dotted(value: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", value):
        raise PydanticCustomError(_CUSTOM, "package.module:callable is needed")
    return value


Number = Annotated[float, BeforeValidator(_number), AfterValidator(_finite)]
Integer = Annotated[int, BeforeValidator(_integer)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[Integer, Field(ge=1)]
Seed = Annotated[Integer, Field(ge=0, lt=2**53)]
Value = Annotated[Any, BeforeValidator(_sample)]  # bool or float; Any, so that pydantic does not mix up the two
Text = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_printable)]
Size = Annotated[Count, Field(le=100_000_000)]


class Model(BaseModel):
    """Frozen, and with no keys but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell of unknown keys together with what is wrong with the known ones."""
        if isinstance(given, cls):
            return handler(given)
        if not isinstance(given, dict):
            raise PydanticCustomError(_CUSTOM, "a mapping is needed")
        unknown = [key for key in given if key not in cls.model_fields]
        if not unknown:
            return handler(given)
        allowed = {"allowed": list(cls.model_fields)}
        details = [
            InitErrorDetails(type=PydanticCustomError(_UNKNOWN, "unknown key", allowed), loc=(key,), input=given[key])
            for key in unknown
        ]
        try:
            handler({key: value for key, value in given.items() if key in cls.model_fields})
        except ValidationError as error:
            details += [_again(problem) for problem in error.errors()]
        raise ValidationError.from_exception_data(cls.__name__, details)


def _again(problem: ErrorDetails) -> InitErrorDetails:
    kind: Any = problem["type"]
    context = problem.get("ctx", {})
    if kind in (_CUSTOM, _UNKNOWN, _SECRET):
        kind = PydanticCustomError(kind, problem["msg"], context)  # type: ignore[arg-type, unused-ignore]
    return InitErrorDetails(type=kind, loc=problem["loc"], input=problem["input"], ctx=context)


class _Data(Model):
    standardize: Literal["none", "features", "all"] = "none"
    validation: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    split_seed: Seed = 0


class LineData(_Data):
    """y = slope x + intercept."""

    kind: Literal["line"]
    slope: Number = 0.8
    intercept: Number = 1.2
    x: Annotated[tuple[Number, ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    noise: Annotated[Number, Field(ge=0)] = 0.0
    seed: Seed = 0


class LinearData(_Data):
    """Random linear data of a given condition number."""

    kind: Literal["linear"]
    n: Size = 100
    d: Annotated[Count, Field(le=10_000)] = 1
    condition: Annotated[Number, Field(ge=1)] = 1.0
    noise: Annotated[Number, Field(ge=0)] = 0.0
    seed: Seed = 0


class PolynomialData(_Data):
    """y = c0 + c1 x + c2 x^2 + ..."""

    kind: Literal["polynomial"]
    coefficients: Annotated[tuple[Number, ...], Field(min_length=1)] = (0, 0, 1)
    n: Size = 50
    low: Number = -1.0
    high: Number = 1.0
    noise: Annotated[Number, Field(ge=0)] = 0.0
    seed: Seed = 0


class SineData(_Data):
    """y = sin(frequency x)."""

    kind: Literal["sine"]
    n: Size = 50
    low: Number = -math.pi
    high: Number = math.pi
    frequency: Number = 1.0
    noise: Annotated[Number, Field(ge=0)] = 0.0
    seed: Seed = 0


class FileData(_Data):
    """A table in a CSV or Parquet file; features: all columns but the target if not named."""

    kind: Literal["csv", "parquet"]
    path: Text
    target: Text
    features: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None


class DiabetesData(_Data):
    """scikit-learn's bundled diabetes data, 442 x 10, unscaled."""

    kind: Literal["diabetes"]


class LinearModel(Model):
    """torch.nn.Linear; ``init`` says where parameters start that no init.* axis sets."""

    kind: Literal["linear"]
    bias: bool = True
    init: Literal["torch", "zeros"] = "torch"


class PolynomialModel(Model):
    """A polynomial in one input."""

    kind: Literal["polynomial"]
    degree: Annotated[Count, Field(le=64)] = 2
    bias: bool = True
    init: Literal["torch", "zeros"] = "torch"


class MlpModel(Model):
    """A multi-layer perceptron: Linear layers of these widths with an activation between, torch's initialisation."""

    kind: Literal["mlp"]
    hidden: Annotated[tuple[Annotated[Count, Field(le=100_000)], ...], Field(min_length=1)] = (32,)
    activation: Literal["relu", "tanh", "sigmoid", "gelu", "silu"] = "relu"
    init: Literal["torch"] = "torch"


class ModuleModel(Model):
    """Any torch.nn.Module: ``module`` is package.module:callable, called with ``arguments``, returning a fresh one."""

    kind: Literal["module"]
    module: Annotated[Text, AfterValidator(_dotted)]
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


def _device(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        return value
    raise PydanticCustomError(_CUSTOM, "auto, cpu, cuda or cuda:N is needed")


class TrainingConfig(Model):
    """How every trial is trained; ``compile`` is for networks: torch.compile makes their steps."""

    epochs: Annotated[Count, Field(le=1_000_000_000)]
    batch_size: Count = 1
    order: Literal["sequential", "shuffled"] = "sequential"
    dtype: Literal["float32", "float64"] = "float32"
    device: Annotated[str, BeforeValidator(_device)] = "auto"
    compile: bool = False


class Axis(Model):
    """One parameter's values: ``value``, ``values``, or ``min``/``max``/``count`` with a ``scale``."""

    value: Value | None = None
    values: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    min: Number | None = None
    max: Number | None = None
    count: Annotated[Count, Field(le=_MAX_AXIS)] | None = None
    scale: Literal["linear", "log"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Axis:
        given = self.model_fields_set
        if given in ({"value"}, {"values"}):
            return self
        if not ({"min", "max", "count"} <= given <= {"min", "max", "count", "scale"}):
            raise PydanticCustomError(_CUSTOM, "value, values, or min with max and count (and scale) is needed")
        assert self.min is not None
        assert self.max is not None
        if self.min > self.max:
            raise PydanticCustomError(_CUSTOM, "min must not be above max")
        if self.scale == "log" and self.min <= 0:
            raise PydanticCustomError(_CUSTOM, "a log scale needs min > 0")
        if not math.isfinite(self.max - self.min):
            raise PydanticCustomError(_CUSTOM, "a range whose width float64 can hold is needed")
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

    points: Annotated[Integer, Field(ge=0, le=1_000_000)] = 64
    spacing: Literal["log", "linear", "all"] = "log"


class VerdictConfig(Model):
    """The thresholds of the verdicts (sgdcore.verdict)."""

    rtol: Positive = 1e-3
    atol: Annotated[Number, Field(ge=0)] = 1e-12
    diverged_factor: Positive = 1e6
    stalled_below: Annotated[Number, Field(ge=0)] = 0.01


def _policy(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"all|none|top:[1-9]\d{0,8}", value):
        return value
    raise PydanticCustomError(_CUSTOM, "all, none or top:N (the N best) is needed")


def _variable(value: Any) -> Any:
    if value is None or (isinstance(value, str) and re.fullmatch(r"\$[A-Za-z_]\w*", value)):
        return value
    raise PydanticCustomError(
        _SECRET,
        "the URI's environment variable is needed, such as $MLFLOW_DATABASE: sweep files are kept, passwords not",
    )


WriterName = Literal["auto", "bulk", "client"]


class TrackingConfig(Model):
    """What goes to MLflow: which trials become runs of their own, by which writer, with how many points a curve.

    ``database`` names the environment variable that holds the URI of the tracking server's database, as $NAME.
    """

    trials: Annotated[str, BeforeValidator(_policy)] = "all"
    writer: WriterName = "auto"
    points: Annotated[Integer, Field(ge=2, le=1_000_000)] | None = None
    database: Annotated[str | None, BeforeValidator(_variable)] = None


class ExecutionConfig(Model):
    """How trials are packed: ``trials_per_shard`` is chosen for about a second of work a shard if left out.

    A shard whose worker process dies is run again ``max_retries`` times, then given up. One that raises is not.
    """

    trials_per_shard: Count | None = None
    max_retries: Annotated[Integer, Field(ge=0, le=1000)] = 3


class Expected(Model):
    """A figure to hold the outcome against, shown beside it: published parameters, or torch.optim.SGD's own."""

    case: Text
    where: Annotated[dict[str, Value], Field(min_length=1)]
    final: Final
    decimals: Annotated[Integer, Field(ge=0, le=15)] = 4


class SweepConfig(Model):
    """The whole sweep file."""

    name: Annotated[Text, Field(max_length=200)]
    description: Annotated[str, Field(max_length=5000)] = ""
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

    def mappings(self) -> list[Parameters]:
        """The parameters' mappings: the sweep is the union of their products."""
        return self.parameters if isinstance(self.parameters, list) else [self.parameters]

    def to_yaml(self) -> str:
        """The resolved file: every key that is not left to its default, in the schema's order."""
        return yaml.write(self.model_dump(mode="json", exclude_unset=True))


def load(path: Path, overrides: list[str] | None = None) -> SweepConfig:
    """Read and validate a sweep file; ``overrides`` are KEY=VALUE with dotted keys and YAML values.

    A data file's relative path is taken from the sweep file's folder.

    Raises:
        ConfigError: with one line a problem.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), ["not a text file in UTF-8"]) from error
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    document = yaml.read(text, str(path))
    if not isinstance(document, dict):
        raise ConfigError(str(path), ["a mapping with the keys of a sweep is needed"])
    for override in overrides or []:
        _override(document, override)
    return parse(document, str(path), path.parent)


def parse(document: Any, where: str, folder: Path = Path()) -> SweepConfig:
    """Validate a document that was read from ``where``."""
    try:
        config = SweepConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(where, _problems(error)) from error
    problems = [p for i, m in enumerate(config.mappings()) for p in _parameter_problems(config, i, m)]
    if problems:
        raise ConfigError(where, problems)
    dataset = config.task.dataset
    if isinstance(dataset, FileData):
        absolute = dataset.model_copy(update={"path": str((folder / dataset.path).resolve())})
        config = config.model_copy(update={"task": config.task.model_copy(update={"dataset": absolute})})
    return config


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError("--set", [f"{override!r}: KEY=VALUE is needed, such as training.epochs=5"])
    *parents, last = _segments(key)
    node: Any = document
    for parent in parents:
        if isinstance(node, list) and parent.isdigit() and int(parent) < len(node):
            node = node[int(parent)]
        elif isinstance(node, dict):
            node = node.setdefault(parent, {})
        else:
            raise ConfigError("--set", [f"{key}: {parent!r} is not a key of a mapping or list"])
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = yaml.read(value, "--set")
    elif isinstance(node, dict):
        node[last] = yaml.read(value, "--set")
    else:
        raise ConfigError("--set", [f"{key}: {last!r} is not a key of a mapping or list"])


def _segments(key: str) -> list[str]:
    """Split a dotted key; an axis such as init.weight.0 is one segment."""
    match = re.search(r"(?:^|\.)init\.\w+(\.\w+)*?(?=\.(values?|min|max|count|scale)(\.|$)|$)", key)
    if not match:
        return key.split(".")
    before, after = key[: match.start()], key[match.end() :]
    return [
        *(before.split(".") if before else []),
        match.group().lstrip("."),
        *(after[1:].split(".") if after else []),
    ]


def _parameter_problems(config: SweepConfig, index: int, mapping: Parameters) -> list[str]:
    path = f"parameters[{index}]" if isinstance(config.parameters, list) else "parameters"
    problems = []
    for name, axis in mapping.items():
        if name not in HYPERPARAMETERS and not _INIT.fullmatch(name):
            allowed = [*HYPERPARAMETERS, "init.weight", "init.bias"]
            problems.append(f"{path}.{name}: unknown parameter{_hint(name, allowed)}")
            continue
        for i, value in enumerate(axis.named()):
            if problem := _value_problem(name, value, config.training.dtype):
                place = f"values[{i}]" if axis.values else "value" if axis.value is not None else ("min", "max")[i]
                problems.append(f"{path}.{name}.{place}: given {_show(value)}; {problem}")
                break
    return problems


def _value_problem(name: str, value: bool | float, dtype: str) -> str | None:
    if name == "nesterov":
        return None if isinstance(value, bool) else "true or false is needed"
    if isinstance(value, bool):
        return "a number is needed"
    if not math.isfinite(value):
        return "a finite number is needed"
    if abs(value) > _LARGEST[dtype]:
        return f"{dtype} holds numbers up to {_LARGEST[dtype]:.4g}"
    if value < 0 and name in ("lr", "momentum", "weight_decay"):
        return f"{name} must be >= 0"
    return None


def _problems(error: ValidationError) -> list[str]:
    """One line an error; a list that is too short because its entries are wrong is told by its entries."""
    errors = error.errors()
    places = [problem["loc"] for problem in errors]
    return [
        _line(problem)
        for problem in errors
        if problem["type"] != "too_short"
        or not any(len(p) > len(q := problem["loc"]) and p[: len(q)] == q for p in places)
    ]


def _line(problem: ErrorDetails) -> str:
    path, context = _path(problem["loc"]), problem.get("ctx", {})
    if problem["type"] == _UNKNOWN:
        return f"{path}: unknown key{_hint(problem['loc'][-1], context['allowed'])}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    if problem["type"] == "union_tag_not_found":
        return f"{path}.kind: missing"
    if problem["type"] == _SECRET:
        return f"{path}: {problem['msg']}"
    given = f"given {_show(problem['input'])}"
    if problem["type"] == "union_tag_invalid":
        allowed = context["expected_tags"].replace("'", "")
        return f"{path}.kind: given {_show(context['tag'])}; allowed: {allowed}"
    if problem["type"] == "literal_error":
        allowed = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"{path}: {given}; allowed: {allowed}"
    messages = {
        "greater_than": f"must be > {context.get('gt')}",
        "greater_than_equal": f"must be >= {context.get('ge')}",
        "less_than": f"must be < {context.get('lt')}",
        "less_than_equal": f"must be <= {context.get('le')}",
        "too_short": "at least one entry is needed",
        "tuple_type": "a list is needed",
        "list_type": "a list is needed",
        "dict_type": "a mapping is needed",
        "string_type": "text is needed",
        "bool_type": "true or false is needed",
        "bool_parsing": "true or false is needed",
        "string_too_short": "text that is not empty is needed",
        "string_too_long": f"at most {context.get('max_length')} characters are allowed",
    }
    prefix = f"{path}: {given}; " if path else ""
    return prefix + messages.get(problem["type"], problem["msg"])


def _path(location: tuple[int | str, ...]) -> str:
    """parameters[1].lr.values[0], without the tags that pydantic puts behind a union's key."""
    path, before = "", None
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif before not in ("dataset", "model", "parameters", "final") or part in ("dataset", "model"):
            path += f".{part}" if path else part
        before = part
    return path


def _hint(key: Any, allowed: list[str]) -> str:
    close = difflib.get_close_matches(str(key), allowed, n=1)
    return f" (did you mean {close[0]}?)" if close else f"; allowed: {', '.join(allowed)}"


def _show(value: Any) -> str:
    words = {True: "true", False: "false", None: "nothing"}
    text = words[value] if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
