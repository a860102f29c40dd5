"""Messages for invalid sweep files, one line per problem: the key's path, what was given and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import islice
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sweeps.config.types import SECRET
from sweeps.errors import MAX_PROBLEMS
from sweeps.text.sanitize import visible

_MAX_SHOWN = 60  # characters of a key or a value
_TAGGED = ("dataset", "model", "parameters", "final", "validation", "target")  # keys whose values pydantic tags
_MAX_LISTED = 20  # allowed names in a message
_SCHEDULE_TAGS = {"list", "one", "sequential", "constant", "step", "multistep", "exponential", "linear", "cosine"}
_SCHEDULE_TAGS |= {"cosine_restarts", "polynomial", "onecycle"}


def problem_lines(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """Return one line per validation error, at most one more than is reported.

    A list that is too short only because its entries are invalid is not reported; its entries are.

    Args:
        error: the validation error.
        model: the model that was validated; messages about unknown keys list its keys as allowed.
    """
    errors = error.errors(include_url=False)
    inside = {place[:depth] for place in (problem["loc"] for problem in errors) for depth in range(len(place))}
    reported = (problem for problem in errors if problem["type"] != "too_short" or problem["loc"] not in inside)
    return [_line(problem, model) for problem in islice(reported, MAX_PROBLEMS + 1)]


def hint(given: Any, allowed: Sequence[str]) -> str:
    """Return the end of a message about an unknown name: the closest allowed name, or a list of allowed names."""
    close = difflib.get_close_matches(str(given), allowed, n=1)
    return f" (did you mean {close[0]}?)" if close else f"; allowed: {listed(allowed)}"


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - _MAX_LISTED:,} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(visible(name, _MAX_SHOWN) for name in names[:_MAX_LISTED]) + more


def shown(value: Any) -> str:
    """Return a value as the sweep file writes it, cut to a readable length."""
    words = {True: "true", False: "false", None: "nothing"}
    return words[value] if isinstance(value, bool | None) else visible(repr(value), _MAX_SHOWN)


def key(name: Any) -> str:
    """Return a key as part of a path."""
    return visible(str(name), _MAX_SHOWN)


def _line(problem: ErrorDetails, model: type[BaseModel] | None) -> str:
    path, context = _path(problem["loc"]), problem.get("ctx", {})
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key{hint(problem['loc'][-1], _allowed_keys(model, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    if problem["type"] == "union_tag_not_found":
        return f"{path}.kind: missing"
    if problem["type"] == SECRET:
        return f"{path}: {problem['msg']}"
    given = f"given {shown(problem['input'])}"
    if problem["type"] == "union_tag_invalid":
        allowed = context["expected_tags"].replace("'", "")
        return f"{path}.kind: given {shown(context['tag'])}; allowed: {allowed}"
    if problem["type"] == "literal_error":
        allowed = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"{path}: {given}; allowed: {allowed}"
    messages = {
        "greater_than": f"must be > {context.get('gt')}",
        "greater_than_equal": f"must be >= {context.get('ge')}",
        "less_than": f"must be < {context.get('lt')}",
        "less_than_equal": f"must be <= {context.get('le')}",
        "too_short": "must have at least one entry",
        "tuple_type": "must be a list",
        "list_type": "must be a list",
        "too_long": f"at most {context.get('max_length')} entries are allowed",
        "dict_type": "must be a mapping",
        "model_type": "must be a mapping",
        "model_attributes_type": "must be a mapping",
        "finite_number": "must be a finite number",
        "string_type": f"must be text{_quotes(problem['input'])}",
        "bool_type": "must be true or false",
        "string_too_short": "must not be empty",
        "string_too_long": f"at most {context.get('max_length')} characters are allowed",
    }
    prefix = f"{path}: {given}; " if path else ""
    return prefix + messages.get(problem["type"], problem["msg"])


def _quotes(given: Any) -> str:
    """Return what to do about text that YAML reads as something else."""
    if isinstance(given, bool):
        return ": YAML reads yes, no, on, off, true and false in any case as true or false; put the text in quotes"
    return ": put it in quotes" if isinstance(given, int | float) else ""


def _allowed_keys(model: type[BaseModel] | None, location: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the model at a location; the tags of unions and places in lists are parts of it too."""
    found = [model] if model is not None else []
    for part in location:
        owners = [each for each in found if part in each.model_fields]
        tagged = [each for each in found if "kind" in each.model_fields and part in _kinds(each)]
        if owners:
            found = [inner for each in owners for inner in _models(each.model_fields[str(part)].annotation)]
        elif tagged:
            found = tagged
    return list(dict.fromkeys(name for each in found for name in each.model_fields))


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["kind"].annotation)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _path(location: tuple[int | str, ...]) -> str:
    """Return a path such as parameters[1].lr.values[0], without the tags that pydantic adds for unions."""
    path, before = "", None
    for part in location:
        if "schedule" in location[:2] and part in _SCHEDULE_TAGS:
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        elif before not in _TAGGED or part in ("dataset", "model"):
            path += f".{key(part)}" if path else key(part)
        before = part
    return path
