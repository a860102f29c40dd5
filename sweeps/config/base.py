"""The base class of all pydantic models of the sweep file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from sweeps.config.messages import UNKNOWN
from sweeps.config.types import (
    CUSTOM,
    SECRET,
)

if TYPE_CHECKING:
    pass


class Model(BaseModel):
    """A frozen model that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Report unknown keys together with the problems of known ones."""
        if isinstance(given, cls):
            return handler(given)
        if not isinstance(given, dict):
            raise PydanticCustomError(CUSTOM, "must be a mapping")
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
