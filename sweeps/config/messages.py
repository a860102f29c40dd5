"""problem_lines(): what pydantic finds wrong with a sweep file, a line each: path, what was given, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sweeps.config.types import SECRET
from sweeps.errors import MAX_PROBLEMS
from sweeps.text.sanitize import visible

UNKNOWN = "unknown_key"  # a pydantic error type of this package's own
_MAX_SHOWN = 60  # characters of a key or a value
_MAX_LISTED = 20  # of the names that are allowed


def problem_lines(error: ValidationError) -> list[str]:
    """One line an error, and no more than can be told; a list that is too short because its entries are wrong is told
    by its entries.
    """
    errors = error.errors(include_url=False)
    inside = {place[:depth] for place in (problem["loc"] for problem in errors) for depth in range(len(place))}
    told = (problem for problem in errors if problem["type"] != "too_short" or problem["loc"] not in inside)
    return [_line(problem) for problem in islice(told, MAX_PROBLEMS + 1)]


def hint(given: Any, allowed: Sequence[str]) -> str:
    """The allowed name that is meant, or else what is allowed."""
    close = difflib.get_close_matches(str(given), allowed, n=1)
    return f" (did you mean {close[0]}?)" if close else f"; allowed: {listed(allowed)}"


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - _MAX_LISTED:,} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(visible(name, _MAX_SHOWN) for name in names[:_MAX_LISTED]) + more


def shown(value: Any) -> str:
    """A value as the sweep file has it, or its beginning."""
    words = {True: "true", False: "false", None: "nothing"}
    return words[value] if isinstance(value, bool | None) else visible(repr(value), _MAX_SHOWN)


def key(name: Any) -> str:
    """A key as part of a path."""
    return visible(str(name), _MAX_SHOWN)


def _line(problem: ErrorDetails) -> str:
    path, context = _path(problem["loc"]), problem.get("ctx", {})
    if problem["type"] == UNKNOWN:
        return f"{path}: unknown key{hint(problem['loc'][-1], context['allowed'])}"
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
        "too_short": "at least one entry is needed",
        "tuple_type": "a list is needed",
        "list_type": "a list is needed",
        "too_long": f"at most {context.get('max_length')} entries are allowed",
        "dict_type": "a mapping is needed",
        "model_attributes_type": "a mapping is needed",
        "finite_number": "a finite number is needed",
        "string_type": "text is needed",
        "bool_type": "true or false is needed",
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
            path += f".{key(part)}" if path else key(part)
        before = part
    return path
