"""Annotated types for the values of a sweep file, with bounds that also appear in the JSON Schema."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sweeps.text.sanitize import acts

MAX_AXIS = 10_000_000
MAX_COUNT = 1_000_000_000
LARGEST = {"float32": 3.4028234663852886e38, "float64": 1.7976931348623157e308}
# Custom pydantic error types; messages of type SECRET do not show the given value.
CUSTOM, SECRET = "needed", "secret"
_DEVICE = "^(auto|cpu|cuda(:[0-9]{1,3})?)$"
_VARIABLE = r"^\$[A-Za-z_][A-Za-z0-9_]*$"
_MODEL = "^[^/:]{1,200}$"
_POLICY = "^(all|none|top:[1-9][0-9]{0,8})$"


def _group(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", value):
        raise PydanticCustomError(CUSTOM, "must be a name of letters, digits and underscores")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError(CUSTOM, "must be a number")
    if isinstance(value, int) and abs(value) > LARGEST["float64"]:
        raise PydanticCustomError(CUSTOM, "must be a number in the range of float64")
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise PydanticCustomError(CUSTOM, "must be a whole number")
    return int(value)


def _sample(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, bool | int | float):
        raise PydanticCustomError(CUSTOM, "must be a number, true or false")
    return value if isinstance(value, bool) else _number(value)


def _printable(value: str) -> str:
    if not value.strip() or any(map(acts, value)):
        raise PydanticCustomError(CUSTOM, "must be text without control characters, and not blank")
    return value


def _paragraphs(value: str) -> str:
    if any(acts(c) and c not in "\t\n" for c in value):
        raise PydanticCustomError(CUSTOM, "must be text without control characters other than tabs and line breaks")
    return value


def _dotted(value: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", value):
        raise PydanticCustomError(CUSTOM, "must have the form package.module:callable")
    return value


def _device(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(_DEVICE, value):
        return value
    raise PydanticCustomError(CUSTOM, "must be auto, cpu, cuda or cuda:N")


def _policy(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(_POLICY, value):
        return value
    raise PydanticCustomError(CUSTOM, "must be all, none or top:N (the N best trials)")


def _variable(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(_VARIABLE, value):
        return value
    raise PydanticCustomError(
        SECRET,
        "must name the environment variable that holds the URI, such as $MLFLOW_DATABASE; a URI can hold a password",
    )


def _registered(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(_MODEL, value) and value.strip(" .") and not any(map(acts, value)):
        return value
    raise PydanticCustomError(CUSTOM, "must be true, false or a model name without / and :")


# Bounds must precede the validator: only then do they appear in the JSON Schema.
_NUMERIC, _WHOLE = BeforeValidator(_number), BeforeValidator(_integer)
Number = Annotated[float, Field(allow_inf_nan=False), _NUMERIC]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _NUMERIC]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), _NUMERIC]
AtLeastOne = Annotated[float, Field(ge=1, allow_inf_nan=False), _NUMERIC]
Ratio = Annotated[float, Field(ge=1.5, le=1_000, allow_inf_nan=False), _NUMERIC]
Factor = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), _NUMERIC]
Quantile = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), _NUMERIC]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _NUMERIC]
Folds = Annotated[int, Field(ge=2, le=1_000), _WHOLE]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), _NUMERIC]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), _WHOLE]
Size = Annotated[int, Field(ge=1, le=10_000_000), _WHOLE]
Features = Annotated[int, Field(ge=1, le=1_000), _WHOLE]
Degree = Annotated[int, Field(ge=1, le=64), _WHOLE]
Width = Annotated[int, Field(ge=1, le=100_000), _WHOLE]
AxisLength = Annotated[int, Field(ge=1, le=MAX_AXIS), _WHOLE]
Points = Annotated[int, Field(ge=0, le=1_000_000), _WHOLE]
CurvePoints = Annotated[int, Field(ge=2, le=1_000_000), _WHOLE]
Retries = Annotated[int, Field(ge=0, le=1000), _WHOLE]
Decimals = Annotated[int, Field(ge=0, le=15), _WHOLE]
Seed = Annotated[int, Field(ge=0, lt=2**53), _WHOLE]
Flag = Annotated[bool, Field(strict=True)]
# bool, float or None; declared as Any so that pydantic does not convert one into the other
Value = Annotated[Any, BeforeValidator(_sample), WithJsonSchema({"type": ["boolean", "number", "null"]})]
Text = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_printable)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_printable)]
Description = Annotated[str, Field(max_length=5000), AfterValidator(_paragraphs)]
ModulePath = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_dotted)]
Pattern = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_printable)]
GroupName = Annotated[str, Field(min_length=1, max_length=50), AfterValidator(_group)]
Groups = Annotated[
    dict[GroupName, Annotated[tuple[Pattern, ...], Field(min_length=1)]], Field(min_length=1, max_length=16)
]
Device = Annotated[str, BeforeValidator(_device), WithJsonSchema({"type": "string", "pattern": _DEVICE})]
Policy = Annotated[str, BeforeValidator(_policy), WithJsonSchema({"type": "string", "pattern": _POLICY})]
Variable = Annotated[str, BeforeValidator(_variable), WithJsonSchema({"type": "string", "pattern": _VARIABLE})]
# bool or str; declared as Any so that pydantic does not convert one into the other
Registered = Annotated[
    Any,
    BeforeValidator(_registered),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": _MODEL}]}),
]
